"""A hypernetwork that emits the architecture's logits for a complexity vector, budgets and a board.

After "Neural architecture search with target hardware control" (DARTS-CC extended): alpha = H_a(S) with S on
the simplex over operators, gamma ~ Gumbel-Softmax(alpha, t). Beyond the paper H_a also sees budgets and board.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.search.candidates import ExactPath, Judge, repair
from pipeline.search.conditions import CONDITIONED, Condition, Ranges
from pipeline.search.costs import CostTables, Floats
from pipeline.search.relaxation import IndexPath, Relaxation
from pipeline.train.seeding import seeded

Tables = TypeVar("Tables")

# Below this a feature does not tell the trained boards apart, and a new board's is not blown up by it.
_LEAST_DEVIATION = 0.05
_FARTHEST = 3.0


class HyperNetwork(nn.Module):
    """From `inputs` numbers to logits: one row of `choices[i]` for decision i of an architecture.

    A linear map beside the hidden layers: that an operator's logits fall with its own component of S is one
    weight there. Starts with all logits 0, every decision open.
    """

    def __init__(self, inputs: int, choices: Sequence[int], *, hidden: int, seed: int) -> None:
        super().__init__()
        self.choices = tuple(choices)
        with seeded(seed):
            self.direct = nn.Linear(inputs, sum(choices), bias=False)
            self.hidden = nn.Sequential(
                nn.Linear(inputs, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, sum(choices)),
            )
        last = self.hidden[-1]
        assert isinstance(last, nn.Linear)
        for parameter in (self.direct.weight, last.weight, last.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of each decision, for one condition `x` (inputs,)."""
        return torch.split(self.direct(x) + self.hidden(x), self.choices)


class BoardScale(nn.Module):
    """Board features relative to those of the boards trained for; its buffers go with the checkpoint."""

    def __init__(self, features: Sequence[Floats]) -> None:
        super().__init__()
        rows = np.stack(features)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(rows.mean(0), dtype=torch.float32))
        deviation = np.maximum(rows.std(0), _LEAST_DEVIATION)
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))

    def forward(self, features: Floats) -> Tensor:
        scaled = (torch.tensor(features, dtype=torch.float32) - self.mean) / self.deviation
        return scaled.clamp(-_FARTHEST, _FARTHEST)


class Conditional(nn.Module, Generic[Tables]):
    """A hypernetwork and the boards it is asked for: from a condition to the costs and the logits of its decisions."""

    def _learn_for(
        self,
        boards: Sequence[tuple[Tables, Ranges, Floats]],
        operators: int,
        choices: Sequence[int],
        *,
        hidden: int,
        seed: int,
    ) -> None:
        """A network for these boards; `choices` as in HyperNetwork, `operators` is the length of S."""
        self._boards = list(boards)
        features = [each for _, _, each in boards]
        self.scale = BoardScale(features)
        inputs = operators + len(CONDITIONED) + len(features[0])
        self.hyper = HyperNetwork(inputs, choices, hidden=hidden, seed=seed)

    def add_board(self, tables: Tables, ranges: Ranges, features: Floats) -> int:
        """A board that was not trained for; returns its place for Condition.board."""
        self._boards.append((tables, ranges, features))
        return len(self._boards) - 1

    def _answer(self, condition: Condition) -> tuple[Tables, tuple[Tensor, ...]]:
        """The costs of the condition's board and, differentiable in the weights, each decision's logits."""
        tables, ranges, features = self._boards[condition.board]
        # Both around 0: what all conditions have in common is left to the biases.
        simplex = [value * len(condition.complexity) - 1 for value in condition.complexity]
        limits = [2 * share - 1 for share in ranges.normalize(condition.budgets)]
        asked = torch.tensor([*simplex, *limits], dtype=torch.float32)
        return tables, self.hyper(torch.cat([asked, self.scale(features)]))


class Conditioned(Conditional[CostTables], Relaxation):
    """The relaxation whose logits come from a hypernetwork; `ask` sets the condition.

    Costs are those of the condition's board. Hard samples follow softmax(logits) at every temperature; the
    temperature only smooths gamma.
    """

    def __init__(
        self,
        tables: Sequence[CostTables],
        ranges: Sequence[Ranges],
        features: Sequence[Floats],
        *,
        hidden: int,
        seed: int,
    ) -> None:
        Relaxation.__init__(self, tables[0])
        del self.ops, self.widths
        space = tables[0].space
        blocks, ops, channels = len(space.strides), len(space.ops), len(space.channels)
        boards = list(zip(tables, ranges, features, strict=True))
        self._learn_for(boards, ops, [ops, channels] * blocks, hidden=hidden, seed=seed)
        self.ask(Condition((1.0 / ops,) * ops, ranges[0].at((1.0, 1.0, 1.0))))

    def ask(self, condition: Condition) -> None:
        """Set costs and logits, differentiable in the hypernetwork's weights, to those for `condition`."""
        tables, rows = self._answer(condition)
        self.use(tables)
        self.ops = torch.stack(rows[0::2])
        self.widths = torch.stack(rows[1::2])

    def probabilities(self, temperature: float) -> tuple[Tensor, Tensor]:
        return super().probabilities(1.0)

    def log_probability(
        self, path: IndexPath, temperature: float, blocks: Sequence[int] | None = None
    ) -> Tensor:
        return super().log_probability(path, 1.0, blocks)

    def undecided(self) -> Tensor:
        """Mean over the blocks of their choices' entropies (nats), differentiable."""
        total = torch.zeros(())
        for chances in self.probabilities(1.0):
            total = total - (chances * chances.clamp_min(1e-9).log()).sum()
        return total / len(self.ops)

    def shares(self) -> Tensor:
        """Mean chance of each operator over the blocks, differentiable; they sum to 1."""
        return self.probabilities(1.0)[0].mean(0)

    def gamma(self, temperature: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A Gumbel-Softmax sample: (blocks, ops) and (blocks, channels), rows sum to 1."""
        soft = []
        for logits in (self.ops, self.widths):
            noise = torch.from_numpy(rng.gumbel(size=tuple(logits.shape)).astype(np.float32))
            soft.append(torch.softmax((logits + noise) / temperature, -1))
        return soft[0], soft[1]

    def sample(self, temperature: float, rng: np.random.Generator) -> tuple[IndexPath, tuple[Tensor, Tensor]]:
        gates, hard = [], []
        for soft in self.gamma(temperature, rng):
            index = soft.argmax(-1)
            one_hot = torch.nn.functional.one_hot(index, soft.shape[1]).to(soft.dtype)
            gates.append(one_hot + soft - soft.detach())
            hard.append([int(i) for i in index])
        return list(zip(hard[0], hard[1], strict=True)), (gates[0], gates[1])

    def repaired(self, judge: Judge, rng: np.random.Generator | None) -> ExactPath:
        """The most probable path, or with `rng` a sample, repaired to the budgets of `judge` if it can be."""
        drawn = self.argmax() if rng is None else self.sample(1.0, rng)[0]
        return repair(judge, judge.canonical(drawn), *self.log_probabilities())

    def log_probabilities(self) -> tuple[Floats, Floats]:
        """Of every choice under the present condition."""
        ops, widths = self.probabilities(1.0)
        return _log(ops), _log(widths)


def _log(probabilities: Tensor) -> Floats:
    logs: Floats = probabilities.detach().double().clamp_min(1e-12).log().numpy()
    return logs
