"""Scores of an untrained architecture, from its shape or one batch of images: more is better.

They cost one or two passes where a training costs thousands, and rank worse
(`benchmarks/rank_correlation.py` says by how much on this space).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.search.candidates import ExactPath
from pipeline.search.proxyconfig import ProxyConfig
from pipeline.search.ranking import ranks
from pipeline.search.supernet import Affine, Path, Supernet
from pipeline.space.architecture import Architecture, lower
from pipeline.space.architecture import parameters as stored_parameters

Batch = tuple[Tensor, Tensor]
Proxy = Callable[[Supernet, Path, Batch], float]

# Small enough for the product of all layers to stay below the 6 at which ReLU6 clips.
_SYNFLOW_INPUT = 1e-60


def architecture_of(net: Supernet, path: Path) -> Architecture:
    """The architecture that `path` names in the net's space."""
    space = net.space
    return space.build([(space.ops[op], space.channels[width]) for op, width in path])


def parameters(net: Supernet, path: Path, batch: Batch) -> float:
    """Weights and biases: the plainest proxy, and hard to beat (White et al. 2022)."""
    return float(stored_parameters(architecture_of(net, path)))


def macs(net: Supernet, path: Path, batch: Batch) -> float:
    """Multiply-accumulates of one inference."""
    return float(lower(architecture_of(net, path)).macs)


def gradient_norm(net: Supernet, path: Path, batch: Batch) -> float:
    """Euclidean norm of the loss' gradient in all weights, on one batch (Abdelfattah et al. 2021)."""
    used = list(net.parameters())
    loss = F.cross_entropy(net(batch[0], path), batch[1])
    gradients = torch.autograd.grad(loss, used, allow_unused=True)
    return math.sqrt(_total(g.square().sum() for g in gradients if g is not None))


def synflow(net: Supernet, path: Path, batch: Batch) -> float:
    """Logarithm of the synaptic flow, sum of |w dR/dw| (Tanaka et al. 2020): no data, no normalization.

    R is the sum of the outputs for an image of ones when every weight is replaced by its absolute value.
    That network is linear but for the squeeze's gates, so a tiny input in double precision gives the same
    sum but for a known factor, without reaching the 6 of ReLU6.
    """
    linear = copy.deepcopy(net).double()
    hooks = [
        module.register_forward_hook(lambda _module, given, _out: given[0])
        for module in linear.modules()
        if isinstance(module, Affine)
    ]
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.abs_()
    weights = [p for p in linear.parameters() if p.ndim > 1]
    shape, device = (1, *batch[0].shape[1:]), batch[0].device
    ones = torch.full(shape, _SYNFLOW_INPUT, dtype=torch.float64, device=device)
    gradients = torch.autograd.grad(linear(ones, path).sum(), weights, allow_unused=True)
    for hook in hooks:
        hook.remove()
    total = _total(
        (w.detach() * g).abs().sum() for w, g in zip(weights, gradients, strict=True) if g is not None
    )
    return math.log(total) - math.log(_SYNFLOW_INPUT) if total > 0 else -math.inf


def _total(parts: Iterable[Tensor]) -> float:
    """Sum of scalars in double precision; a GPU is waited for once."""
    found: list[float] = torch.stack(list(parts)).tolist()
    return sum(found)


def naswot(net: Supernet, path: Path, batch: Batch) -> float:
    """Log-determinant of how alike the images' patterns of active units are (Mellor et al. 2021).

    Two images count as alike in as many units as are on for both or off for both; an architecture that
    tells the images of a batch apart before any training has a large determinant.
    """
    with torch.no_grad(), _ActiveUnits() as units:
        net(batch[0], path)
    if units.kernel is None:
        return -math.inf
    sign, logarithm = torch.linalg.slogdet(units.kernel.cpu())  # small; a GPU would need further libraries
    return float(logarithm) if sign > 0 else -math.inf


class _ActiveUnits(TorchFunctionMode):
    """Adds up, over every ReLU6 that runs inside, in how many units each two images agree."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is F.relu6:
            on = (out > 0).flatten(1).double()
            alike = on @ on.T + (1 - on) @ (1 - on).T
            self.kernel = alike if self.kernel is None else self.kernel + alike
        return out


PROXIES: dict[str, Proxy] = {
    "parameters": parameters,
    "macs": macs,
    "gradient_norm": gradient_norm,
    "synflow": synflow,
    "naswot": naswot,
}


def score(names: Sequence[str], net: Supernet, path: Path, batch: Batch) -> dict[str, float]:
    """Each named proxy of `path` in an untrained `net`. Raises ConfigError for an unknown name."""
    ProxyConfig(tuple(names))
    return {name: PROXIES[name](net, path, batch) for name in names}


def shortlist(
    paths: Sequence[ExactPath],
    wanted: int,
    names: Sequence[str],
    net: Supernet,
    batch: Batch,
    record: dict[ExactPath, dict[str, float]] | None = None,
) -> list[ExactPath]:
    """The `wanted` paths with the best mean rank over the named proxies, best first.

    Ranks, because the proxies' scales have nothing in common. Ties keep the order given. `record` takes up every
    path's scores that were computed.
    """
    scores = [score(names, net, path, batch) for path in paths]
    if not scores or not names:
        return list(paths[:wanted])
    if record is not None:
        record.update(zip(paths, scores, strict=True))
    mean = np.mean([ranks([s[name] for s in scores]) for name in names], axis=0)
    return [paths[i] for i in np.argsort(-mean, kind="stable")[:wanted]]
