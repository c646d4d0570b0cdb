"""Where numbers that are not finite come from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.train.network import QatNetwork


@torch.no_grad()
def first_nonfinite(network: nn.Module, x: Tensor) -> str:
    """The first layer whose weights or output on the batch `x` are not finite; "" where there is none.

    The network runs in the mode that it is in, so its batch statistics and ranges move on.
    """
    if not bool(torch.isfinite(x).all()):
        return "the input"
    found: list[str] = []

    def look(name: str, *values: Any) -> None:
        if not found and not all(_finite(value) for value in values):
            found.append(name)

    if isinstance(network, QatNetwork):
        network.watch = look
        try:
            network(x)
        finally:
            network.watch = None
        return found[0] if found else ""
    hooks = [
        module.register_forward_hook(lambda m, inputs, y, name=name: look(name, y, *m.parameters()))
        for name, module in network.named_modules()
        if not any(module.children())
    ]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def all_finite(network: nn.Module) -> bool:
    """Whether every weight and buffer of `network` is a finite number."""
    return all(_finite(value) for value in network.state_dict().values())


def diverged(network: nn.Module, x: Tensor, what: str, loss: float, rate_name: str) -> ConfigError:
    """The error of a training step that cannot be taken, with the layer that is to blame."""
    where = first_nonfinite(network, x) or "the loss itself"
    return ConfigError(
        f"training diverged in {what}: the loss is {loss}; first in {where}",
        hint=f"lower {rate_name}; the last good checkpoint is kept",
    )


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(torch.isfinite(value).all())
