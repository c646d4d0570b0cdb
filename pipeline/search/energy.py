"""An energy budget is a limit of latency too: what a board draws does not depend on the network. No torch here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.boards import Board
from pipeline.boards.power import why_unknown
from pipeline.errors import ConfigError
from pipeline.search.costs import CostModel
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

# the latency limit lies above the energy's by this part, so that the latter is the one that is named
_ABOVE = 1e-9


def with_energy(budgets: Budgets, cost: CostModel, space: SearchSpace | CellSpace) -> Budgets:
    """`budgets`, with the latency that the energy budget leaves: what guides a search, whatever its method.

    Energy itself stays a budget of its own. Raises ConfigError for a board whose current is not known.
    """
    if budgets.energy_mj is None:
        return budgets
    seen = cost.evaluate(lower(space.random(np.random.default_rng(0))), 0)
    if seen.energy_mj is None:
        raise unknown_current(getattr(cost, "board", None))
    limit = (1.0 + _ABOVE) * budgets.energy_mj * seen.latency_ms / seen.energy_mj
    return replace(
        budgets, latency_ms=limit if budgets.latency_ms is None else min(limit, budgets.latency_ms)
    )


def unknown_current(board: Board | None) -> ConfigError:
    """The error of an energy budget on a board without a current at its clock."""
    what, hint = (
        why_unknown(board.name, board.clock_hz, board.power) if board else why_unknown("this board", 0, None)
    )
    return ConfigError(f"{what}, so no energy budget can be held", hint=hint)
