"""The audio front end: NumPy and C agree bit for bit, and both compute what log-mel energies are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.frontend import FrontEnd, features, frontend_sources
from pipeline.frontend.spectrum import energies, log2, power

_MAIN = """\
#include <stdio.h>
#include "frontend.h"
static int16_t samples[FRONTEND_SAMPLES];
static frontend_work_t work;
static int8_t out[FRONTEND_FRAMES * FRONTEND_COLUMNS];
int main(void) {
    while (fread(samples, sizeof samples, 1, stdin) == 1) {
        frontend_clip(&work, samples, out);
        fwrite(out, sizeof out, 1, stdout);
    }
    return 0;
}
"""

CONFIGURATIONS = {
    "default": FrontEnd(),
    "absolute": FrontEnd(samples=4000, level="absolute", range_db=80.0, bands=20),
    "mfcc": FrontEnd(samples=3000, coefficients=10),
    "wide": FrontEnd(sample_rate=16000, samples=4096, window=1024, hop=333, high_hz=8000.0, bands=64),
    "narrow": FrontEnd(samples=512, window=64, hop=64, bands=8, low_hz=100.0, coefficients=8),
}
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fsdd.npz"


def in_c(front_end: FrontEnd, clips: np.ndarray, folder: Path) -> np.ndarray:
    for name, text in {**frontend_sources(front_end), "main.c": _MAIN}.items():
        (folder / name).write_text(text)
    command = [
        "gcc",
        "-std=c11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wno-sign-conversion",
        "-Werror",
    ]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", "run"]
    sources = ["main.c", "frontend.c", "frontend_tables.c"]
    subprocess.run([*command, *sources], cwd=folder, check=True, timeout=120)
    done = subprocess.run(
        [folder / "run"], input=clips.tobytes(), capture_output=True, check=True, timeout=120
    )
    return np.frombuffer(done.stdout, np.int8).reshape(len(clips), *front_end.shape)


def sounds(front_end: FrontEnd) -> np.ndarray:
    """Noise of all loudnesses, tones, clicks, the extremes of int16, silence."""
    rng = np.random.default_rng(5)
    n = front_end.samples
    time = np.arange(n) / front_end.sample_rate
    clips = [rng.integers(-32768, 32768, n) >> shift for shift in range(0, 16, 3)]
    clips += [32767 * np.sin(2 * np.pi * hz * time) for hz in (50, 440, 3999)]
    clips += [np.full(n, -32768), np.full(n, 32767), np.where(np.arange(n) % 2, 32767, -32768), np.zeros(n)]
    clips += [np.where(np.arange(n) % 97 == 0, 30000, 0)]
    # the window's largest possible transform: every sample at its limit, with the sign of one frequency
    clips += [np.where(np.cos(2 * np.pi * np.arange(n) / 8) >= 0, 32767, -32768)]
    return np.stack(clips).astype(np.int16)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_c_equals_numpy(name: str, tmp_path: Path) -> None:
    front_end = CONFIGURATIONS[name]
    clips = sounds(front_end)
    expected = features(front_end, clips)
    np.testing.assert_array_equal(in_c(front_end, clips, tmp_path), expected)
    assert expected.dtype == np.int8 and len(np.unique(expected)) > 100


@pytest.mark.skipif(not SHARED.is_file(), reason="no spoken digits here")
def test_c_equals_numpy_on_speech(tmp_path: Path) -> None:
    front_end = FrontEnd()
    with np.load(SHARED) as archive:
        pcm, offset = archive["pcm"], archive["offset"]
    clips = np.zeros((60, front_end.samples), np.int16)
    for row, clip in enumerate(range(0, 3000, 50)):
        part = pcm[offset[clip] : offset[clip + 1]][: front_end.samples]
        clips[row, : len(part)] = part
    expected = features(front_end, clips)
    np.testing.assert_array_equal(in_c(front_end, clips, tmp_path), expected)
    assert (expected.max(axis=(1, 2, 3)) >= 126).all()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_close_to_floating_point(name: str) -> None:
    """Against NumPy's own transform: energies within 0.1 % where there is something to hear, logs within 0.01."""
    front_end = CONFIGURATIONS[name]
    frames = np.random.default_rng(1).normal(0, 3000, (40, front_end.window)).astype(np.int64)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(front_end.window) / front_end.window)
    spectrum = np.abs(np.fft.rfft(frames * hann)) ** 2
    ours = power(front_end, frames)
    assert np.abs(ours - spectrum).max() < 1e-3 * spectrum.max()
    mel = energies(front_end, ours)
    exact = np.stack([spectrum[:, f : f + len(w)] @ w for f, w in front_end.filters], axis=-1)
    np.testing.assert_allclose(mel, exact, rtol=5e-3)
    np.testing.assert_allclose(log2(mel) / 1024, np.log2(exact), atol=0.02)


def test_full_scale_tone_is_the_reference() -> None:
    front_end = FrontEnd(level="absolute")
    centre = 1000.0
    tone = np.rint(32767 * np.sin(2 * np.pi * centre * np.arange(8000) / 8000)).astype(np.int16)
    got = features(front_end, tone[None])[0, :, :, 0]
    assert 115 <= got.max() <= 127
    loudest = np.bincount(got.argmax(axis=1), minlength=front_end.bands).argmax()
    first, weights = front_end.filters[loudest]
    assert first <= 1000 / (8000 / 256) < first + len(weights)
    halved = features(front_end, (tone // 2)[None])[0, :, :, 0]
    assert abs(int(got.max()) - int(halved.max()) - 6.02 / 60 * 255) <= 2  # half the amplitude: 6 dB


def test_level_clip_forgets_the_loudness_but_not_silence() -> None:
    front_end = FrontEnd(range_db=40.0)
    noise = np.random.default_rng(0).integers(-8000, 8000, (1, 8000)).astype(np.int16)
    loud, quiet = features(front_end, noise), features(front_end, noise // 8)
    assert np.abs(loud.astype(int) - quiet).max() <= 2
    assert features(front_end, np.zeros((1, 8000), np.int16)).max() == -128


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"window": 200}, "window"), ({"samples": 100}, "samples"), ({"hop": 0}, "hop"), ({"bands": 100}, "bands"),
        ({"high_hz": 5000.0}, "high_hz"), ({"coefficients": 33}, "coefficients"), ({"level": "x"}, "level"),
        ({"range_db": 0.0}, "range_db"),
    ],
)  # fmt: skip
def test_impossible_configurations(change: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        FrontEnd(**change)
    assert error.value.hint


def test_wrong_clips() -> None:
    with pytest.raises(DataError, match="do not fit"):
        features(FrontEnd(), np.zeros((1, 7999), np.int16))
    with pytest.raises(DataError, match="float64"):
        features(FrontEnd(), np.zeros((1, 8000)))
    assert features(FrontEnd(), np.zeros((0, 8000), np.int16)).shape == (0, 49, 32, 1)
