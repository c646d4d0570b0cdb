"""Cycles of operators that were not measured, from the trip counts of their kernel's loops.

A kernel's cycles are nearly affine in how often each of its loops runs. Per kernel, non-negative coefficients
are fitted to the measured operators in relative error, and the residuals of a cross-validation give the
interval of every estimate.

An operator lies outside the measured range where its trip counts, relative to its cycles, have a leverage
x' (X'X)^-1 x above 2 (measured operators: up to 1): it is of another shape, or runs loops in proportions that the
measured ones do not tell apart. An estimate's standard deviation grows with the leverage's root (Draper and Smith,
Applied Regression Analysis, 3rd ed., ch. 3), and so does the interval, up to a limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec

Floats = NDArray[np.float64]

_FOLDS = 5
_QUANTILE = 0.95
_NARROWEST = 0.01  # no estimate claims to be better than one percent
_WIDEST = 0.9
_WIDEST_OUTSIDE = 3.0  # a quarter to four times: where the measured operators leave a loop's cost open
_OUTSIDE = 2.0
_OPEN = 1e4  # leverage of what the measured operators leave open
_RIDGE = 1e-9  # keeps loops that were never told apart from dividing by 0
# with fewer rows than this a cross-validation says nothing, and the interval is a guess on the safe side
_FEW_ROWS = 8
_FEW_ROWS_ERROR = 0.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cycles of one operator, with an interval that held for 95 % of the rows left out of the fit; `outside` the
    measured range it is wider."""

    cycles: float
    low: float
    high: float
    outside: bool = False


@dataclass(frozen=True, slots=True)
class KernelModel:
    """`coefficients` are cycles per trip of each loop in `features`; `error` is relative. `spread` is (X'X)^-1 of the
    measured operators' trip counts relative to their cycles."""

    kernel: str
    coefficients: tuple[float, ...]
    error: float
    rows: int
    spread: Floats = field(compare=False, repr=False)
    seen: tuple[bool, ...]  # loops that some measured operator runs

    @classmethod
    def fit(cls, kernel: str, cycles: Mapping[OpSpec, float]) -> KernelModel:
        """Fit to measured operators of one kernel; ValueError where there are none."""
        ops = [op for op in sorted(cycles) if cycles[op] > 0]
        if not ops:
            raise ValueError(f"nothing was measured for {kernel}")
        trips = np.array([features(op) for op in ops])
        target = np.array([cycles[op] for op in ops])
        coefficients = tuple(map(float, _fit(trips, target)))
        seen = tuple(bool(column.any()) for column in trips.T)
        spread = _spread(trips / target[:, None])
        return cls(kernel, coefficients, _error(ops, trips, target), len(ops), spread, seen)

    def covers(self, op: OpSpec) -> bool:
        """Whether measured operators run every loop that `op` runs; of others nothing is known, not even an end."""
        return all(seen or trips == 0 for seen, trips in zip(self.seen, features(op), strict=True))

    def estimate(self, op: OpSpec) -> Estimate:
        trips = np.array(features(op))
        cycles = float(np.dot(self.coefficients, trips))
        leverage = float(_leverages(self.spread, trips[None] / max(cycles, 1.0))[0])
        widened = min(self.error * max(leverage, 1.0) ** 0.5, _WIDEST_OUTSIDE)
        error = max(self.error, widened)
        return Estimate(cycles, cycles / (1.0 + error), cycles * (1.0 + error), leverage > _OUTSIDE)


def features(op: OpSpec) -> tuple[float, ...]:
    """Trip counts of the loops of the kernel that `select` names for `op`; ValueError for an alias."""
    name = select(op).name
    if not name:
        raise ValueError(f"{op.kind} has no kernel")
    return tuple(map(float, _TRIPS.get(name, _general)(op)))


