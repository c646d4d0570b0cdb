"""The boards of one search, and what a hypernetwork is told of each. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.search.costs import CostModel, CostTables, Floats
from pipeline.space.budgets import Budgets


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A board with its costs and the budgets that hold there; `clock_hz` 0 where it has none to tell."""

    name: str
    cost: CostModel
    budgets: Budgets
    clock_hz: float = 0.0


def one_board(cost: CostModel, budgets: Budgets) -> tuple[Target]:
    """The targets of a search for one board, whose name and clock no outcome rests on."""
    return (Target("", cost, budgets),)


def board_features(tables: CostTables, clock_hz: float) -> Floats:
    """A board as numbers, from its clock and its table alone, so that a board never trained for has them too.

    First the logarithms of the clock (in 100 MHz) and of the mean latency of a choice (ms); then, per operator
    of the space, the logarithm of its mean latency, and that of its widest over its narrowest output, both
    relative to the board's mean over operators: which operators are dear here, apart from the board's speed.
    """
    entries = tables.latency_ms  # [block, width in, operator, width out], 0 where unreachable
    reachable = entries.any((2, 3))
    chosen = entries[reachable]  # [case, operator, width out]
    small = 1e-3 * float(chosen.mean())  # a skip may cost nothing
    by_operator = np.log(chosen.mean((0, 2)) + small)
    slope = np.log(chosen[:, :, -1].mean(0) + small) - np.log(chosen[:, :, 0].mean(0) + small)
    head = [math.log(clock_hz / 1e8) if clock_hz > 0 else 0.0, math.log(float(chosen.mean()))]
    return np.concatenate([head, by_operator - by_operator.mean(), slope - slope.mean()])
