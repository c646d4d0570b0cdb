"""Do two ways of scoring architectures agree on their order? Kendall's tau-b, Spearman's rho, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST = 5  # of four architectures chance alone puts one set in 24 into perfect order; of five one in 120
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two scores rank the same `n` architectures: tau-b with its bootstrap interval, and rho.

    `tau` is nan where a score is the same for all. `low`..`high` is a percentile interval over resampled
    architectures: wide below some twenty of them, so `n` belongs beside every tau.
    """

    first: str
    second: str
    n: int
    tau: float
    low: float
    high: float
    rho: float

    def to_json(self) -> dict[str, Any]:
        """Not a number becomes None: JSON has none."""
        return {k: None if v != v else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.tau:+.2f} [{self.low:+.2f}, {self.high:+.2f}] (n = {self.n})"


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's tau-b (Kendall 1945): 1 for the same order, -1 for the opposite, corrected for ties."""
    pairs = _Pairs(np.asarray(x, float), np.asarray(y, float))
    return pairs.tau(np.arange(len(pairs)))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rho: the correlation of the ranks; equal values share the mean of their ranks."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


def ranks(values: Sequence[float]) -> Floats:
    """Rank of each value, from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts + 1) / 2)[inverse]
    return shared


def agreement(
    first: str,
    x: Sequence[float],
    second: str,
    y: Sequence[float],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Agreement:
    """Compare two scores of the same architectures. Raises ValueError where there are too few."""
    if len(x) != len(y) or len(x) < FEWEST:
        raise ValueError(
            f"{len(x)} and {len(y)} scores: at least {FEWEST} architectures with both are needed"
        )
    pairs = _Pairs(np.asarray(x, float), np.asarray(y, float))
    drawn = np.random.default_rng(seed).integers(len(x), size=(_RESAMPLES, len(x)))
    taus = np.array([pairs.tau(index) for index in drawn])
    taus = taus[~np.isnan(taus)]
    low, high = (
        np.quantile(taus, [(1 - confidence) / 2, (1 + confidence) / 2]) if taus.size else (np.nan, np.nan)
    )
    tau = pairs.tau(np.arange(len(x)))
    return Agreement(first, second, len(x), tau, float(low), float(high), spearman(x, y))


def agreements(stages: Mapping[str, Sequence[float | None]]) -> list[Agreement]:
    """Every pair of stages, over the architectures that both have scored; pairs with too few are left out."""
    found = []
    for (first, xs), (second, ys) in combinations(stages.items(), 2):
        both = [(x, y) for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]
        if len(both) >= FEWEST:
            x, y = zip(*both, strict=True)
            found.append(agreement(first, x, second, y))
    return found


class _Pairs:
    """Signs of all pairwise differences: a resample is then a choice of rows and columns."""

    def __init__(self, x: Floats, y: Floats) -> None:
        self.x, self.y = (np.sign(v[:, None] - v[None, :]) for v in (x, y))

    def __len__(self) -> int:
        return len(self.x)

    def tau(self, index: NDArray[np.int64]) -> float:
        grid = np.ix_(index, index)
        x, y = self.x[grid], self.y[grid]
        scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
        return float((x * y).sum()) / scale if scale else float("nan")