def nonnegative_least_squares(a: Floats, b: Floats) -> Floats:
    """x >= 0 that minimizes |a x - b| (Lawson and Hanson, Solving Least Squares Problems, 1974, ch. 23)."""
    columns = a.shape[1]
    x = np.zeros(columns)
    free = np.zeros(columns, bool)
    tolerance = 1e-10 * max(1.0, float(np.abs(a.T @ b).max(initial=0.0)))
    for _ in range(10 * columns):
        gradient = np.where(free, -np.inf, a.T @ (b - a @ x))
        best = int(np.argmax(gradient))
        if gradient[best] <= tolerance:
            break
        free[best] = True
        while True:
            trial = np.zeros(columns)
            trial[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            falling = free & (trial <= 0)
            if not falling.any():
                break
            step = float(np.min(x[falling] / np.maximum(x[falling] - trial[falling], 1e-300)))
            x += step * (trial - x)
            free &= x > 1e-12 * max(1.0, float(x.max()))
            x[~free] = 0.0
            if not free.any():
                break
        x = trial
    return x


def _fit(trips: Floats, target: Floats) -> Floats:
    relative = trips / target[:, None]
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0] = 1.0
    return nonnegative_least_squares(relative / scale, np.ones(len(target))) / scale


def _spread(rows: Floats) -> Floats:
    """(X'X)^-1 of `rows`, with a ridge that means the same for every column; a column without trips counts as open."""
    scale = np.abs(rows).max(axis=0)
    scale[scale == 0] = scale[scale > 0].min(initial=1.0)
    x = rows / scale
    inverse = np.linalg.inv(x.T @ x + _RIDGE * np.eye(x.shape[1]))
    return np.asarray(inverse / np.outer(scale, scale))


def _leverages(spread: Floats, rows: Floats) -> Floats:
    return np.asarray(np.einsum("ij,jk,ik->i", rows, spread, rows))


def _error(ops: Sequence[OpSpec], trips: Floats, target: Floats) -> float:
    """Relative error, within the measured range, that 95 % of the left-out rows stay within.

    Left-out rows that the rest leave open say nothing of it and do not count where others do. Folds depend on the
    operators alone.
    """
    if len(ops) < _FEW_ROWS:
        return _FEW_ROWS_ERROR
    fold = np.array([zlib.crc32(op.key.encode()) % _FOLDS for op in ops])
    relative = trips / target[:, None]
    errors: list[float] = []
    determined: list[bool] = []
    for k in range(_FOLDS):
        held = fold == k
        if held.any() and not held.all():
            leverages = _leverages(_spread(relative[~held]), relative[held])
            predicted = trips[held] @ _fit(trips[~held], target[~held])
            off = np.abs(predicted / target[held] - 1.0)
            errors += off.tolist()
            determined += (leverages < _OPEN).tolist()
    known = [e for e, d in zip(errors, determined, strict=True) if d]
    errors = known if len(known) >= _FEW_ROWS // 2 else errors
    quantile = float(np.quantile(errors, _QUANTILE)) if errors else _FEW_ROWS_ERROR
    return min(max(quantile, _NARROWEST), _WIDEST)


# -- loops, kernel by kernel (firmware/engine) -------------------------------------------------------------


def _general(op: OpSpec) -> Sequence[float]:
    """Any kernel without a list of its own."""
    pixels = op.out_h * op.out_w
    return 1, op.out_h, pixels, op.out_bytes, op.in_bytes, pixels * op.kernel_h, op.macs


def _dot(op: OpSpec, pairs: int, singles: int, count: int) -> Sequence[float]:
    """edgenas_dot_2 over `pairs` of patches and edgenas_dot_1 over `singles`.

    Armv7E-M's edgenas_dot_2 takes two fours of taps an iteration; an odd one runs by itself.
    """
    twos, odd = divmod(op.out_c, 2)
    fours, rest = divmod(count, 4)
    return (
        pairs, pairs * twos, pairs * twos * fours, pairs * twos * (fours % 2), pairs * twos * rest,
        pairs * odd, pairs * odd * count,
        singles, singles * twos, singles * twos * fours, singles * twos * rest, singles * odd * (count + 1),
    )  # fmt: skip


