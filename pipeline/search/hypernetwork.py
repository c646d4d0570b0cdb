"""A hypernetwork that emits the architecture's logits for a complexity vector and for budgets.

After "Neural architecture search with target hardware control" (DARTS-CC extended): alpha = H_a(S) with S on
the simplex over operators, gamma ~ Gumbel-Softmax(alpha, t). Beyond the paper H_a also sees the budgets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.search.candidates import Judge, cheapest_paths
from pipeline.search.costs import CostTables, Floats
from pipeline.search.relaxation import IndexPath, Relaxation
from pipeline.space.budgets import Budgets

CONDITIONED = ("latency_ms", "sram_bytes", "flash_bytes")


@dataclass(frozen=True, slots=True)
class Condition:
    """What one architecture is asked for: a point of the simplex over operators, and budgets."""

    complexity: tuple[float, ...]
    budgets: Budgets


@dataclass(frozen=True, slots=True)
class Ranges:
    """From the least that some architecture needs to what the run's budgets allow, for each of CONDITIONED.

    Parameters are limited as the run says, in every condition.
    """

    budgets: Budgets
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, judge: Judge, seed: int, samples: int = 64) -> Ranges:
        """`samples` random architectures say how much is of any use where a budget allows more."""
        rng = np.random.default_rng([seed, 0x4E5])
        drawn = [judge.exact(judge.path(judge.tables.space.random(rng))) for _ in range(samples)]
        everything = Judge(judge.tables, judge.cost, Budgets(1.0, 1, 1, 1))
        least = [judge.exact(path) for path in cheapest_paths(everything).values()]
        low, high = [], []
        for name in CONDITIONED:
            limit = getattr(judge.budgets, name)
            most = max(float(getattr(c, name)) for c in drawn)
            low.append(min(float(getattr(c, name)) for c in least))
            high.append(max(low[-1], most if limit is None else min(most, float(limit))))
        return cls(judge.budgets, tuple(low), tuple(high))

    def at(self, shares: tuple[float, ...]) -> Budgets:
        """Budgets at these shares (0: least, 1: most) of the ranges, on a logarithmic scale."""
        values = {
            name: low * (high / low) ** share
            for name, share, low, high in zip(CONDITIONED, shares, self.low, self.high, strict=True)
        }
        return replace(
            self.budgets,
            latency_ms=values["latency_ms"],
            sram_bytes=int(values["sram_bytes"]),
            flash_bytes=int(values["flash_bytes"]),
        )

    def draw(self, rng: np.random.Generator) -> Budgets:
        """Latency anywhere in its range; each memory in half of the draws as the run limits it."""
        tight = rng.random(2) < 0.5
        shares = rng.random(3)
        return self.at((shares[0], shares[1] if tight[0] else 1.0, shares[2] if tight[1] else 1.0))

    def normalize(self, budgets: Budgets) -> list[float]:
        """Inverse of `at`; what is above the range counts as its end."""
        out = []
        for name, low, high in zip(CONDITIONED, self.low, self.high, strict=True):
            value = max(low, min(high, float(getattr(budgets, name))))
            out.append(math.log(value / low) / math.log(high / low) if high > low else 1.0)
        return out


class Conditioned(Relaxation):
    """The relaxation whose logits come from a hypernetwork; `ask` sets the condition.

    Hard samples follow softmax(logits) at every temperature; the temperature only smooths gamma.
    """

    def __init__(self, tables: CostTables, ranges: Ranges, *, hidden: int, seed: int) -> None:
        super().__init__(tables)
        del self.ops, self.widths
        space = tables.space
        self.ranges = ranges
        self._sizes = (len(space.strides), len(space.ops), len(space.channels))
        blocks, ops, channels = self._sizes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hyper = nn.Sequential(
                nn.Linear(ops + len(CONDITIONED), hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, blocks * (ops + channels)),
            )
        last = self.hyper[-1]
        assert isinstance(last, nn.Linear)
        # Every condition starts undecided.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        uniform = (1.0 / ops,) * ops
        self.ask(Condition(uniform, ranges.at((1.0, 1.0, 1.0))))

    def ask(self, condition: Condition) -> None:
        """Set the logits, differentiable in the hypernetwork's weights, to those for `condition`."""
        blocks, ops, channels = self._sizes
        # Components scaled to a mean of 1, budgets to -1..1.
        simplex = [value * ops for value in condition.complexity]
        limits = [2 * share - 1 for share in self.ranges.normalize(condition.budgets)]
        out = self.hyper(torch.tensor([*simplex, *limits], dtype=torch.float32))
        logits = out.reshape(blocks, ops + channels)
        self.ops = logits[:, :ops]
        self.widths = logits[:, ops:]

    def probabilities(self, temperature: float) -> tuple[Tensor, Tensor]:
        return super().probabilities(1.0)

    def log_probability(
        self, path: IndexPath, temperature: float, blocks: Sequence[int] | None = None
    ) -> Tensor:
        return super().log_probability(path, 1.0, blocks)

    def undecided(self) -> Tensor:
        """Sum of the choices' entropies (nats), differentiable."""
        total = torch.zeros(())
        for chances in self.probabilities(1.0):
            total = total - (chances * chances.clamp_min(1e-9).log()).sum()
        return total

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

    def log_probabilities(self) -> tuple[Floats, Floats]:
        """Of every choice under the present condition."""
        ops, widths = self.probabilities(1.0)
        return _log(ops), _log(widths)


def _log(probabilities: Tensor) -> Floats:
    logs: Floats = probabilities.detach().double().clamp_min(1e-12).log().numpy()
    return logs
