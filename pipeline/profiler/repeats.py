"""How often an operator is measured, and which of its runs stand out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.profiler.journal import Measurement

PROVING = 5  # operators measured twice, to prove that counts repeat
FEWEST = 5  # runs of an operator on a target whose counts vary
MOST = 40
NARROW = 0.005  # half width of the median's 95 % interval, relative to the median
_OUTLYING = 6.0  # scaled median absolute deviations
_LEAST = 0.01  # relative; a spread below that is no reason to call a run an outlier
_Z = 1.96


def repeats(measurements: Sequence[Measurement]) -> bool:
    """Whether all runs gave the very same counts and output."""
    return len({(m.cycles, m.instructions, m.output_crc) for m in measurements}) <= 1


def enough(measurements: Sequence[Measurement], *, proving: bool, noisy: bool) -> bool:
    """Whether `measurements` of one operator settle its median.

    A deterministic target needs one run (two of the first operators, to prove it); another one runs until
    the median's 95 % interval is narrow, at most MOST times.
    """
    if any(m.refused for m in measurements):
        return True
    if not noisy:
        return len(measurements) >= (2 if proving else 1)
    if len(measurements) < FEWEST:
        return False
    return len(measurements) >= MOST or half_width([m.cycles for m in measurements]) <= NARROW


def half_width(cycles: Sequence[float]) -> float:
    """Half of the median's distribution-free 95 % interval (order statistics), relative to the median.

    Conover, Practical Nonparametric Statistics, 3rd ed., 3.2. Infinite for fewer than six runs that differ.
    """
    values = np.sort(np.asarray(cycles, float))
    n, median = len(values), float(np.median(cycles))
    if n == 0 or median <= 0:
        return float("inf")
    if values[0] == values[-1]:
        return 0.0
    reach = _Z * n**0.5 / 2
    low, high = int(np.floor(n / 2 - reach)), int(np.ceil(n / 2 + reach))
    if low < 0 or high >= n:
        low, high = 0, n - 1
        if n < 6:
            return float((values[high] - values[low]) / median)
    return float((values[high] - values[low]) / 2 / median)


def outliers(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Runs far from the median: more than six scaled median absolute deviations and one percent.

    They stay in the journal, and in the median, which they hardly move; they are reported.
    """
    good = [m for m in measurements if not m.refused]
    if len(good) < FEWEST:
        return []
    cycles = np.array([m.cycles for m in good])
    median = float(np.median(cycles))
    spread = 1.4826 * float(np.median(np.abs(cycles - median)))
    limit = max(_OUTLYING * spread, _LEAST * median)
    return [m for m in good if abs(m.cycles - median) > limit]