def _conv(op: OpSpec) -> Sequence[float]:
    """Rows under the kernel are copied whole, with what the padding adds before and behind; dilated ones by taps."""
    pixels = op.out_h * op.out_w
    pairs, odd = divmod(op.out_w, 2)
    rows, columns = _axis(op, 0), _axis(op, 1)
    inside = sum(rows) * sum(columns)
    padded = sum(rows) * (op.out_w * op.kernel_w - sum(columns))
    empty_rows = (op.out_h * op.kernel_h - sum(rows)) * op.out_w
    edges = sum(taps < op.kernel_w for taps in columns)
    by_words = op.in_c % 4 == 0  # memcpy copies words where both sides are aligned
    whole, by_taps = (op.dilation_w == 1, op.dilation_w > 1)
    return (
        1, op.out_h, pixels, whole * sum(rows) * op.out_w, whole * sum(rows) * edges, by_taps * inside,
        by_taps * padded, inside * op.in_c * by_words, inside * op.in_c * (not by_words), padded * op.in_c,
        empty_rows, empty_rows * op.kernel_w * op.in_c,
        *_dot(op, pairs * op.out_h, odd * op.out_h, op.kernel_h * op.kernel_w * op.in_c),
    )  # fmt: skip


def _conv_1x1(op: OpSpec) -> Sequence[float]:
    pairs, odd = divmod(op.out_h * op.out_w, 2)
    return 1, *_dot(op, pairs, odd, op.in_c)


def _fully_connected(op: OpSpec) -> Sequence[float]:
    return 1, *_dot(op, 0, op.in_h, op.in_c)


def _depthwise(op: OpSpec) -> Sequence[float]:
    """Any multiplier: channels of the input, outputs, and rows and taps inside the input and in the padding."""
    rows, columns = _axis(op, 0), _axis(op, 1)
    pixels, channels = op.out_h * op.out_w, op.out_c
    inside_rows, inside = sum(rows) * op.out_w, sum(rows) * sum(columns)
    beside = sum(rows) * (op.out_w * op.kernel_w - sum(columns))
    empty_rows = op.out_h * op.kernel_h * op.out_w - inside_rows
    return (
        1, op.out_h, pixels, pixels * op.in_c, pixels * channels, inside_rows * channels, inside * channels,
        beside * channels, empty_rows * channels, empty_rows * op.kernel_w * channels,
    )  # fmt: skip


