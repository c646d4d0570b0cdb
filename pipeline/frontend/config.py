"""FrontEnd: what the audio front end computes, and the tables that say so in integers."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Ints = NDArray[np.int64]

# Fixed-point formats, shared with firmware/frontend/frontend.c. Samples carry SAMPLE_BITS fractional bits
# through the Fourier transform: its values then stay below 2**30 for windows of up to 1024 samples.
WINDOW_BITS = 15
SAMPLE_BITS = 4
TWIDDLE_BITS = 30
POWER_SHIFT = 2 * (SAMPLE_BITS + 1)  # the transform yields twice the spectrum
MEL_BITS = 12
LOG_BITS = 10  # of the base-2 logarithm's fraction
LOG_TABLE_BITS = 6
LOG_ENTRY_BITS = 14
FLOOR = 1 << 18  # added to each energy: below what rounding to 16 bits adds to any recording
DCT_BITS = 14
GAIN_BITS = 16
WINDOWS = (64, 128, 256, 512, 1024)
_DB_PER_OCTAVE = 10 * np.log10(2.0)  # of power
_QUIETEST_REFERENCE_DB = -50.0  # of a full-scale sine: a silent clip is not blown up to full loudness
_BACKGROUND_GAIN = 2.0  # of the MFCCs from the second on: they vary far less than the loudness


@dataclass(frozen=True, slots=True)
class FrontEnd:
    """Log-mel energies (`coefficients` 0) or MFCCs of 16-bit mono PCM, as int8.

    window, hop: samples per frame (a power of two) and from one frame to the next. bands: of the mel scale
    between low_hz and high_hz. range_db: what the int8 range spans, downwards from the reference, which is
    the loudest band of the clip (level "clip") or that of a full-scale sine ("absolute").
    Raises ConfigError, naming the field, for what cannot be computed.
    """

    sample_rate: int = 8000
    samples: int = 8000
    window: int = 256
    hop: int = 160
    bands: int = 32
    coefficients: int = 0
    low_hz: float = 60.0
    high_hz: float = 4000.0
    range_db: float = 60.0
    level: str = "clip"

    def __post_init__(self) -> None:
        self._require(self.sample_rate >= 1000, "sample_rate", "at least 1000 Hz")
        self._require(self.window in WINDOWS, "window", f"one of {', '.join(map(str, WINDOWS))} samples")
        self._require(self.samples >= self.window, "samples", f"at least one window ({self.window})")
        self._require(self.hop >= 1, "hop", "at least 1 sample")
        self._require(2 <= self.bands <= 128, "bands", "2 to 128")
        self._require(0 <= self.coefficients <= self.bands, "coefficients", "at most the number of bands")
        self._require(
            0 <= self.low_hz < self.high_hz <= self.sample_rate / 2, "high_hz",
            f"above low_hz and at most half the sample rate ({self.sample_rate / 2:g} Hz)",
        )  # fmt: skip
        self._require(6 <= self.range_db <= 150, "range_db", "6 to 150 dB")
        self._require(self.level in ("clip", "absolute"), "level", "'clip' or 'absolute'")
        least = 1 << (MEL_BITS - 2)  # narrower bands than the transform resolves say nothing
        empty = [band for band, (_, weights) in enumerate(self.filters) if weights.max() < least]
        self._require(
            not empty, "bands", f"few enough for the window: band {empty[0] if empty else 0} holds no "
            f"frequency of the {self.window}-sample transform; use fewer bands or a longer window",
        )  # fmt: skip

    def _require(self, fine: bool, name: str, wanted: str) -> None:
        if not fine:
            raise ConfigError(
                f"{name} = {getattr(self, name)!r} cannot be used", hint=f"it must be {wanted}", key=name
            )

    @property
    def frames(self) -> int:
        """Whole windows in a clip."""
        return (self.samples - self.window) // self.hop + 1

    @property
    def columns(self) -> int:
        """Features of one frame."""
        return self.coefficients or self.bands

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, features, 1): the network's input."""
        return self.frames, self.columns, 1

    @property
    def sound_bytes(self) -> int:
        """One clip."""
        return 2 * self.samples

    @property
    def work_bytes(self) -> int:
        """The C front end's working memory, frontend_work_t."""
        return 4 * (self.window + self.frames * self.bands)

    @property
    def window_table(self) -> Ints:
        """Periodic Hann window, Q15."""
        phase = 2 * np.pi * np.arange(self.window) / self.window
        return _rounded((0.5 - 0.5 * np.cos(phase)) * ((1 << WINDOW_BITS) - 1))

    @property
    def twiddles(self) -> tuple[Ints, Ints]:
        """cos and sin of 2 pi k / window for k < window / 2, Q30."""
        phase = 2 * np.pi * np.arange(self.window // 2) / self.window
        return _rounded(np.cos(phase) * (1 << TWIDDLE_BITS)), _rounded(np.sin(phase) * (1 << TWIDDLE_BITS))

    @property
    def reversal(self) -> Ints:
        """Bit-reversed indices of the half-length complex transform."""
        bits = (self.window // 2).bit_length() - 1
        index = np.arange(self.window // 2)
        return np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in index], np.int64)

    @property
    def filters(self) -> tuple[tuple[int, Ints], ...]:
        """(first bin, weights Q12) of each band: triangles that are even on the mel scale."""
        return _filters(self.sample_rate, self.window, self.bands, self.low_hz, self.high_hz)

    @property
    def dct(self) -> Ints:
        """(coefficients, bands) Q14: DCT-II; the first row is the mean, the others twice the mean product."""
        rows, columns = np.arange(self.coefficients)[:, None], np.arange(self.bands)[None, :]
        basis = np.cos(np.pi * rows * (columns + 0.5) / self.bands) / self.bands
        return _rounded(np.where(rows == 0, basis, 2 * basis) * (1 << DCT_BITS))

    @property
    def gains(self) -> Ints:
        """int8 steps for one unit of the logarithm, Q16, per feature."""
        span = self.range_db / _DB_PER_OCTAVE * (1 << LOG_BITS)
        gain = np.full(self.columns, 255 / span * (1 << GAIN_BITS))
        if self.coefficients:
            gain[1:] *= _BACKGROUND_GAIN
        return _rounded(gain)

    @property
    def biases(self) -> Ints:
        """int8 value of a feature that is 0: 127 (as loud as the reference), or 0 for the higher MFCCs."""
        bias = np.full(self.columns, 127, np.int64)
        if self.coefficients:
            bias[1:] = 0
        return bias

    @property
    def reference(self) -> int:
        """Level of the loudest band of a full-scale sine, in units of 2**-10 octaves of energy."""
        amplitude = 32767 * self.window / 4  # its spectral line behind a Hann window
        energy = 1.5 * amplitude**2 * (1 << MEL_BITS)  # with its two neighbours, each half as high
        return round(float(np.log2(energy)) * (1 << LOG_BITS))

    @property
    def quietest_reference(self) -> int:
        """The clip's reference is at least this (same units)."""
        if self.level == "absolute":
            return self.reference
        return self.reference + round(_QUIETEST_REFERENCE_DB / _DB_PER_OCTAVE * (1 << LOG_BITS))


def log_table() -> Ints:
    """log2(1 + i / 64), Q14, 65 entries."""
    steps = 1 << LOG_TABLE_BITS
    return _rounded(np.log2(1 + np.arange(steps + 1) / steps) * (1 << LOG_ENTRY_BITS))


@functools.lru_cache(maxsize=32)
def _filters(
    rate: int, window: int, bands: int, low_hz: float, high_hz: float
) -> tuple[tuple[int, Ints], ...]:
    def mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return 2595 * np.log10(1 + np.asarray(hz, np.float64) / 700)

    edges = np.linspace(mel(low_hz), mel(high_hz), bands + 2)
    bins = mel(np.arange(window // 2 + 1) * rate / window)
    found = []
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
        weights = _rounded(np.clip(np.minimum(rising, falling), 0, 1) * (1 << MEL_BITS))
        used = np.flatnonzero(weights)
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        found.append((first, weights[first:last]))
    return tuple(found)


def _rounded(values: NDArray[np.float64]) -> Ints:
    return np.rint(values).astype(np.int64)
