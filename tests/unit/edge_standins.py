"""A finished cloud search on a stand-in board, in blocks or in cells, and the edge stage that goes on from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from search_standins import DATA, SMALL, TINY, MacCost, images

from pipeline.search import SearchConfig, search
from pipeline.search.adaptation import adapt
from pipeline.search.adaptconfig import AdaptConfig
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.cloud import Cloud
from pipeline.search.costs import exact_cost
from pipeline.search.edge import Adapted
from pipeline.search.effort import cell_passes, edgenas_passes
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.supernet import Supernet
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

OPTIONS = AdaptConfig(share=0.6, candidates=6, contestants=2)
CELLS = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)


class StopHereError(Exception):
    pass


@dataclass(frozen=True)
class Stage:
    """`budgets` are the cloud's, `tight` those of the edge stage, `passes` what the cloud's search costs."""

    space: SearchSpace | CellSpace
    config: SearchConfig
    budgets: Budgets
    tight: Budgets
    supernet: type[torch.nn.Module]
    passes: Callable[[SearchConfig], int]

    def search(self, path: Path, **more: Any) -> Path:
        """The cloud's search, its checkpoint at `path`."""
        config = more.pop("config", self.config)
        found = search(self.space, DATA, MacCost(), self.budgets, config, seed=1, checkpoint=path, **more)
        assert found.feasible
        return path

    def cloud(self, path: Path) -> Cloud:
        steps = self.config.warmup_steps + self.config.steps
        return Cloud.load(path, "test", self.config.temperature_end, steps, len(DATA.x_val))

    def adapt(
        self, path: Path, budgets: Budgets | None = None, options: AdaptConfig = OPTIONS, **more: Any
    ) -> Adapted:
        """The edge stage on other images, from the search whose checkpoint `path` is."""
        given = {"space": self.space, "data": images(9), "seed": 2, "config": self.config} | more
        space, data, config = (given.pop(name) for name in ("space", "data", "config"))
        held = budgets or self.tight
        return adapt(space, data, MacCost(), held, config, options, self.cloud(path), **given)


def same(a: Adapted, b: Adapted) -> bool:
    weights = all(
        torch.equal(x[name], y[name]) for x, y in zip(a.weights, b.weights, strict=True) for name in x
    )
    return a.result.to_json() == b.result.to_json() and weights


def random_costs() -> list[Any]:
    """Of random networks of cells."""
    rng = np.random.default_rng(1)
    return [exact_cost(MacCost(), CELLS.random(rng)) for _ in range(60)]


def within(name: str, share: float = 0.3) -> Budgets:
    """A limit that this share of random networks of cells keeps."""
    values = sorted(getattr(c, name) for c in random_costs())
    return Budgets(**{name: values[int(share * len(values))]})


BLOCKS_STAGE = Stage(
    SMALL, TINY, Budgets(latency_ms=3.0, sram_bytes=8000), Budgets(latency_ms=0.9, sram_bytes=5500), Supernet,
    lambda config: edgenas_passes(config, len(DATA.x_val)),
)  # fmt: skip
CELLS_STAGE = Stage(
    CELLS,
    replace(TINY, method="hypernetwork", hyper=HyperConfig(hidden=12)),
    Budgets(latency_ms=0.6),
    replace(within("latency_ms"), sram_bytes=within("sram_bytes").sram_bytes),
    CellSupernet,
    lambda config: cell_passes(config, len(CELLS.ops), len(DATA.x_val)),
)
