"""Quantization parameters and the fixed-point numbers TFLite derives from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError


@dataclass(frozen=True, slots=True)
class Quantization:
    """real = scale * (q - zero_point), one scale for the whole tensor."""

    scale: float  # exactly the float32 of the file
    zero_point: int

    @property
    def reach(self) -> int:
        """Largest absolute q - zero_point."""
        return max(127 - self.zero_point, 128 + self.zero_point)


def quantize_multiplier(value: float) -> tuple[int, int]:
    """(Q31 multiplier, shift) with value = multiplier / 2^31 * 2^shift; positive shifts are left shifts.

    As TFLite's QuantizeMultiplier (lite/kernels/internal/quantization_util.cc).
    """
    if value == 0.0:
        return 0, 0
    fraction, shift = math.frexp(value)
    multiplier = math.floor(fraction * (1 << 31) + 0.5)  # value >= 0: half away from zero is half up
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        return (1 << 31) - 1, 30
    return multiplier, shift


def normalized_multiplier(value: float) -> tuple[int, int]:
    """As quantize_multiplier, with a multiplier of at least 2^30: what the kernels' fast path wants.

    A scale below 2^-32, whose multiplier TFLite sets to 0, becomes one whose products all round to 0.
    """
    multiplier, shift = quantize_multiplier(value)
    return (multiplier, shift) if multiplier else (1 << 30, -31)


def scale_by(x: int, multiplier: int, shift: int) -> int:
    """gemmlowp's doubly rounded x * multiplier / 2^31 * 2^shift, as the kernels compute it."""
    left, right = (shift, 0) if shift > 0 else (0, -shift)
    high = (x * (1 << left) * multiplier + (1 << 30)) >> 31
    return rounding_shift(high, right)


def rounding_shift(x: int, exponent: int) -> int:
    """x / 2^exponent, rounded half away from zero."""
    mask = (1 << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def activation_range(activation: str, output: Quantization) -> tuple[int, int]:
    """Clamping limits of a fused activation in the output's integers (CalculateActivationRangeQuantized)."""

    def quantize(real: float) -> int:
        # float32 division and round half away, as in TFLite; of a tiny scale it may be infinite, and limits nothing
        with np.errstate(over="ignore"):
            ratio = float(np.float32(real) / np.float32(output.scale))
        return output.zero_point + math.floor(min(ratio, 2.0**31) + 0.5)

    low, high = -128, 127
    if activation in ("relu", "relu6"):
        low = max(low, quantize(0.0))
    if activation == "relu6":
        high = min(high, quantize(6.0))
    return low, high


def fold_zero_point(
    bias: NDArray[np.int64], weights: NDArray[np.int8], zero_point: int, layer: str
) -> NDArray[np.int32]:
    """bias - zero_point * sum of each channel's weights; `weights` is [channels, taps].

    Raises ModelError where an accumulator could leave int32.
    """
    wide = weights.astype(np.int64)
    folded = bias - zero_point * wide.sum(axis=1)
    reach = accumulator_reach(folded, weights)
    if reach.size and reach.max() >= 1 << 31:
        raise ModelError(
            f"{layer}: an accumulator may reach {int(reach.max()):,}, beyond 32 bits",
            hint="the scales of this layer are degenerate (a bias far larger than its products); quantize again",
        )
    return folded.astype(np.int32)


def accumulator_reach(folded: NDArray[Any], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Largest absolute accumulator of each channel, over all inputs."""
    return np.abs(folded.astype(np.int64)) + 128 * np.abs(weights.astype(np.int64)).sum(axis=1)


def rounding_is_safe(reach: int, multiplier: int, shift: int) -> bool:
    """Whether edgenas_scale_sum (requantize.h) cannot overflow for sums up to `reach`.

    Nor armv7em/dot_pairs.S, which adds twice the zero point before its last shift.
    """
    if shift >= 0:
        return sum_is_safe(reach, shift)
    scaled = (reach * multiplier >> 31) + 1
    return scaled + (1 << (-shift - 1)) < 1 << 31 and (scaled >> (-shift - 1)) + 257 < 1 << 31


def sum_is_safe(reach: int, shift: int) -> bool:
    """Whether edgenas_scale (requantize.h) cannot overflow for sums up to `reach`, the output's zero point included."""
    return (reach << max(0, shift)) + 128 < 1 << 31


@dataclass(frozen=True, slots=True)
class Requantization:
    """From one channel's accumulators to int8: Q31 multiplier and shift, zero point, limits of the activation."""

    multiplier: int
    shift: int
    zero_point: int
    low: int
    high: int

    def __call__(self, accumulator: int) -> int:
        value = scale_by(accumulator, self.multiplier, self.shift) + self.zero_point
        return min(self.high, max(self.low, value))

    def quiet(self, lowest: int, highest: int) -> int | None:
        """The output of all accumulators from `lowest` to `highest` where it is one; None where there are several.

        Outputs never fall with the accumulator, so the two ends decide.
        """
        first = self(lowest)
        return first if first == self(highest) else None

    def constant(self, output: int) -> tuple[int, int, int]:
        """(bias, multiplier, shift) of a channel without weights that gives `output`."""
        return 4 * (output - self.zero_point), 1 << 30, -1
