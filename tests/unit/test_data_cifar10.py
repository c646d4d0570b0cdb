"""CIFAR-10 in all its forms: on small files made here."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data import cifar10, load
from pipeline.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10_jpeg.npz"
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def batch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """20 images (n, 32, 32, 3), two of each class."""
    return np.random.default_rng(seed).integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20) % 10


def planes(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


def write_python(folder: Path, protocol: int = 2) -> None:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(BATCHES):
        x, y = batch(seed)
        raw = {b"data": planes(x), b"labels": y.tolist(), b"batch_label": b"x", b"filenames": [b"f"] * 20}
        (folder / name).write_bytes(pickle.dumps(raw, protocol=protocol))


def write_binary(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(BATCHES):
        x, y = batch(seed)
        rows = np.concatenate([y.astype(np.uint8)[:, None], planes(x)], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def archive(folder: Path, top: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, arcname=top)
    return buffer.getvalue()


def encoded(x: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, kind)
    return buffer.getvalue()


def jpeg_arrays() -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"class_names": np.array(cifar10.CLASS_NAMES)}
    for seed, part in enumerate(("train", "test")):
        x, y = batch(seed)
        files = [encoded(image) for image in x]  # PNG is as good, and keeps every pixel
        arrays[f"jpeg_{part}"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"offset_{part}"] = np.cumsum([0, *map(len, files)])
        arrays[f"y_{part}"] = y.astype(np.uint8)
    return arrays


def same_images(data: Any) -> None:
    expected = {
        image.tobytes(): label for seed in range(5) for image, label in zip(*batch(seed), strict=True)
    }
    got = {x.tobytes(): y for x, y in zip(data.x_train, data.y_train, strict=True)}
    got |= {x.tobytes(): y for x, y in zip(data.x_val, data.y_val, strict=True)}
    assert got == expected
    x, y = batch(5)
    assert {i.tobytes(): c for i, c in zip(data.x_test, data.y_test, strict=True)} == {
        i.tobytes(): c for i, c in zip(x, y, strict=True)
    }


@pytest.mark.parametrize("protocol", [2, 5])
def test_python_batches(tmp_path: Path, protocol: int) -> None:
    write_python(tmp_path / "cifar-10-batches-py", protocol)
    same_images(load("cifar10", path=tmp_path))
    same_images(load("cifar10", path=tmp_path / "cifar-10-batches-py"))


def test_binary_batches_and_archives(tmp_path: Path) -> None:
    write_binary(tmp_path / "cifar-10-batches-bin")
    same_images(load("cifar10", path=tmp_path))
    file = tmp_path / "cifar-10-binary.tar.gz"
    file.write_bytes(archive(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin"))
    same_images(load("cifar10", path=file))
    write_python(tmp_path / "py")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / cifar10.ARCHIVE).write_bytes(archive(tmp_path / "py", "cifar-10-batches-py"))
    same_images(load("cifar10", path=tmp_path / "other"))


def test_images_in_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10_jpeg.npz", **jpeg_arrays())
    data = load("cifar10", path=tmp_path, validation=0.5)
    assert {i.tobytes() for i in data.x_test} == {i.tobytes() for i in batch(1)[0]}
    assert "JPEG" in data.warnings[0]
    x, y = batch(3)
    np.savez(
        tmp_path / "plain.npz", x_train=x, y_train=y[:, None], x_test=x, y_test=y[:, None]
    )  # Keras' labels
    assert load("cifar10", path=tmp_path / "plain.npz", validation=0.5).class_names[3] == "cat"


@pytest.mark.skipif(not SHARED.is_file(), reason="no CIFAR-10 here")
def test_real_images() -> None:
    data = load("cifar10", path=SHARED, limit=200)
    assert data.input_shape == (32, 32, 3) and data.mirror and data.classes == 10
    assert 100 < data.x_test.mean() < 140


def test_download(nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no route to host") as error:
        load("cifar10")
    assert "--data" in error.value.hint
    write_python(tmp_path / "py")
    raw = archive(tmp_path / "py", "cifar-10-batches-py")
    asked: list[str] = []

    def serve(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(raw)

    monkeypatch.setattr("urllib.request.urlopen", serve)
    with pytest.raises(DataError, match="checksum"):
        load("cifar10")
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(raw).hexdigest())
    same_images(load("cifar10"))
    same_images(load("cifar10"))
    assert asked == [cifar10.URL] * 2  # the second time from the cache


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("1/0",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3", None, "data_batch_3 cannot be read"),
        ("data_batch_3", b"junk", "not a CIFAR-10 batch"),
        ("data_batch_3", pickle.dumps({b"data": Evil(), b"labels": [1]}), "no place in a CIFAR-10 batch"),
        ("data_batch_3", pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [1, 2]}), r"\(2, 5\)"),
        ("test_batch", pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]}), "no image of: airplane"),
        ("test_batch", pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1, 2]}), "labels of shape"),
    ],
)  # fmt: skip
def test_damaged_batches(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    write_python(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load("cifar10", path=tmp_path)
    assert error.value.hint or "labels" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"jpeg_train": None}, "lacks an array"),
        ({"offset_train": np.arange(21) * 10}, "image 0 cannot be read"),
        ({"offset_train": np.arange(21)[::-1]}, "offsets do not fit"),
        ({"offset_train": np.arange(21) * 10**6}, "offsets do not fit"),
        ({"y_train": np.full(20, 0.5)}, "float64"),
    ],
)
def test_damaged_npz(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    kept = {key: value for key, value in {**jpeg_arrays(), **change}.items() if value is not None}
    np.savez(tmp_path / "x.npz", **kept)
    with pytest.raises(DataError, match=message):
        load("cifar10", path=tmp_path / "x.npz")


def test_damaged_archives(tmp_path: Path) -> None:
    write_binary(tmp_path / "bin")
    raw = archive(tmp_path / "bin", "x")
    for name, content in (("short.tar.gz", raw[: len(raw) // 2]), ("text.tar.gz", b"text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="not a readable archive"):
            load("cifar10", path=tmp_path / name)
    (tmp_path / "bin" / "data_batch_1.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="not whole records"):
        load("cifar10", path=tmp_path / "bin")
    with pytest.raises(DataError, match="no CIFAR-10 at"):
        load("cifar10", path=tmp_path / "none")
