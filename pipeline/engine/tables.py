"""Tables of int8 -> int8 functions and of softmax's exponential, bit-identical to TFLite Micro's arithmetic.

The functions follow the published fixed-point algorithms of gemmlowp (fixedpoint.h) and the reference kernels
of TensorFlow Lite (reference/integer_ops/logistic.h, reference/hard_swish.h, reference/softmax.h); numbers are
Python integers, "Qm" means m integer bits of a 32-bit word.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.quantization import Quantization, quantize_multiplier, rounding_shift, scale_by

_MAX32 = (1 << 31) - 1
_EXP_BARREL = (
    (-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242),
)  # fmt: skip  # exp(-2^k) in Q0


def logistic_table(source: Quantization) -> NDArray[np.int8]:
    """Logistic of -128..127; the output has scale 1/256 and zero point -128."""
    integer_bits = 4
    fraction, shift = math.frexp(source.scale * (1 << (31 - integer_bits)))
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    radius = _input_radius(integer_bits, shift)
    table = []
    for q in range(-128, 128):
        centred = q - source.zero_point
        if centred <= -radius:
            table.append(-128)
        elif centred >= radius:
            table.append(127)
        else:
            value = _logistic(scale_by(centred, multiplier, shift), integer_bits)
            table.append(min(127, max(-128, rounding_shift(value, 31 - 8) - 128)))
    return np.array(table, np.int8)


def hard_swish_table(source: Quantization, target: Quantization) -> NDArray[np.int8]:
    """Hard-swish of -128..127."""
    hires = np.float32(1.0 / 128.0) * np.float32(source.scale)
    reluish = np.float32(3.0 / 32768.0)
    output16, output_exponent = _multiplier16(float(hires / np.float32(target.scale)))
    reluish16, exponent = _multiplier16(float(hires / reluish))
    table = []
    for q in range(-128, 128):
        value = (q - source.zero_point) * 128
        preshift = _high_mul16(value, output16)
        gate = value
        if exponent > 0:
            gate = _saturate16(gate << (exponent - 1))
        gate = _high_mul16(gate, reluish16)
        if exponent > 0:
            gate = _saturate16(gate << 1)
        elif exponent < 0:
            gate = rounding_shift(gate, -exponent)
        gate = (gate + (1 << 15)) >> 1
        product = _saturate16(math.trunc(gate * preshift / (1 << 15)))
        result = rounding_shift(product, -output_exponent) + target.zero_point
        table.append(min(127, max(-128, result)))
    return np.array(table, np.int8)


def hard_swish_is_supported(source: Quantization, target: Quantization) -> bool:
    """TFLite Micro wants an output multiplier of at most 1; neither multiplier may be infinite in float32."""
    hires = np.float32(1.0 / 128.0) * np.float32(source.scale)
    with np.errstate(over="ignore"):
        output, reluish = float(hires / np.float32(target.scale)), float(hires / np.float32(3.0 / 32768.0))
    return math.isfinite(output) and math.isfinite(reluish) and _multiplier16(output)[1] <= 0


def softmax_table(scale: float, beta: float) -> NDArray[np.int32]:
    """exp(-beta * scale * d) in Q0 for d = 0..255; 0 where TFLite cuts the tail off."""
    integer_bits = 5
    real = min(beta * scale * (1 << (31 - integer_bits)), _MAX32)
    multiplier, shift = quantize_multiplier(real)
    lowest = -_input_radius(integer_bits, shift)
    table = []
    for distance in range(256):
        if -distance < lowest:
            table.append(0)
        else:
            table.append(_exp_of_negative(scale_by(-distance, multiplier, shift), integer_bits))
    return np.array(table, np.int64).astype(np.int32)


def _input_radius(integer_bits: int, shift: int) -> int:
    return math.floor(((1 << integer_bits) - 1) * (1 << (31 - integer_bits)) / 2.0**shift)


def _mul(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul."""
    if a == b == -(1 << 31):
        return _MAX32
    return (a * b + (1 << 30)) >> 31


def _times_power(x: int, exponent: int) -> int:
    """SaturatingRoundingMultiplyByPOT."""
    if exponent < 0:
        return rounding_shift(x, -exponent)
    return max(-(1 << 31), min(_MAX32, x << exponent))


def _exp_of_negative(a: int, integer_bits: int) -> int:
    """exp(a) in Q0 for a <= 0 in Q(integer_bits)."""
    if a == 0:
        return _MAX32
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    rest = (a & (quarter - 1)) - quarter
    result = _exp_near_zero(_times_power(rest, integer_bits))
    remainder = rest - a
    for exponent, factor in _EXP_BARREL:
        if integer_bits > exponent and remainder & (1 << (fractional_bits + exponent)):
            result = _mul(result, factor)
    return result


def _exp_near_zero(a: int) -> int:
    """exp(a) in Q0 for -1/4 <= a < 0 in Q0: Taylor around -1/8."""
    constant = 1895147668  # exp(-1/8)
    third = 715827883
    x = a + (1 << 28)
    x2 = _mul(x, x)
    x3 = _mul(x2, x)
    x4 = _mul(x2, x2)
    series = _times_power(_mul(_times_power(x4, -2) + x3, third) + x2, -1)
    return constant + _mul(constant, x + series)


def _reciprocal(a: int) -> int:
    """1 / (1 + a) in Q0 for 0 <= a < 1 in Q0: three Newton steps."""
    total = a + _MAX32
    half = (total + 1) // 2 if total >= 0 else -((-total + 1) // 2)
    x = 1515870810 + _mul(half, -1010580540)
    for _ in range(3):
        x += _times_power(_mul(x, (1 << 29) - _mul(half, x)), 2)
    return _times_power(x, 1)


def _logistic(a: int, integer_bits: int) -> int:
    """Logistic of `a` in Q(integer_bits), as Q0."""
    if a == 0:
        return 1 << 30
    positive = _reciprocal(_exp_of_negative(-abs(a), integer_bits))
    return positive if a > 0 else _MAX32 - positive


def _saturate16(x: int) -> int:
    return max(-(1 << 15), min((1 << 15) - 1, x))


def _high_mul16(a: int, b: int) -> int:
    if a == b == -(1 << 15):
        return (1 << 15) - 1
    return (a * b + (1 << 14)) >> 15


def _multiplier16(value: float) -> tuple[int, int]:
    multiplier, exponent = quantize_multiplier(value)
    if multiplier >= _MAX32 - (1 << 15):
        return (1 << 15) - 1, exponent
    return (multiplier + (1 << 15)) >> 16, exponent
