"""Correction: what a board's cycles are, relative to those of another board's table, from a few measurements.

The logarithm of the ratio is a Gaussian process over operators: a factor common to all, one of each kernel drawn
towards it, and within a kernel a function of a few features (linear, and smooth). How strong each part is, and which
features count, is chosen by leaving measurements out (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, sections 2.2 and 5.4.2). The error that is stated comes from measurements that neither the fit nor that
choice has seen; the intervals are conformal over the same residuals, each relative to its predicted deviation (Lei et
al., Distribution-Free Predictive Inference for Regression, 2018, section 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import LutError
from pipeline.latency.rows import Row
from pipeline.space.kernels import select

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST = 5
LEVEL = 0.90
FEATURES = ("cycles", "cycles per MAC", "constants per cycle", "activations per cycle", "cycles per output")
_COMMON = 10.0  # deviation of the common factor's prior; like all others in units of the noise
_FOLDS = 20  # more measurements than this are left out in groups
_NARROWEST = 0.01  # no interval claims to be narrower than one percent
_NO_RELATIVE = 2.0  # at least so much wider where a kernel was not measured at all
_ONE_KERNEL = math.log(1.5)  # half width there, where it cannot be seen how much kernels differ
_STUDENT = (
    6.314,
    2.920,
    2.353,
    2.132,
    2.015,
    1.943,
    1.895,
    1.860,
)  # t, two-sided 90 %, by degrees of freedom


@dataclass(frozen=True, slots=True)
class Strengths:
    """Prior deviations in units of the noise: of kernels' factors, of slopes, and of the smooth part."""

    kernel: float
    features: tuple[int, ...] = ()
    slope: float = 0.0
    smooth: float = 0.0

    def describe(self) -> str:
        names = ", ".join(FEATURES[i] for i in self.features)
        parts = [f"common factor, kernels {self.kernel:g}"]
        if self.features:
            parts.append(f"slope {self.slope:g} and within kernels {self.smooth:g} over {names}")
        return "; ".join(parts)


