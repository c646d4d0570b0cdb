"""Averaged weights, and batch statistics counted again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.train.batches import Batches

_RUNNING = ("running_mean", "running_var")


class Average:
    """Exponential moving average of a network's weights and batch statistics.

    What is neither (counters, activation ranges) is the network's own. The decay starts low, so that the
    first, random weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: value.clone() for name, value in _averaged(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = _averaged(network)
        torch._foreach_lerp_(list(self.values.values()), [now[name] for name in self.values], 1.0 - decay)

    @torch.no_grad()
    def store(self, network: nn.Module) -> None:
        """Give the averaged weights to `network`."""
        for name, value in _averaged(network).items():
            value.copy_(self.values[name])

    @contextmanager
    def swapped_in(self, network: nn.Module) -> Iterator[None]:
        """The network has the averaged weights inside this context, and its own again afterwards."""
        own = {name: value.clone() for name, value in _averaged(network).items()}
        self.store(network)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in _averaged(network).items():
                    value.copy_(own[name])


def _averaged(network: nn.Module) -> dict[str, Tensor]:
    """Weights and batch statistics by name, sharing the network's memory."""
    found = {name: parameter.detach() for name, parameter in network.named_parameters()}
    running = {name: b for name, b in network.named_buffers() if name.rpartition(".")[2] in _RUNNING}
    return found | running


@torch.no_grad()
def recalibrate_norms(network: nn.Module, batches: Batches, count: int) -> None:
    """Running statistics anew, as the mean over `count` batches that are not augmented.

    Those of training lag behind the weights, and belong to augmented images.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms or count < 1:
        return
    was_training, momenta = network.training, [norm.momentum for norm in norms]
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a plain mean over the batches
    for index in range(min(count, batches.per_epoch)):
        network(batches.plain(index))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
