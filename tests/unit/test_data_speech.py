"""Spoken digits and audio folders; options of [data] in run files; augmentation."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import load
from pipeline.data.dataset import grouped_split
from pipeline.data.options import AudioOptions
from pipeline.data.speech import fitted
from pipeline.data.wav import read_wav
from pipeline.errors import ConfigError, DataError
from pipeline.frontend import features
from pipeline.runfile import load_runfile

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fsdd.npz"
SHORT = AudioOptions(clip_ms=200)


def clip(digit: int, seed: int) -> np.ndarray:
    """A tone of the digit's own pitch with a little noise, 100 to 300 ms."""
    rng = np.random.default_rng(seed)
    time = np.arange(rng.integers(800, 2400)) / 8000
    return (8000 * np.sin(2 * np.pi * (300 + 300 * digit) * time) + rng.normal(0, 50, len(time))).astype(
        np.int16
    )


def write_wav(file: Path, samples: np.ndarray, rate: int = 8000, width: int = 2, channels: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())


def digits(folder: Path, speakers: tuple[str, ...] = ("ann", "ben", "cy"), count: int = 7) -> None:
    for place, speaker in enumerate(speakers):
        for digit in range(10):
            for index in range(count):
                write_wav(folder / f"{digit}_{speaker}_{index}.wav", clip(digit, 1000 * place + index))


def npz_of(folder: Path, file: Path, **change: Any) -> None:
    parts = sorted(folder.glob("*.wav"))
    samples = [read_wav(part, 8000) for part in parts]
    names = [part.stem.split("_") for part in parts]
    arrays = {
        "pcm": np.concatenate(samples), "offset": np.cumsum([0, *map(len, samples)]),
        "y": np.array([int(n[0]) for n in names], np.uint8), "speaker": np.array([n[1] for n in names]),
        "index": np.array([int(n[2]) for n in names], np.int16), "sample_rate": np.int32(8000), **change,
    }  # fmt: skip
    np.savez(file, **{key: value for key, value in arrays.items() if value is not None})


def owners(images: np.ndarray, folder: Path) -> set[str]:
    """Whose clips the images are."""
    front_end = SHORT.front_end
    known = {}
    for file in folder.glob("*.wav"):
        q = features(front_end, fitted([read_wav(file, 8000)], front_end.samples))
        known[(q.astype(np.int16) + 128).astype(np.uint8).tobytes()] = file.stem.split("_")[1]
    return {known[image.tobytes()] for image in images}


def test_speakers_are_kept_apart(tmp_path: Path) -> None:
    digits(tmp_path / "recordings")
    data = load("spoken_digits", path=tmp_path, options=SHORT)
    voices = [owners(x, tmp_path / "recordings") for x in (data.x_train, data.x_val, data.x_test)]
    assert [len(v) for v in voices] == [1, 1, 1] and len(set.union(*voices)) == 3
    assert data.input_shape == SHORT.front_end.shape == (9, 32, 1)
    assert data.front_end == SHORT.front_end and not data.mirror
    assert data.class_names == tuple("0123456789")
    named = load(
        "spoken_digits", path=tmp_path, options=AudioOptions(clip_ms=200, test_speakers=("ben", "cy"))
    )
    assert owners(named.x_test, tmp_path / "recordings") == {"ben", "cy"}
    assert "One speaker is left" in named.warnings[0]
    usual = load("spoken_digits", path=tmp_path, options=AudioOptions(clip_ms=200, split="clip"))
    assert len(usual.y_test) == 3 * 10 * 5 and len(owners(usual.x_test, tmp_path / "recordings")) == 3


def test_npz_is_the_same(tmp_path: Path) -> None:
    digits(tmp_path / "wav")
    npz_of(tmp_path / "wav", tmp_path / "fsdd.npz")
    a = load("spoken_digits", path=tmp_path / "wav", options=SHORT)
    b = load("spoken_digits", path=tmp_path, options=SHORT)
    for split in ("x_train", "y_train", "x_val", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(a, split), getattr(b, split))


