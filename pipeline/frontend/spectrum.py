"""The front end's arithmetic in NumPy: integers only, bit for bit what firmware/frontend/frontend.c computes.

Every division is a shift that rounds half up; `>>` rounds towards minus infinity here and there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.frontend.config import (
    DCT_BITS,
    FLOOR,
    GAIN_BITS,
    LOG_BITS,
    LOG_ENTRY_BITS,
    LOG_TABLE_BITS,
    POWER_SHIFT,
    SAMPLE_BITS,
    TWIDDLE_BITS,
    WINDOW_BITS,
    FrontEnd,
    Ints,
    log_table,
)

_CLIPS_AT_ONCE = 32  # bounds the memory: some 20 MB for one-second clips


def features(front_end: FrontEnd, clips: NDArray[np.int16]) -> NDArray[np.int8]:
    """int8 features (n, frames, columns, 1) of clips (n, samples) int16.

    Raises DataError for clips of another type or length.
    """
    if clips.dtype != np.int16 or clips.ndim != 2 or clips.shape[1] != front_end.samples:
        raise DataError(
            f"clips of {clips.dtype} {clips.shape} do not fit the front end",
            hint=f"16-bit samples, {front_end.samples} a clip",
        )
    parts = [
        _features(front_end, clips[at : at + _CLIPS_AT_ONCE]) for at in range(0, len(clips), _CLIPS_AT_ONCE)
    ]
    return np.concatenate([np.empty((0, *front_end.shape), np.int8), *parts])


def _features(front_end: FrontEnd, clips: NDArray[np.int16]) -> NDArray[np.int8]:
    windows = np.lib.stride_tricks.sliding_window_view(clips, front_end.window, axis=1)[:, :: front_end.hop]
    levels = log2(energies(front_end, power(front_end, windows.astype(np.int64))))
    reference = np.full(len(clips), front_end.quietest_reference, np.int64)
    if front_end.level == "clip":
        reference = np.maximum(reference, levels.max(axis=(1, 2)))
    levels = levels - reference[:, None, None]
    if front_end.coefficients:
        levels = _shifted(levels @ front_end.dct.T, DCT_BITS)
    quantized = _shifted(levels * front_end.gains, GAIN_BITS) + front_end.biases
    return np.clip(quantized, -128, 127).astype(np.int8)[..., None]


def power(front_end: FrontEnd, frames: Ints) -> Ints:
    """Power spectrum (..., window / 2 + 1) of frames (..., window) of 16-bit samples.

    The even and odd samples are the real and imaginary part of one complex transform of half the length.
    """
    windowed = _shifted(frames * front_end.window_table, WINDOW_BITS - SAMPLE_BITS)
    even, odd = windowed[..., 0::2], windowed[..., 1::2]
    real, imaginary = _transform(front_end, even, odd)
    half = front_end.window // 2
    k = np.arange(half + 1)
    cos, sin = (np.append(table, 0) for table in front_end.twiddles)
    cos[half] = -(1 << TWIDDLE_BITS)
    near, far = k % half, (half - k) % half
    sum_re = real[..., near] + real[..., far]
    sum_im = imaginary[..., near] - imaginary[..., far]
    diff_re = real[..., near] - real[..., far]
    diff_im = imaginary[..., near] + imaginary[..., far]
    # twice the spectrum: sum - j (cos - j sin) difference
    re = sum_re + _shifted(diff_im * cos - diff_re * sin, TWIDDLE_BITS)
    im = sum_im - _shifted(diff_re * cos + diff_im * sin, TWIDDLE_BITS)
    return (re * re + im * im) >> POWER_SHIFT


def energies(front_end: FrontEnd, spectrum: Ints) -> Ints:
    """Mel band energies (..., bands), Q12, of a power spectrum."""
    bands = [spectrum[..., first : first + len(weights)] @ weights for first, weights in front_end.filters]
    return np.stack(bands, axis=-1)


def log2(energy: Ints) -> Ints:
    """log2(energy + FLOOR) in units of 2**-10, by a table of 64 steps with linear interpolation."""
    value = energy + FLOOR
    exponent = np.zeros_like(value)
    rest = value.copy()
    for bits in (32, 16, 8, 4, 2, 1):
        large = rest >= np.int64(1) << bits
        exponent = np.where(large, exponent + bits, exponent)
        rest = np.where(large, rest >> bits, rest)
    # FLOOR makes the exponent at least 18, so that 16 bits of fraction are there
    fraction = (value >> (exponent - 16)) & 0xFFFF
    inner = 16 - LOG_TABLE_BITS
    index, between = fraction >> inner, fraction & ((1 << inner) - 1)
    table = log_table()
    mixed = table[index] * ((1 << inner) - between) + table[index + 1] * between
    result: Ints = (exponent << LOG_BITS) + _shifted(mixed, inner + LOG_ENTRY_BITS - LOG_BITS)
    return result


def _transform(front_end: FrontEnd, real: Ints, imaginary: Ints) -> tuple[Ints, Ints]:
    """Complex transform of length window / 2: decimation in time, radix 2, no scaling."""
    order = front_end.reversal
    real, imaginary = real[..., order], imaginary[..., order]
    cos, sin = front_end.twiddles
    size = 2
    while size <= len(order):
        shape = (*real.shape[:-1], len(order) // size, 2, size // 2)
        re: Ints = real.reshape(shape)
        im: Ints = imaginary.reshape(shape)
        step = front_end.window // size
        c, s = cos[::step][: size // 2], sin[::step][: size // 2]
        turned_re = _shifted(re[..., 1, :] * c + im[..., 1, :] * s, TWIDDLE_BITS)
        turned_im = _shifted(im[..., 1, :] * c - re[..., 1, :] * s, TWIDDLE_BITS)
        real = np.stack((re[..., 0, :] + turned_re, re[..., 0, :] - turned_re), axis=-2).reshape(real.shape)
        imaginary = np.stack((im[..., 0, :] + turned_im, im[..., 0, :] - turned_im), axis=-2)
        imaginary = imaginary.reshape(real.shape)
        size *= 2
    return real, imaginary


def _shifted(value: Ints, bits: int) -> Ints:
    """value / 2**bits, rounded half up."""
    result: Ints = (value + (1 << (bits - 1))) >> bits
    return result
