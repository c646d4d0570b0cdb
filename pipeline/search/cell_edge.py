"""The edge stage in a space of cells: the hypernetwork asked for the new budgets, its candidates repaired to them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from pipeline.search.cell_costs import CellJudge, CellTables, EdgePath
from pipeline.search.cell_hypernetwork import ConditionedCells
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.checkpoint import Identity, cell_fingerprint
from pipeline.search.cloud import Cloud
from pipeline.search.conditions import Ranges
from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostModel, Floats
from pipeline.search.data import SearchData
from pipeline.search.edgepool import gathered, mixed, repaired, weights_of
from pipeline.search.hyperfamily import ServedBoard, around_centre, sweep
from pipeline.search.inherit import LayerWeights, inherited_cells
from pipeline.search.targets import Target, cell_features
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace

_SLACK, _REDRAWS = 1.1, 8  # as in spaces of blocks


class CellEdge:
    """The cell supernet, and the hypernetwork asked for the new budgets with S uniform (`chances`)."""

    def __init__(
        self,
        space: CellSpace,
        cost: CostModel,
        budgets: Budgets,
        cloud: Cloud,
        config: SearchConfig,
        seed: int,
    ) -> None:
        """Raises ConfigError for a cloud of another space."""
        self._tables, self._cloud = CellTables.of(space, cost), cloud
        self.judge = CellJudge(self._tables, cost, budgets)
        self.net = CellSupernet(space, seed)
        ranges, features = _as_told(self._tables, cloud, budgets)
        self.hyper = ConditionedCells(
            [self._tables], [ranges], [features], hidden=config.hyper.hidden, seed=seed
        )
        cloud.hand_over(self.net, self.hyper)
        self._board = ServedBoard(Target("", cost, budgets), self.judge, ranges, features)
        self._asked = around_centre(len(space.ops), budgets, 0)
        with torch.no_grad():
            self.hyper.ask(self._asked[0])
            self.chances: Floats = self.hyper.probabilities().double().numpy()

    def identity(self, data: SearchData, config: SearchConfig, seed: int) -> Identity:
        return cell_fingerprint(self._tables, data, self.judge.budgets, config, seed)

    def impossible(self) -> str:
        return self.judge.impossible()

    def explain(self, nearest: EdgePath) -> str:
        return self.judge.explain(nearest)

    def recentre(
        self, focus: float, wanted: int, rng: np.random.Generator
    ) -> tuple[list[EdgePath], EdgePath]:
        judge = self.judge
        logs: Floats = np.log(np.maximum(self.chances, 1e-12))
        ranked = self._cloud.selection.ranked()[: 2 * wanted]
        mended, nearest = repaired(judge, ranked, lambda path: judge.repair(path, logs))
        near = np.zeros_like(self.chances)
        for weight, path in weights_of(mended):
            near[np.arange(len(path)), path] += weight
        self.chances = mixed(near, self.chances, focus)
        draw = partial(sweep, self.hyper, self._board, self._asked)
        pool, missed = gathered(judge, mended, draw, wanted, lambda _: 0.0, rng)
        return pool, min(nearest, missed, key=judge.violation)

    def near(self, rng: np.random.Generator) -> EdgePath | None:
        reached = self.chances.cumsum(1)
        for _ in range(_REDRAWS):
            drawn = (rng.random((len(reached), 1)) * reached[:, -1:] > reached).sum(1)
            path = tuple(int(op) for op in drawn)
            if self.judge.roughly_within(path, _SLACK):
                return path
        return None

    def bonus(self, path: EdgePath) -> float:
        """The hypernetwork goes by accuracy alone."""
        return 0.0

    def weights(self, net: CellSupernet, path: EdgePath) -> list[LayerWeights]:
        return inherited_cells(net, path)


def _as_told(tables: CellTables, cloud: Cloud, budgets: Budgets) -> tuple[Ranges, Floats]:
    """The board as the hypernetwork knows it, with its range of latencies in today's milliseconds.

    Another clock changes all latencies alike: today's deadline means what one as many times longer, or shorter, meant
    to the cloud. Told as another board, by features at another clock, it would be one that was never trained for.
    """
    told = cloud.told
    if told is None:  # of a space of blocks: `hand_over` names what does not fit
        ends = (1.0, 1.0, 1.0)
        return Ranges(budgets, ends, ends), cell_features(tables, 0.0)
    features: Floats = np.array(told["features"], np.float64)
    slower = math.exp(float(cell_features(tables, 0.0)[1] - features[1]))  # of mean latencies

    def ends_of(name: str) -> tuple[float, ...]:
        latency, *others = told[name]
        return (latency * slower, *others)

    return Ranges(budgets, ends_of("low"), ends_of("high")), features