@pytest.mark.skipif(not SHARED.is_file(), reason="no spoken digits here")
def test_real_digits() -> None:
    options = AudioOptions(coefficients=13)
    data = load("spoken_digits", path=SHARED, options=options, limit=100)
    assert data.input_shape == (49, 13, 1) and len(np.unique(data.y_test)) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speaker": None}, "lacks an array: speaker"),
        ({"offset": np.arange(5)}, "do not fit together"),
        ({"sample_rate": np.int32(16000)}, "16000 samples a second"),
        ({"y": np.full(210, 3)}, "no image of: 0"),
    ],
)
def test_damaged_npz(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    digits(tmp_path / "wav")
    npz_of(tmp_path / "wav", tmp_path / "x.npz", **change)
    with pytest.raises(DataError, match=message) as error:
        load("spoken_digits", path=tmp_path / "x.npz", options=SHORT)
    assert error.value.hint


def test_no_digits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no spoken digits at") as error:
        load("spoken_digits", path=tmp_path)
    assert "--data" in error.value.hint
    digits(tmp_path, count=2)
    with pytest.raises(DataError, match="test_speakers cannot be bob") as error:
        load("spoken_digits", path=tmp_path, options=AudioOptions(test_speakers=("bob",)))
    assert "ann, ben, cy" in error.value.hint
    (tmp_path / "noise.wav").write_bytes((tmp_path / "1_ann_0.wav").read_bytes())
    with pytest.raises(DataError, match="not named DIGIT_SPEAKER_INDEX"):
        load("spoken_digits", path=tmp_path)


def test_audio_folder(tmp_path: Path) -> None:
    for label, digit in (("no", 1), ("yes", 5)):
        for speaker in range(8):
            for index in range(3):
                write_wav(
                    tmp_path / "a" / label / f"s{speaker}_nohash_{index}.wav",
                    clip(digit, 50 * speaker + index),
                )
                write_wav(tmp_path / "b" / label / f"{speaker}{index}.wav", clip(digit, 50 * speaker + index))
    data = load("audio_folder", path=tmp_path / "a", options=SHORT)
    assert data.class_names == ("no", "yes") and not data.warnings
    assert [len(y) for y in (data.y_train, data.y_val, data.y_test)] == [30, 6, 12]  # 5, 1 and 2 voices
    unknown = load("audio_folder", path=tmp_path / "b", options=SHORT, validation=0.25)
    assert "not known" in unknown.warnings[0] and len(unknown.y_test) == 10
    with pytest.raises(DataError, match="needs a path"):
        load("audio_folder")


def test_wav_formats(tmp_path: Path) -> None:
    file = tmp_path / "x.wav"
    value = np.array([-32768, -256, 0, 256, 32512], np.int64)
    write_wav(file, (value // 256 + 128).astype(np.uint8), width=1)
    assert read_wav(file, 8000).tolist() == value.tolist()
    write_wav(file, (value * 65536).astype("<i4"), width=4)
    assert read_wav(file, 8000).tolist() == value.tolist()
    three = (value * 256).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    write_wav(file, np.ascontiguousarray(three), width=3)
    assert read_wav(file, 8000).tolist() == value.tolist()
    write_wav(file, np.array([[10, 20], [-10, -30]], "<i2"), channels=2)
    assert read_wav(file, 8000).tolist() == [15, -20]
    with pytest.raises(DataError, match="8000 samples a second") as error:
        read_wav(file, 16000)
    assert "data.sample_rate = 8000" in error.value.hint
    whole = file.read_bytes()
    for damage in (b"", b"text", whole[:30], whole[:-3]):
        file.write_bytes(damage)
        with pytest.raises(DataError, match=r"x\.wav") as error:
            read_wav(file, 8000)
        assert error.value.hint


def test_fitted() -> None:
    rows = fitted([np.array([1, 2], np.int16), np.arange(10, dtype=np.int16)], 4)
    assert rows.tolist() == [[0, 1, 2, 0], [3, 4, 5, 6]]


def test_grouped_split() -> None:
    groups = np.repeat([0, 1, 2, 3, 4], [10, 20, 30, 5, 35])
    for seed in range(5):
        kept, held = grouped_split(groups, 0.3, seed)
        assert not set(groups[kept]) & set(groups[held]) and len(kept) + len(held) == 100 and len(held)
    with pytest.raises(DataError, match="one group"):
        grouped_split(np.zeros(5, np.int64), 0.5, 0)


RUN = """\
board = "qemu-cortex-m4"

[data]
name = "spoken_digits"
{keys}

[budgets]
latency_ms = 50.0
"""


def test_run_file_options(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(RUN.format(keys='bands = 20\ntest_speakers = ["ann"]\npath = "x"'))
    run = load_runfile(file)
    assert run.data.path == "x" and run.data_options == AudioOptions(bands=20, test_speakers=("ann",))
    assert run.to_json()["data_options"]["bands"] == 20


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ("bands = 200", r"run.toml:5: bands = 200"),
        ('split = "voice"', r"run.toml:5: data.split = 'voice'"),
        ("window = 100", r"run.toml:5: window = 100"),
        ("clip_ms = 5", r"run.toml:5: data.clip_ms = 5"),
        ("shape = [8, 8, 3]", r"run.toml:5: 'data.shape' is not a known key"),
        ('bands = "many"', r"run.toml:5: 'data.bands' must be an integer"),
    ],
)
def test_run_file_errors(tmp_path: Path, keys: str, complaint: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(RUN.format(keys=keys))
    with pytest.raises(ConfigError, match=complaint) as error:
        load_runfile(file)
    assert error.value.hint


def test_cutout_and_mixup() -> None:
    torch = pytest.importorskip("torch")
    from pipeline.train.batches import Batches
    from pipeline.train.config import TrainConfig

    x = np.random.default_rng(0).integers(100, 256, (40, 12, 12, 3), np.uint8)
    y = np.arange(40) % 4

    def batches(**settings: Any) -> Batches:
        return Batches(x, y, TrainConfig(batch_size=20, **settings), classes=4, seed=7, mirror=False)

    plain, labels = batches()[3]
    cut, same = batches(cutout=5)[3]
    assert torch.equal(labels, same)
    changed = (plain != cut).any(dim=1)
    blank = int(np.rint(x.mean())) / 255
    assert torch.allclose(cut.permute(0, 2, 3, 1)[changed], torch.tensor(blank))
    assert 0 < int(changed.sum(dim=(1, 2)).max()) <= 25 and bool(changed.any(dim=2).any(dim=1).all())
    assert torch.equal(batches(cutout=5)[3][0], cut)  # a function of seed and step

    mixed, shares = batches(mixup=0.4)[3]
    assert shares.shape == (20, 4) and torch.allclose(shares.sum(dim=1), torch.ones(20))
    assert float(mixed.min()) >= 0 and float(mixed.max()) <= 1 and not torch.equal(mixed, plain)
    assert torch.equal(batches(mixup=0.4)[3][1], shares)
    with pytest.raises(ConfigError, match="cutout"):
        TrainConfig(cutout=-1)
