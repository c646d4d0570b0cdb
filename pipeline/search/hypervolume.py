"""Accuracy-latency fronts: which points count, how much they dominate, and how sure that is over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.search.result import Candidate

# (latency in ms, accuracy as a fraction): less of the first and more of the second is better.
Point = tuple[float, float]


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other dominates, by growing latency; duplicates once."""
    out: list[Point] = []
    for latency, accuracy in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if not out or accuracy > out[-1][1]:
            out.append((latency, accuracy))
    return out


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """Exact area (ms) that `points` dominate, down to the reference's accuracy and up to its latency.

    Points that are no better than the reference in both respects add nothing.
    """
    slowest, floor = reference
    inside = front(p for p in points if p[0] < slowest and p[1] > floor)
    total, end = 0.0, slowest
    for latency, accuracy in reversed(inside):
        total += (end - latency) * (accuracy - floor)
        end = latency
    return total


def family(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The Pareto front in latency and accuracy of those trained longest among `candidates`, fastest first.

    Accuracies after different amounts of training do not compare, so each amount has a front of its own and
    the front with the most members is taken, the longer trained one if equal. Candidates without any accuracy
    are in none.
    """
    groups: dict[int, list[tuple[float, Candidate]]] = {}
    for c in candidates:
        if (known := accuracy(c)) is not None:
            groups.setdefault(c.proxy_steps, []).append((known, c))
    fronts = {steps: _front_of(group) for steps, group in groups.items()}
    trained = {steps: f for steps, f in fronts.items() if steps} or fronts
    return max(trained.items(), key=lambda item: (len(item[1]), item[0]))[1] if trained else []


def _front_of(group: list[tuple[float, Candidate]]) -> list[Candidate]:
    out: list[tuple[float, Candidate]] = []
    for known, c in sorted(group, key=lambda pair: (pair[1].cost.latency_ms, -pair[0])):
        if not out or known > out[-1][0]:
            out.append((known, c))
    return [c for _, c in out]


def accuracy(candidate: Candidate) -> float | None:
    """Its own accuracy where it was trained alone, else the one with shared weights; None where it has neither."""
    own = candidate.proxy_accuracy
    return own if own is not None else candidate.shared_accuracy


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean over seeds and a bootstrap interval of that mean."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap (10,000 resamples) of the mean; with one value the interval is that value.

    With fewer than five or so seeds such an interval is too narrow: quote the number of seeds with it.
    """
    sample = np.asarray(values, float)
    if sample.size == 0:
        raise ValueError("an interval needs at least one value")
    drawn = np.random.default_rng(seed).choice(sample, size=(10_000, sample.size)).mean(1)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(sample.mean()), float(low), float(high))
