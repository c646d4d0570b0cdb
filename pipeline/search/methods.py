"""The registry of search methods: a name in a run file, a function with one signature."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.latency.predictor import LatencyPredictor
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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sitting:
    """What a search is told beside its space and its boards."""

    data: SearchData
    config: SearchConfig
    seed: int
    checkpoint: Path | None
    on_step: OnStep | None
    device: Any = "cpu"  # a torch.device; torch is imported late here

    def rng(self, phase: int, step: int = 0) -> np.random.Generator:
        """The random stream of one step: a function of seed, phase and step, so resuming needs no state."""
        return np.random.default_rng([self.seed, phase, step])

    def report(self, phase: str, done: int, total: int, record: dict[str, float] | None = None) -> None:
        if self.on_step is not None:
            self.on_step({"phase": phase, "done": done, "total": total, **(record or {})})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Task(Sitting):
    """Everything that a method gets."""

    space: SearchSpace
    targets: tuple[Target, ...]  # the run's board, then others, for methods that serve several
    tables: CostTables  # of the run's board

    @property
    def cost(self) -> CostModel:
        """The run's board's."""
        return self.targets[0].cost

    @property
    def budgets(self) -> Budgets:
        """The run's board's."""
        return self.targets[0].budgets

    @classmethod
    def prepare(
        cls,
        space: SearchSpace,
        data: SearchData,
        targets: Sequence[Target],
        config: SearchConfig,
        seed: int,
        checkpoint: Path | None,
        on_step: OnStep | None,
    ) -> Task:
        """Tables and limits for `targets` (at least one; the run's board first), data on the device."""
        from pipeline.search import device

        where = device.choose(config.device)
        boards = tuple(replace(t, budgets=with_energy(t.budgets, t.cost, space)) for t in targets)
        cost = boards[0].cost
        # as `candidates.Judge` counts exits that are searched for
        least = replace(space, exits=space.exits[:1]) if config.exits.search else space
        tables = replace(build_tables(least, cost), space=space, predictor=guiding_predictor(cost, config))
        data = device.resident(data, where)
        return cls(
            data=data, config=config, seed=seed, checkpoint=checkpoint, on_step=on_step, device=where,
            space=space, targets=boards, tables=tables,
        )  # fmt: skip


def guiding_predictor(cost: CostModel, config: SearchConfig) -> LatencyPredictor | None:
    """What guides in place of the table's expectation; None: nothing does. Raises ConfigError where `cost` lacks it."""
    if config.latency != "predictor":
        return None
    predictor: LatencyPredictor | None = getattr(cost, "predictor", None)
    if predictor is None:
        raise ConfigError(
            "search.latency is 'predictor', and the cost model has none",
            hint="set its `predictor` (pipeline.fit.obtain_predictor)",
        )
    return predictor


Method = Callable[[Task], SearchResult]
_METHODS: dict[str, Method] = {}
_MODULES = ("edgenas", "evolution", "given", "hwdarts", "hypersearch", "mobilenet", "random_search")


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
    for module in _MODULES:
        importlib.import_module(f"pipeline.search.{module}")
