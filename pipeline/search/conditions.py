"""What one architecture of a family is asked for, and between which limits that makes sense on a board."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.search.candidates import Judge, cheapest_paths
from pipeline.space.budgets import Budgets, Cost

CONDITIONED = ("latency_ms", "sram_bytes", "flash_bytes")


@dataclass(frozen=True, slots=True)
class Condition:
    """A point of the simplex over operators, budgets, and the board (its place among the search's targets)."""

    complexity: tuple[float, ...]
    budgets: Budgets
    board: int = 0


@dataclass(frozen=True, slots=True)
class Ranges:
    """From the least that some architecture needs to what the budgets allow, for each of CONDITIONED.

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
        return cls.between(judge.budgets, least, drawn)

    @classmethod
    def between(cls, budgets: Budgets, least: Sequence[Cost], seen: Sequence[Cost]) -> Ranges:
        """From the least of `least` to the most of `seen`, or to the budget where that is less."""
        low, high = [], []
        for name in CONDITIONED:
            limit = getattr(budgets, name)
            most = max(float(getattr(c, name)) for c in seen)
            low.append(min(float(getattr(c, name)) for c in least))
            high.append(max(low[-1], most if limit is None else min(most, float(limit))))
        return cls(budgets, tuple(low), tuple(high))

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
        """Inverse of `at`; what lies beyond the range, or has no limit, counts as its end."""
        out = []
        for name, low, high in zip(CONDITIONED, self.low, self.high, strict=True):
            limit = getattr(budgets, name)
            value = high if limit is None else max(low, min(high, float(limit)))
            out.append(math.log(value / low) / math.log(high / low) if high > low else 1.0)
        return out


def draw_complexity(operators: int, rng: np.random.Generator) -> tuple[float, ...]:
    """A point drawn uniformly from the simplex over that many operators."""
    return tuple(float(s) for s in rng.dirichlet(np.ones(operators)))


def leaning(operators: int, to: int | None, by: float = 0.5) -> tuple[float, ...]:
    """The centre of the simplex (`to` None), or the point that share `by` of the way to a corner."""
    return tuple((1 - by) / operators + by * (i == to) if to is not None else 1 / operators
                 for i in range(operators))  # fmt: skip