def _planes(op: OpSpec, width: int) -> Sequence[float]:
    """edgenas_depthwise_planes, and the row function of kernels `width` wide where `op` has one (else none).

    Rows of inputs are copied by fours of channels; outputs come in groups of four, two and one, whose cost
    depends on the stride.
    """
    fours, rest = divmod(op.out_c, 4)
    passes = fours + (rest > 0)
    # rows that are copied into the ring, and those of the padding
    reach = (op.out_h - 1) * op.stride_h + op.kernel_h
    copied = max(0, min(op.in_h, reach - op.pad_top))
    row_width = (op.out_w - 1) * op.stride_w + op.kernel_w
    row_width += row_width % 2
    columns = min(op.in_w, row_width - op.pad_left)
    odd_start = op.pad_left % 2
    pairs, odd_end = divmod(columns - odd_start, 2)
    outputs, channel_rows = op.out_w * op.out_h * op.out_c, op.out_h * op.out_c
    fast = op.kernel_w == width and op.stride_w <= 2
    strides = [float(fast and op.stride_w == stride) for stride in (1, 2)]
    groups = (op.out_w // 4, op.out_w // 2 % 2, op.out_w % 2)
    trips: list[float] = [
        1, op.kernel_h * row_width, passes, passes * op.out_h, passes * reach, passes * copied,
        passes * (reach - copied) * row_width, fours * copied * pairs, fours * copied * (odd_start + odd_end),
        rest * copied, rest * copied * columns, op.out_c, fast * op.out_c * op.kernel_h,
        fast * channel_rows, fast * channel_rows * (op.out_w >= 4),
    ]  # fmt: skip
    for on in strides:
        trips += [on * channel_rows * n for n in groups]
        if width != 3:
            trips += [on * channel_rows * n * op.kernel_h for n in groups]
    slow = not fast
    trips += [slow * channel_rows, slow * outputs, slow * outputs * op.kernel_h, slow * op.macs]
    return trips


def _depthwise_3x3(op: OpSpec) -> Sequence[float]:
    return _planes(op, 3)


def _depthwise_plain(op: OpSpec) -> Sequence[float]:
    """The wide kernels' loops, once for each width: each is a function of its own."""
    five, seven = _planes(op, 5), _planes(op, 7)
    common = 12  # trips of the planes, whichever the row function; the last four are those of any kernel
    any_kernel = seven[-4:] if op.kernel_w not in (5, 7) or op.stride_w > 2 else (0.0,) * 4
    return *five[:common], *five[common:-4], *seven[common:-4], *any_kernel


def _elementwise(op: OpSpec) -> Sequence[float]:
    return 1, op.out_h, op.out_h * op.out_w, op.out_bytes


def _add(op: OpSpec) -> Sequence[float]:
    """Armv7E-M takes operands of the output's shape by fours; others row by row, as all are elsewhere."""
    shape = (op.out_h, op.out_w, op.out_c)
    flat = (op.in_h, op.in_w, op.in_c) == (op.in2_h, op.in2_w, op.in2_c) == shape
    rows, pixels, (fours, rest) = op.out_h, op.out_h * op.out_w, divmod(op.out_bytes, 4)
    along = (flat * rows, flat * pixels, flat * fours, flat * rest)
    return 1, *along, (not flat) * rows, (not flat) * pixels, (not flat) * op.out_bytes


def _mean(op: OpSpec) -> Sequence[float]:
    fours, rest = divmod(op.in_c, 4)
    pixels = op.in_h * op.in_w
    return 1, pixels, pixels * fours, pixels * (rest > 0), pixels * rest, op.in_c


def _pool(op: OpSpec) -> Sequence[float]:
    rows, columns = sum(_axis(op, 0)), sum(_axis(op, 1))
    pixels = op.out_h * op.out_w
    return 1, op.out_h, pixels, op.out_bytes, rows * op.out_w * op.in_c, rows * columns * op.in_c


def _pad(op: OpSpec) -> Sequence[float]:
    pixels, copies = op.out_h * op.out_w, op.in_h * op.in_w
    return 1, op.out_h, pixels, op.out_bytes, copies, op.in_bytes


def _table(op: OpSpec) -> Sequence[float]:
    return 1, op.out_bytes


def _softmax(op: OpSpec) -> Sequence[float]:
    rows = op.in_h * op.in_w
    return 1, rows, rows * op.in_c


def _axis(op: OpSpec, axis: int) -> list[int]:
    """Per output position along an axis (0: rows, 1: columns), how many taps fall into the input."""
    size, out, kernel, stride, dilation, before = (
        (op.in_h, op.out_h, op.kernel_h, op.stride_h, op.dilation_h, op.pad_top)
        if axis == 0
        else (op.in_w, op.out_w, op.kernel_w, op.stride_w, op.dilation_w, op.pad_left)
    )
    return [sum(0 <= o * stride - before + k * dilation < size for k in range(kernel)) for o in range(out)]


_TRIPS: dict[str, Callable[[OpSpec], Sequence[float]]] = {
    "edgenas_conv": _conv,
    "edgenas_conv_1x1": _conv_1x1,
    "edgenas_fully_connected": _fully_connected,
    "edgenas_depthwise": _depthwise,
    "edgenas_depthwise_3x3": _depthwise_3x3,
    "edgenas_depthwise_plain": _depthwise_plain,
    "edgenas_add": _add,
    "edgenas_mul": _elementwise,
    "edgenas_mean": _mean,
    "edgenas_average_pool": _pool,
    "edgenas_max_pool": _pool,
    "edgenas_pad": _pad,
    "edgenas_table": _table,
    "edgenas_softmax": _softmax,
}
