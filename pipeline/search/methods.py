"""The registry of search methods: a name in a run file, a function with one signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostModel, CostTables, build_tables
from pipeline.search.data import SearchData
from pipeline.search.energy import with_energy
from pipeline.search.result import SearchResult
from pipeline.search.targets import Target
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace

# Called with {"phase", "done", "total", ...}: done and total count over the whole search; during the phase
# "search" the record of the step (see SearchResult.history) comes along.
OnStep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Everything that a method gets."""

    space: SearchSpace
    data: SearchData
    cost: CostModel
    tables: CostTables
    budgets: Budgets
    config: SearchConfig
    seed: int
    checkpoint: Path | None
    on_step: OnStep | None
    device: Any = "cpu"  # a torch.device; torch is imported late here
    targets: tuple[Target, ...] = ()  # the run's board, then others, for methods that serve several

    @classmethod
    def prepare(
        cls,
        space: SearchSpace,
        data: SearchData,
        cost: CostModel,
        budgets: Budgets,
        config: SearchConfig,
        seed: int,
        checkpoint: Path | None,
        on_step: OnStep | None,
        targets: Sequence[Target] = (),
    ) -> Task:
        """`targets`: the run's board (with `cost`, `budgets`) and others; none: that board alone."""
        from pipeline.search import device

        where = device.choose(config.device)
        budgets = with_energy(budgets, cost, space)
        targets = [replace(t, budgets=with_energy(t.budgets, t.cost, space)) for t in targets]
        tables = build_tables(space, cost)
        if config.latency == "predictor":
            predictor = getattr(cost, "predictor", None)
            if predictor is None:
                raise ConfigError(
                    "search.latency is 'predictor', and the cost model has none",
                    hint="set its `predictor` (pipeline.fit.obtain_predictor)",
                )
            tables = replace(tables, predictor=predictor)
        data = device.resident(data, where)
        boards = tuple(targets) or (Target("", cost, budgets),)
        return cls(space, data, cost, tables, budgets, config, seed, checkpoint, on_step, where, boards)

    def rng(self, phase: int, step: int = 0) -> np.random.Generator:
        """The random stream of one step: a function of seed, phase and step, so resuming needs no state."""
        return np.random.default_rng([self.seed, phase, step])

    def report(self, phase: str, done: int, total: int, record: dict[str, float] | None = None) -> None:
        if self.on_step is not None:
            self.on_step({"phase": phase, "done": done, "total": total, **(record or {})})


Method = Callable[[Task], SearchResult]
_METHODS: dict[str, Method] = {}


def register(name: str) -> Callable[[Method], Method]:
    """Decorator: make a function available as search method `name`."""

    def add(method: Method) -> Method:
        _METHODS[name] = method
        return method

    return add


def find(name: str) -> Method:
    """Raises ConfigError for an unknown name."""
    _load()
    if name not in _METHODS:
        raise ConfigError(f"unknown search method {name!r}", hint=f"known: {', '.join(names())}")
    return _METHODS[name]


def names() -> list[str]:
    _load()
    return sorted(_METHODS)


def _load() -> None:
    """Import the modules that register methods; late, because they need torch."""
    from pipeline.search import edgenas, evolution, hwdarts, hypersearch, mobilenet, random_search  # noqa: F401
