"""Which of the allowed early exits stay, and at which margins they are taken. No torch.

All allowed exits are trained with the network. Of every subset of them the latency to each output is known, and on
the validation split the INT8 margin and the correctness of each exit; so subset and thresholds are searched
without another inference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.space.exits import LARGEST_MARGIN, ExitRule, margins

COMBINATIONS = 200_000  # of thresholds looked at per subset; all there are for up to two exits

Floats = NDArray[np.float64]
_ROUNDING = 1e-9  # of sums of latencies


class Latencies(NamedTuple):
    """To each output of the network with some of its exits, ms; `refused`: why it may not be deployed."""

    ms: Sequence[float]
    refused: str = ""


LatenciesOf = Callable[[tuple[int, ...]], Latencies]  # of a subset of the exits, by their positions


@dataclass(frozen=True, slots=True)
class ExitChoice:
    """`kept` are positions among the allowed exits; `counts` says how many of the validation images end at each
    output, `latencies_ms` what an inference to each takes (the final one, the worst case, last).

    `accuracy` is the rule's on these images, `final_accuracy` that of the final output alone. `refused` says
    which subsets were left out for a budget. `goal_ms` is the expected latency that was asked for (0: none).
    """

    kept: tuple[int, ...]
    thresholds: tuple[int, ...]
    counts: tuple[int, ...]
    latencies_ms: tuple[float, ...]
    accuracy: float
    final_accuracy: float
    refused: tuple[str, ...] = ()
    goal_ms: float = 0.0

    @property
    def rule(self) -> ExitRule | None:
        return ExitRule(self.thresholds) if self.kept else None

    @property
    def expected_ms(self) -> float:
        return math.fsum(c * ms for c, ms in zip(self.counts, self.latencies_ms, strict=True)) / sum(
            self.counts
        )

    @property
    def met(self) -> bool:
        """Whether the expected latency is within the goal; always without one."""
        return not self.goal_ms or self.expected_ms <= self.goal_ms * (1 + _ROUNDING)


@dataclass(frozen=True, slots=True)
class _Aim:
    """What is wanted of the rule on n images: at least so many right answers, or a sum of latencies of at most
    `most_ms` (0: no such goal)."""

    least_right: int
    most_ms: float

    def best(self, total_ms: Floats, right: Floats) -> int | None:
        """Position (flat) of the best of many rules, by their sums of latencies and right answers; None: none will do.

        Of equal latencies that with more right answers, of equal accuracies the faster one.
        """
        allowed = np.rint(right) >= self.least_right
        if self.most_ms:
            allowed = total_ms <= self.most_ms * (1 + _ROUNDING)
            if allowed.any():
                most = np.where(allowed, np.rint(right), -1.0)
                ties = np.flatnonzero(most == most.max())
                return int(ties[total_ms.reshape(-1)[ties].argmin()])
            allowed = np.ones_like(allowed)  # the fastest comes nearest to the goal
        if not allowed.any():
            return None
        least = np.where(allowed, total_ms, np.inf)
        ties = np.flatnonzero(np.isclose(least, least.min(), rtol=1e-12, atol=0.0))
        return int(ties[right.reshape(-1)[ties].argmax()])

    def prefers(self, found: ExitChoice, best: ExitChoice) -> bool:
        """Whether `found` is to be taken in place of `best`, which has no more exits; both keep least_right."""
        if self.most_ms and found.met != best.met:
            return found.met
        if self.most_ms and found.met and found.accuracy != best.accuracy:
            return found.accuracy > best.accuracy
        return found.expected_ms < best.expected_ms - 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the images say: margins (n,) of each exit, and whether each output is right, (outputs, n)."""

    margins: list[NDArray[np.int16]]
    right: NDArray[np.bool_]


