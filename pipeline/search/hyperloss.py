"""The part of a hypernetwork's loss that needs no images: what S and budgets ask for, in any space.

kappa LAT / T + simplex_weight sum_m (k S_m) share_m + budgets - entropy_weight t H
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pipeline.search.conditions import CONDITIONED, Condition
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.relaxation import Expected
from pipeline.space.budgets import Budgets


class Distribution(Protocol):
    """Independent choices between operators, with logits from a hypernetwork."""

    def shares(self) -> Tensor:
        """Mean chance of each operator, differentiable; they sum to 1."""

    def undecided(self) -> Tensor:
        """Mean entropy of a decision (nats), differentiable."""


def regularizer(
    hyper: HyperConfig,
    condition: Condition,
    chances: Distribution,
    expected: Expected,
    longest_ms: float,
    temperature: float,
) -> Tensor:
    """All of the loss but the cross entropy; `longest_ms` is T, the end of the board's range."""
    latency = hyper.kappa * expected.latency_ms / longest_ms
    penalties = torch.tensor(condition.complexity) * len(condition.complexity)
    simplex = hyper.simplex_weight * (penalties * chances.shares()).sum()
    excess = hyper.condition_weight * excess_over(expected, condition.budgets)
    unused = hyper.spend_weight * unused_latency(expected, condition.budgets)
    # Without it every condition has settled on one architecture before the conditions are told apart.
    openness = hyper.entropy_weight * temperature * chances.undecided()
    return latency + simplex + excess + unused - openness


def excess_over(expected: Expected, budgets: Budgets) -> Tensor:
    """Sum of max(0, log(expected / limit))^2 over the budgets that are set.

    The logarithm, since conditions ask for as little as a hundredth of what an undecided architecture costs: with
    the relative excess those steps' gradients are thousands of times all others, and Adam's scale is theirs.
    """
    total = torch.zeros(())
    for name in (*CONDITIONED, "parameters"):
        limit = getattr(budgets, name)
        if limit is not None:
            over = torch.clamp((getattr(expected, name) / limit).log(), min=0.0)
            total = total + over * over
    return total


def unused_latency(expected: Expected, budgets: Budgets) -> Tensor:
    """max(0, log(limit / expected))^2 of latency: with few steps the cross entropy favours small architectures,
    and nothing else would tell a generous deadline from a tight one."""
    if budgets.latency_ms is None:
        return torch.zeros(())
    under = torch.clamp((budgets.latency_ms / expected.latency_ms).log(), min=0.0)
    return under * under