# Assumed before anything was measured, to choose what is.
DESIGN = Strengths(3.0, (0, 1, 2, 3), 1.0, 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Operators as the process sees them: standardized features (n, features), and each one's kernel's number."""

    features: Floats
    kernels: Ints

    def __getitem__(self, which: Ints | list[int]) -> Places:
        return Places(self.features[which], self.kernels[which])

    def __len__(self) -> int:
        return len(self.kernels)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Places:
        """Of all rows of a base table, so that features mean the same whatever was measured."""
        raw = np.array([_features(row) for row in rows])
        spread = raw.std(axis=0)
        spread[spread == 0] = 1.0
        names = {name: i for i, name in enumerate(sorted({row.kernel for row in rows}))}
        return cls((raw - raw.mean(axis=0)) / spread, np.array([names[row.kernel] for row in rows]))


def _features(row: Row) -> tuple[float, ...]:
    op, cycles = row.op, max(row.cycles, 1.0)
    work = op.macs or op.out_bytes
    constants = 1 + select(op).constant_bytes
    return (
        math.log(cycles), math.log(cycles / work), math.log(constants / cycles),
        math.log((op.in_bytes + op.out_bytes) / cycles), math.log(cycles / op.out_bytes),
    )  # fmt: skip


def covariance(a: Places, b: Places, strengths: Strengths) -> Floats:
    """(len(a), len(b)), without the noise."""
    same = (a.kernels[:, None] == b.kernels[None, :]).astype(float)
    found = _COMMON**2 + strengths.kernel**2 * same
    columns = list(strengths.features)
    if columns:
        x, y = a.features[:, columns], b.features[:, columns]
        inner = x @ y.T
        found += strengths.slope**2 / len(columns) * inner
        if strengths.smooth:
            far = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * inner
            found += strengths.smooth**2 * same * np.exp(-far / (2 * len(columns)))
    return np.asarray(found)


@dataclass(frozen=True, slots=True, eq=False)
class Process:
    """A fitted process: `weights` of the measured places, and what the noise's deviation is."""

    places: Places
    strengths: Strengths
    mean: float
    weights: Floats
    precision: Floats
    noise: float

    @classmethod
    def fit(cls, places: Places, ratios: Floats) -> Process:
        """`ratios`: logarithms. Of all strengths those whose left-out predictions are likeliest."""
        mean = float(np.mean(ratios))
        best: tuple[float, Strengths, Floats, float] | None = None
        for strengths in _candidates():
            precision: Floats = np.linalg.inv(
                covariance(places, places, strengths) + np.eye(len(places))
            ).astype(np.float64)
            variances = 1.0 / np.diag(precision)
            errors = precision @ (ratios - mean) * variances
            noise = max(float(np.mean(errors**2 / variances)), 1e-12)
            # of the left-out ratios, negative and without constants; the noise is the one that fits them best
            surprise = math.log(noise) + float(np.mean(np.log(variances)))
            if best is None or surprise < best[0] - 1e-9:
                best = surprise, strengths, precision, noise
        assert best is not None
        _, strengths, precision, noise = best
        weights = precision @ (ratios - mean)
        return cls(places, strengths, mean, weights, precision, math.sqrt(noise))

    def predict(self, places: Places) -> tuple[Floats, Floats]:
        """Logarithms of ratios, and their deviations (noise included)."""
        cross = covariance(places, self.places, self.strengths)
        prior = _prior(places, self.strengths)
        variance = 1.0 + prior - np.einsum("ij,jk,ik->i", cross, self.precision, cross)
        return self.mean + cross @ self.weights, self.noise * np.sqrt(np.maximum(variance, 1e-12))


def _prior(places: Places, strengths: Strengths) -> Floats:
    found = np.full(len(places), _COMMON**2 + strengths.kernel**2)
    if strengths.features:
        x = places.features[:, list(strengths.features)]
        found += strengths.slope**2 / x.shape[1] * (x**2).sum(1) + strengths.smooth**2
    return found


@cache
def _candidates() -> tuple[Strengths, ...]:
    """Plainest first: of equals the first is taken."""
    kernels = (0.3, 1.0, 3.0, 10.0)
    found = [Strengths(k) for k in kernels]
    every = range(len(FEATURES))
    sets = [*((i,) for i in every), *combinations(every, 2), tuple(every)]
    strong = [(slope, smooth) for slope in (0.3, 1.0, 3.0) for smooth in (0.0, 1.0, 3.0)]
    found += [Strengths(k, chosen, *s) for chosen in sets for k in kernels for s in strong]
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """`process` over the measured operators, and how wrong it was about those that were left out.

    `errors` are relative, one a measurement; `quantile` are the predicted deviations that an interval reaches to
    either side; `between` is the largest error, as a logarithm, about a kernel left out as a whole.
    """

    process: Process
    errors: Floats
    quantile: float
    between: float

    @classmethod
    def fit(cls, places: Places, ratios: Floats) -> Correction:
        """Raises LutError for fewer than FEWEST measurements."""
        count = len(ratios)
        if count < FEWEST:
            raise LutError(
                f"{count} measurements cannot fit a correction",
                hint=f"at least {FEWEST} are needed, 20 or more are better",
            )
        residuals, relative = np.zeros(count), np.zeros(count)
        for fold in range(min(count, _FOLDS)):
            held = np.arange(fold, count, _FOLDS)
            kept = np.setdiff1d(np.arange(count), held)
            mean, deviation = Process.fit(places[kept], ratios[kept]).predict(places[held])
            residuals[held] = ratios[held] - mean
            relative[held] = np.abs(residuals[held]) / deviation
        process = Process.fit(places, ratios)
        return cls(process, np.expm1(-residuals), _quantile(relative), _between_kernels(places, ratios))

    def predict(self, places: Places) -> tuple[Floats, Floats, Ints]:
        """Factors on the base table's cycles, half widths of their logarithms' intervals, and each one's relatives."""
        mean, deviation = self.process.predict(places)
        measured = self.process.places.kernels
        relatives = np.array([int(np.sum(measured == kernel)) for kernel in places.kernels])
        half = np.maximum(self.quantile * deviation, _NARROWEST)
        alone = relatives == 0
        half[alone] = np.maximum(_NO_RELATIVE * half[alone], self.between)
        return np.exp(mean), half, relatives


def _quantile(relative: Floats) -> float:
    """Of residuals relative to their deviations: the order statistic that encloses the next one with LEVEL.

    The measured operators were chosen, not drawn, and few residuals have no such statistic: where they suggest less
    than normal residuals would, the latter's quantile stands (t distribution).
    """
    count = len(relative)
    ordered = np.sort(relative)
    rank = min(math.ceil(LEVEL * (count + 1) - 1e-9), count)
    return max(float(ordered[rank - 1]), _student(count - 1))


def _student(freedom: int) -> float:
    """Two-sided 90 % (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5, beyond the table)."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return 1.645 + 1.524 / freedom + 1.42 / freedom**2


def _between_kernels(places: Places, ratios: Floats) -> float:
    """The largest error about measurements of a kernel that none of the others has."""
    worst = 0.0
    present = np.unique(places.kernels)
    if len(present) < 2:
        return _ONE_KERNEL
    for kernel in present:
        held = np.flatnonzero(places.kernels == kernel)
        kept = np.flatnonzero(places.kernels != kernel)
        mean, _ = Process.fit(places[kept], ratios[kept]).predict(places[held])
        worst = max(worst, float(np.abs(ratios[held] - mean).max()))
    return worst


def choose(places: Places, importance: Floats, count: int, known: Sequence[int] = ()) -> list[int]:
    """Which `count` operators to measure besides `known`: those after which the others are least uncertain.

    Greedy: each lowers the variance over all places, weighted with `importance` (n,), the most (I-optimal), under
    DESIGN. In the order in which they are to be measured.
    """
    left = covariance(places, places, DESIGN)
    chosen: list[int] = []
    waiting = list(known)
    while len(chosen) < min(count, len(places) - len(known)):
        if waiting:
            next_one = waiting.pop()
        else:
            gain = importance @ left**2 / (np.diag(left) + 1.0)
            gain[[*chosen, *known]] = -1.0
            next_one = int(np.argmax(gain))
            chosen.append(next_one)
        column = left[:, next_one].copy()
        left -= np.outer(column, column) / (column[next_one] + 1.0)
    return chosen