def choose_exits(
    outputs: Sequence[NDArray[np.int8]],
    labels: NDArray[np.int64],
    latencies_of: LatenciesOf,
    accuracy_drop: float,
    *,
    goal_ms: float = 0.0,
    combinations: int = COMBINATIONS,
) -> ExitChoice:
    """The subset and thresholds of least expected latency that lose at most `accuracy_drop`; with `goal_ms` those of
    highest accuracy whose expected latency is at most that, or the nearest to it where none are.

    outputs: INT8 logits (n, classes) of all allowed exits and the final output; labels (n,). Ties go to fewer
    exits. Refused subsets are never chosen; where all are, the network without exits is what is left. Raises DataError
    without images.
    """
    if len(labels) == 0:
        raise DataError("there are no validation images to choose exits with", hint="raise data.validation")
    seen = _Seen([margins(y) for y in outputs[:-1]], np.stack([y.argmax(1) == labels for y in outputs]))
    n, final_right = len(labels), int(seen.right[-1].sum())
    aim = _Aim(math.ceil(final_right - accuracy_drop * n - 1e-9), goal_ms * n)
    alone = latencies_of(())
    best = ExitChoice((), (), (n,), tuple(alone.ms), final_right / n, final_right / n, goal_ms=goal_ms)
    allowed = not alone.refused
    refused: list[str] = []
    exits = range(len(outputs) - 1)
    for size in range(1, len(outputs)):
        for kept in itertools.combinations(exits, size):
            latencies, why = latencies_of(kept)
            if why:
                refused.append(why)
                continue
            thresholds = _best_thresholds(seen, kept, latencies, aim, combinations)
            if thresholds is None:
                continue
            taken = ExitRule(thresholds).taken([outputs[i] for i in kept] + [outputs[-1]])
            right = seen.right[[*kept, -1]][taken, np.arange(n)]
            counts = np.bincount(taken, minlength=size + 1)
            found = ExitChoice(
                kept, thresholds, tuple(counts.tolist()), tuple(latencies), float(right.mean()), final_right / n,
                goal_ms=goal_ms,
            )  # fmt: skip
            if not allowed or aim.prefers(found, best):
                best, allowed = found, True
    if alone.refused and best.kept:
        refused.insert(0, alone.refused)
    return replace(best, refused=tuple(refused))


def _best_thresholds(
    seen: _Seen, kept: tuple[int, ...], latencies: Sequence[float], aim: _Aim, combinations: int
) -> tuple[int, ...] | None:
    """The thresholds that `aim` wants most, of at most so many combinations; None where none will do."""
    each = max(2, int(combinations ** (1 / len(kept)) + 1e-9))
    candidates = [_candidates(seen.margins[i], each) for i in kept]
    # how many of an exit's thresholds a margin reaches: the k-th is reached where it is above k
    reached = [
        np.searchsorted(c, seen.margins[i], side="right") for c, i in zip(candidates, kept, strict=True)
    ]
    shape = tuple(len(c) for c in candidates)
    total, right = np.zeros(shape), np.zeros(shape)
    for output in range(len(kept) + 1):
        is_right = seen.right[kept[output] if output < len(kept) else -1]
        axes = reached[: output + 1]
        counts = _ends_here(axes, shape, output, np.ones(len(is_right)))
        total += latencies[output] * counts
        right += _ends_here(axes, shape, output, is_right.astype(float))
    best = aim.best(total, right)
    if best is None:
        return None
    position = np.unravel_index(best, shape)
    return tuple(int(c[p]) for c, p in zip(candidates, position, strict=True))


def _candidates(margin: NDArray[np.int16], count: int) -> NDArray[np.int64]:
    """Thresholds to try, increasing: each that makes a difference, or `count` quantiles of them.

    Never 0: an exit that every inference takes leaves dead code behind it.
    """
    values = np.unique(np.clip(margin, 1, LARGEST_MARGIN)).astype(np.int64)
    if len(values) <= count:
        return values
    spread = np.quantile(np.clip(margin, 1, LARGEST_MARGIN), np.linspace(0, 1, count), method="nearest")
    return np.unique(spread).astype(np.int64)


def _ends_here(
    reached: list[NDArray[np.int64]], shape: tuple[int, ...], output: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum of `weights` of the images that end at `output`, for every combination of thresholds (`shape`).

    They passed the exits before, so their margins reach at most so many thresholds there, and here (but for the
    final output) they reach more.
    """
    exits = len(shape)
    axes = reached[: min(output + 1, exits)]
    sizes = tuple(size + 1 for size in shape[: len(axes)])
    flat = np.ravel_multi_index(axes, sizes)
    counts = np.bincount(flat, weights, math.prod(sizes)).reshape(sizes)
    for axis in range(len(axes)):
        counts = counts.cumsum(axis)
        upto = np.take(counts, range(shape[axis]), axis)
        # the last axis of an exit: all images less those that do not reach the threshold
        counts = np.take(counts, [shape[axis]], axis) - upto if axis == output else upto
    return np.broadcast_to(counts.reshape(counts.shape + (1,) * (exits - len(axes))), shape)
