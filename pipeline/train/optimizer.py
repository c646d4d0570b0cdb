"""The optimizer and the learning rate of every training here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline.train.config import TrainConfig

_FACTOR = "factor"  # of a group's learning rate
_WARM_UP = 0.2  # share of float training in which the learning rate rises


def sgd(network: nn.Module, config: TrainConfig, heads: Sequence[nn.Parameter] = ()) -> torch.optim.SGD:
    """SGD with weight decay on weights only, not on biases or normalization.

    `heads` are the parameters of early exits. Their losses count `config.exit_weight`, by which the layers before them
    learn; a head itself learns as if its loss counted in full, as the final classifier does.
    """
    known = {id(p) for p in heads}
    groups: list[dict[str, Any]] = []
    for share, factor in (
        ([p for p in network.parameters() if id(p) not in known], 1.0),
        (heads, 1.0 / config.exit_weight),
    ):
        decayed = [p for p in share if p.ndim > 1]
        others = [p for p in share if p.ndim <= 1]
        if share:
            decay = config.weight_decay / factor  # which times the rate is the same for all
            groups.append({"params": decayed, "weight_decay": decay, _FACTOR: factor})
            groups.append({"params": others, _FACTOR: factor})
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.momentum > 0)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)  # states of earlier versions have none


def cosine(start: float, done: float) -> float:
    """From `start` to 0; `done` is the share of the steps that are done."""
    return start * 0.5 * (1.0 + math.cos(math.pi * done))


def one_cycle(peak: float, done: float) -> float:
    """A linear rise to `peak`, then a cosine to 0; `done` is the share of the steps that are done."""
    if done < _WARM_UP:
        return peak * (0.04 + 0.96 * done / _WARM_UP)
    return cosine(peak, (done - _WARM_UP) / (1.0 - _WARM_UP))
