"""Made-up clips: what a front end is measured and checked with where there are no recordings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.frontend.config import FrontEnd


def probing_clips(front_end: FrontEnd) -> NDArray[np.int16]:
    """Clips (n, samples) of different loudness and kind, in which the front end takes all its branches: alike all the
    way, with silence after the sound as short recordings have it (branches then change their habits), and in bursts."""
    n = front_end.samples
    rng, time = np.random.default_rng(7), np.arange(n) / front_end.sample_rate
    chirp = 12_000 * np.sin(2 * np.pi * (100 + 0.4 * front_end.high_hz * time / max(time[-1], 1e-9)) * time)
    clips = [
        np.zeros(n),
        rng.integers(-32768, 32768, n),
        rng.normal(0, 30, n),
        chirp + rng.normal(0, 300, n),
        np.where(np.arange(n) < n // 2, rng.normal(0, 3000, n), 0),
        rng.normal(0, 1, n) * 2.0 ** np.linspace(0, 13, n),
        rng.normal(0, 6000, n) * np.repeat(rng.uniform(0, 1, n // 200 + 1) ** 3, 200)[:n],
    ]
    return np.stack([np.clip(np.rint(clip), -32768, 32767).astype(np.int16) for clip in clips])
