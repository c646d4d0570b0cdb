"""The hypernetwork of a cell space: from S, budgets and a board to the logits of every edge's operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.search.cell_costs import CellJudge, CellTables, EdgePath
from pipeline.search.conditions import Condition, Ranges
from pipeline.search.costs import Floats
from pipeline.search.hypernetwork import Conditional
from pipeline.search.predictor import predicted_from
from pipeline.search.relaxation import Expected


class ConditionedCells(Conditional[CellTables]):
    """Independent choices of an operator on each edge; `ask` sets the condition, and with it costs and logits."""

    def __init__(
        self,
        tables: Sequence[CellTables],
        ranges: Sequence[Ranges],
        features: Sequence[Floats],
        *,
        hidden: int,
        seed: int,
    ) -> None:
        super().__init__()
        space = tables[0].space
        ops = len(space.ops)
        boards = list(zip(tables, ranges, features, strict=True))
        self._learn_for(boards, ops, [ops] * space.positions, hidden=hidden, seed=seed)
        self.ask(Condition((1.0 / ops,) * ops, ranges[0].at((1.0, 1.0, 1.0))))

    def ask(self, condition: Condition) -> None:
        """Set costs and logits (edges of all cells, ops), differentiable in the weights, to those for `condition`."""
        self.tables, rows = self._answer(condition)
        self.logits = torch.stack(rows)

    def probabilities(self) -> Tensor:
        return torch.softmax(self.logits, -1)

    def gamma(self, temperature: float, rng: np.random.Generator) -> Tensor:
        """A Gumbel-Softmax sample (edges of all cells, ops); rows sum to 1."""
        noise = torch.from_numpy(rng.gumbel(size=tuple(self.logits.shape)).astype(np.float32))
        return torch.softmax((self.logits + noise) / temperature, -1)

    def expected(self) -> Expected:
        """Of hard samples, on the condition's board."""
        return expected_cost(self.tables, self.probabilities())

    def shares(self) -> Tensor:
        """Mean chance of each operator over the edges, differentiable; they sum to 1."""
        return self.probabilities().mean(0)

    def undecided(self) -> Tensor:
        """Mean entropy of an edge's choice (nats), differentiable."""
        chances = self.probabilities()
        return -(chances * chances.clamp_min(1e-9).log()).sum(-1).mean()

    def entropy(self) -> float:
        """`undecided`, relative to the uniform distribution's (1 = undecided)."""
        ops = self.logits.shape[1]
        return float(self.undecided().detach()) / float(np.log(ops)) if ops > 1 else 0.0

    def repaired(self, judge: CellJudge, rng: np.random.Generator | None) -> EdgePath:
        """The most probable path, or with `rng` a sample, repaired to the budgets of `judge` if it can be."""
        return repaired_path(judge, torch.log_softmax(self.logits.detach(), -1).double().numpy(), rng)


def repaired_path(judge: CellJudge, logs: Floats, rng: np.random.Generator | None) -> EdgePath:
    """The most probable path by `logs` (edges of all cells, ops), or with `rng` a sample, repaired if it can be."""
    drawn = logs if rng is None else logs + rng.gumbel(size=logs.shape)
    return judge.repair(tuple(int(op) for op in drawn.argmax(1)), logs)


def expected_cost(tables: CellTables, gamma: Tensor) -> Expected:
    """Expected cost of independent choices (edges, ops), in `gamma`'s precision.

    Latency and parameters are exact expectations; a predictor says its latency of `gamma` as a whole. SRAM is a smooth
    maximum over edges of expected working sets, flash a line through the parameters.
    """

    def table(values: Floats) -> Tensor:
        return torch.from_numpy(values).to(gamma.dtype)

    latency = tables.latency_fixed + (gamma * table(tables.latency_ms)).sum()
    if tables.predictor is not None:
        besides = tables.front_end_ms
        latency = besides + predicted_from(tables.predictor, gamma.flatten(), latency - besides)
    weights = tables.weights_fixed + (gamma * table(tables.weights)).sum()
    edges = (gamma * table(tables.working_set)).sum(1)
    peaks = torch.cat([edges, torch.tensor([tables.working_fixed], dtype=gamma.dtype)])
    sharp = torch.softmax(peaks / (0.05 * peaks.detach().max() + 1e-6), 0)
    intercept, slope = tables.flash_fit
    return Expected(latency, tables.sram_offset + (sharp * peaks).sum(), intercept + slope * weights, weights)
