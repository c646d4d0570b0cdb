"""Architecture search under hard budgets.

Importing this package, its results and settings needs no torch; running a search does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostModel
from pipeline.search.data import SearchData, check_data
from pipeline.search.methods import OnStep, Task, find, names
from pipeline.search.request import Request, complexity_of
from pipeline.search.result import Candidate, Front, SearchResult
from pipeline.search.settings import check_settings, check_yields_family
from pipeline.search.targets import Target, one_board
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

__all__ = [
    "Candidate", "Front", "Request", "SearchConfig", "SearchResult", "Target", "ask_family", "complexity_of", "names",
    "search", "search_for",
]  # fmt: skip


def search(
    space: SearchSpace | CellSpace,
    data: SearchData,
    cost: CostModel,
    budgets: Budgets,
    config: SearchConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> SearchResult:
    """`search_for` one board, with the cost model `cost` and `budgets`."""
    targets = one_board(cost, budgets)
    return search_for(space, data, targets, config, seed=seed, checkpoint=checkpoint, on_step=on_step)


def search_for(
    space: SearchSpace | CellSpace,
    data: SearchData,
    targets: Sequence[Target],
    config: SearchConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> SearchResult:
    """Find the most accurate architecture of `space` that meets every budget.

    `data` has uint8 NHWC images and labels (x_train, y_train, x_val, y_val; the test split is never looked
    at). `targets` are the run's board and further ones, each with its cost model and budgets, for a method that
    serves several; the others take the first. The outcome depends on the arguments and `seed` alone (and, in the
    last bits of floating point, on the thread count). `checkpoint` names a file that is rewritten every
    `config.checkpoint_seconds`; a search with the same arguments continues from it exactly, one with
    others raises ConfigError. `on_step` gets {"phase", "done", "total", ...} after every step.

    Raises ConfigError for an unknown method, a setting that it does not read, a device that is not there, a
    checkpoint of another search and a search that diverges (its last good checkpoint is kept), DataError for data
    that does not fit the space or of which one split lacks a class, LutError where a cost model knows nothing of an
    operator of the space. An impossible budget is no error: the result says which (`feasible` false, `reason`).
    """
    if isinstance(space, CellSpace):
        with _cells(space, data, targets, config, seed, checkpoint, on_step) as cells:
            return cells.run()
    method = find(config.method)
    with _prepared(space, data, targets, config, seed, checkpoint, on_step) as task:
        return method(task)


def ask_family(
    space: SearchSpace | CellSpace,
    data: SearchData,
    targets: Sequence[Target],
    config: SearchConfig,
    request: Request,
    *,
    seed: int,
    checkpoint: Path,
    on_step: OnStep | None = None,
) -> SearchResult:
    """Architectures for another board, limit or S from a finished hypernetwork search: no new training of it.

    All but `request` as the search was given it: they identify its `checkpoint`, which stays as it is. Raises
    ConfigError for another method, where there is none or the search is not finished, and as `search_for` does.
    """
    check_yields_family(config)
    if isinstance(space, CellSpace):
        with _cells(space, data, targets, config, seed, checkpoint, on_step) as cells:
            return cells.ask(request)
    from pipeline.search.hypersearch import HyperSearch

    with _prepared(space, data, targets, config, seed, checkpoint, on_step) as task:
        return HyperSearch(task).ask(request)


@contextmanager
def _cells(
    space: CellSpace,
    data: SearchData,
    targets: Sequence[Target],
    config: SearchConfig,
    seed: int,
    checkpoint: Path | None,
    on_step: OnStep | None,
) -> Iterator[Any]:
    """A search of cells, computing as `config` asks for while it is worked on."""
    from pipeline.search import device
    from pipeline.search.cell_baselines import CellEvolution, CellRandom
    from pipeline.search.cell_hwdarts import CellHwDarts
    from pipeline.search.cell_hypersearch import CellHyperSearch

    check_settings(config, [config.method], cells=True)
    check_data(data, space)
    methods = {
        "hypernetwork": CellHyperSearch,
        "hwdarts": CellHwDarts,
        "random": CellRandom,
        "evolution": CellEvolution,
    }
    with device.computing(config) as where:
        resident = device.resident(data, where)
        yield methods[config.method](
            space, resident, tuple(targets), config, seed, checkpoint, on_step, where
        )


@contextmanager
def _prepared(
    space: SearchSpace,
    data: SearchData,
    targets: Sequence[Target],
    config: SearchConfig,
    seed: int,
    checkpoint: Path | None,
    on_step: OnStep | None,
) -> Iterator[Task]:
    """A task, computing as `config` asks for while it is worked on."""
    from pipeline.search.device import computing

    check_settings(config, [config.method])
    if config.exits.search and not space.exits:
        raise ConfigError(
            "search.exits.search: the space has no early exits",
            hint="list the blocks after which they may stand: [space] exits",
        )
    check_data(data, space)
    with computing(config):
        yield Task.prepare(space, data, targets, config, seed, checkpoint, on_step)
