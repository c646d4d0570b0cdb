"""WAV files to 16-bit mono samples."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError


def read_wav(file: Path, sample_rate: int) -> NDArray[np.int16]:
    """Samples of an uncompressed WAV file of 8, 16, 24 or 32 bits; several channels are averaged.

    Raises DataError for a damaged or compressed file, and for another sample rate.
    """
    try:
        with wave.open(str(file), "rb") as reader:
            rate, width, channels = reader.getframerate(), reader.getsampwidth(), reader.getnchannels()
            promised = reader.getnframes()
            raw = reader.readframes(promised)
    except (OSError, EOFError, wave.Error, RuntimeError) as error:
        raise DataError(
            f"{file} cannot be read: {error or 'it ends early'}", hint="an uncompressed WAV file is needed"
        ) from error
    if rate != sample_rate:
        raise DataError(
            f"{file} has {rate} samples a second, the front end {sample_rate}",
            hint=f"set data.sample_rate = {rate}, or convert the files",
        )
    if width not in (1, 2, 3, 4) or len(raw) != promised * width * channels or not raw:
        raise DataError(
            f"{file}: {len(raw)} bytes for {promised} samples of {8 * width} bits in {channels} channels",
            hint="the file is cut off or empty: replace or remove it",
        )
    if width == 1:  # unsigned
        samples = (np.frombuffer(raw, np.uint8).astype(np.int64) - 128) << 8
    else:  # the two most significant bytes of each sample
        samples = np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(-1, width)[:, -2:]).view("<i2")
    frames = samples.astype(np.int64).reshape(-1, channels)
    return (frames.sum(axis=1) // channels).astype(np.int16)
