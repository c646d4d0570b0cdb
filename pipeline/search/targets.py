"""The boards of one search, and what a hypernetwork is told of each. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.search.cell_costs import CellTables
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
    return _features(clock_hz, chosen.mean((0, 2)), chosen[:, :, 0].mean(0), chosen[:, :, -1].mean(0))


def cell_features(tables: CellTables, clock_hz: float) -> Floats:
    """`board_features` of a space of cells: latencies in the last cell over the first one's instead of wide over
    narrow."""
    entries = tables.latency_ms  # [edge of all cells, operator]
    each = tables.space.edges
    return _features(clock_hz, entries.mean(0), entries[:each].mean(0), entries[-each:].mean(0))


def _features(clock_hz: float, mean: Floats, first: Floats, last: Floats) -> Floats:
    """From latencies (ms) by operator."""
    small = 1e-3 * float(mean.mean())  # a skip may cost nothing
    by_operator = np.log(mean + small)
    slope = np.log(last + small) - np.log(first + small)
    head = [math.log(clock_hz / 1e8) if clock_hz > 0 else 0.0, math.log(float(mean.mean()))]
    return np.concatenate([head, by_operator - by_operator.mean(), slope - slope.mean()])
