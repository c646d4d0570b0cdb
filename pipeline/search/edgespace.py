"""What the edge stage needs of a space, and the space of blocks; that of cells is in cell_edge.py."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.search.candidates import ExactPath, Judge, impossible_budgets, repair
from pipeline.search.checkpoint import Identity, fingerprint
from pipeline.search.cloud import Cloud
from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostModel, build_tables
from pipeline.search.data import SearchData
from pipeline.search.edgepool import centre, gathered, repaired
from pipeline.search.inherit import LayerWeights, inherited
from pipeline.search.pathjudge import PathJudge
from pipeline.search.relaxation import Relaxation
from pipeline.search.selection import capacity_bonus, explain_failure, starting_paths
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Net
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace

_SLACK, _REDRAWS = 1.1, 8


class EdgeSpace(Protocol):
    """A cloud search's supernet and what it learnt of its space, held against new budgets.

    Paths are what the space makes them; `judge` holds them against the budgets, `net` has the cloud's weights.
    """

    @property
    def judge(self) -> PathJudge: ...

    @property
    def net(self) -> Net: ...

    def identity(self, data: SearchData, config: SearchConfig, seed: int) -> Identity:
        """Of space, costs, budgets and the arguments, by the names that an error calls them."""

    def impossible(self) -> str:
        """Names each budget that even the cheapest architecture breaks; empty where there is none."""

    def explain(self, nearest: Any) -> str:
        """Why nothing within the budgets was found, given the nearest miss."""

    def recentre(self, focus: float, wanted: int, rng: np.random.Generator) -> tuple[list[Any], Any]:
        """Move `focus` of the distribution to the cloud's candidates, repaired to the budgets.

        Returns up to `wanted` paths within the budgets, largest first, and the least infeasible one seen.
        """

    def near(self, rng: np.random.Generator) -> Any:
        """A sample around the candidates that is roughly within the budgets; None where some draws give none."""

    def bonus(self, path: Any) -> float:
        """What the cloud's contests add to an accuracy for size."""

    def weights(self, net: Any, path: Any) -> list[LayerWeights]:
        """What `path` has learnt in `net`, for the network that is trained (see search/inherit.py)."""


class BlockEdge:
    """EdgeNAS' supernet and distribution."""

    def __init__(
        self,
        space: SearchSpace,
        cost: CostModel,
        budgets: Budgets,
        cloud: Cloud,
        config: SearchConfig,
        seed: int,
    ) -> None:
        """Raises ConfigError for a cloud of another space."""
        self._tables, self._cloud = build_tables(space, cost), cloud
        self.judge = Judge(self._tables, cost, budgets)
        self.net, self.relaxation = Supernet(space, seed), Relaxation(self._tables)
        cloud.hand_over(self.net, self.relaxation)
        # trainings as short as the edge stage's favour what is small
        self._capacity = config.sharing.capacity

    def identity(self, data: SearchData, config: SearchConfig, seed: int) -> Identity:
        return fingerprint(self._tables, data, self.judge.budgets, config, seed)

    def impossible(self) -> str:
        return impossible_budgets(self.judge)

    def explain(self, nearest: ExactPath) -> str:
        return explain_failure(self.judge, nearest)

    def recentre(
        self, focus: float, wanted: int, rng: np.random.Generator
    ) -> tuple[list[ExactPath], ExactPath]:
        judge, relaxation = self.judge, self.relaxation
        with torch.no_grad():
            ops, widths = relaxation.probabilities(self._cloud.temperature)
        logs = [p.double().clamp_min(1e-12).log().numpy() for p in (ops, widths)]
        likelihood = partial(judge.log_probability, log_ops=logs[0], log_widths=logs[1])
        ranked = self._cloud.selection.ranked(self.bonus)[: 2 * wanted]
        mended, nearest = repaired(judge, ranked, lambda path: repair(judge, path, *logs))
        centre(relaxation, mended, ops.numpy(), widths.numpy(), focus)
        draw = partial(starting_paths, judge, relaxation, 1.0)
        pool, missed = gathered(judge, mended, draw, wanted, likelihood, rng)
        return pool, min(nearest, missed, key=judge.violation)

    def near(self, rng: np.random.Generator) -> list[tuple[int, int]] | None:
        for _ in range(_REDRAWS):
            drawn = self.relaxation.sample(1.0, rng)[0]
            if self.judge.roughly_within(drawn, _SLACK):
                return drawn
        return None

    def bonus(self, path: ExactPath) -> float:
        return capacity_bonus(self.judge, self._capacity)(path)

    def weights(self, net: Supernet, path: ExactPath) -> list[LayerWeights]:
        return inherited(net, path)
