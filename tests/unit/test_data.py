"""Data sets: where they are looked for, what damage is noticed, how they are split."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import fashion_mnist, load, names, places, register
from pipeline.data.dataset import Arrays, stratified_split
from pipeline.data.idx import read_idx
from pipeline.errors import DataError


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)


def arrays() -> dict[str, np.ndarray]:
    """400 training and 60 test images, ordered by class as the real file is."""
    return {
        "x_train": images(400, 1),
        "y_train": np.repeat(np.arange(10), 40),
        "x_test": images(60, 2),
        "y_test": np.repeat(np.arange(10), 6),
    }


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    file = tmp_path / "fashion_mnist.npz"
    np.savez_compressed(file, **arrays())
    return file


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def test_file_and_folder_are_the_same(npz: Path) -> None:
    by_file, by_folder = load(path=npz, seed=3), load(path=npz.parent, seed=3)
    assert by_file.x_train.shape == (360, 28, 28, 1)
    assert by_file.x_val.shape == (40, 28, 28, 1)
    assert by_file.x_test.shape == (60, 28, 28, 1)
    assert by_file.y_train.dtype == np.int64
    assert by_file.input_shape == (28, 28, 1)
    assert by_file.source == str(npz)
    assert not by_file.warnings
    np.testing.assert_array_equal(by_file.x_train, by_folder.x_train)


def test_splits_are_disjoint_complete_and_stratified(npz: Path) -> None:
    data = load(path=npz, validation=0.25, seed=5)
    parts = [{image.tobytes() for image in part} for part in (data.x_train, data.x_val)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {image.tobytes() for image in arrays()["x_train"]}
    assert np.bincount(data.y_val).tolist() == [10] * 10
    assert {image.tobytes() for image in data.x_test} == {image.tobytes() for image in arrays()["x_test"]}
    # labels travel with their images, and nothing is left in class order
    truth = dict(zip((i.tobytes() for i in arrays()["x_train"]), arrays()["y_train"], strict=True))
    assert all(truth[x.tobytes()] == y for x, y in zip(data.x_val, data.y_val, strict=True))
    assert (np.diff(data.y_train) < 0).any() and (np.diff(data.y_test) < 0).any()


def test_seed_decides_the_split_but_never_the_test_order(npz: Path) -> None:
    a, b, other = load(path=npz, seed=1), load(path=npz, seed=1), load(path=npz, seed=2)
    np.testing.assert_array_equal(a.x_val, b.x_val)
    assert not np.array_equal(a.x_val, other.x_val)
    np.testing.assert_array_equal(a.x_test, other.x_test)


def test_limit_cuts_each_split(npz: Path) -> None:
    data = load(path=npz, limit=20)
    assert [len(part) for part in (data.y_train, data.y_val, data.y_test)] == [20, 20, 20]


@pytest.mark.parametrize("seed", [0, 8])  # at 8 the first 19 training images have no 6
def test_limit_keeps_every_class(seed: int) -> None:
    data = load("digits", limit=19, seed=seed)
    for labels in (data.y_train, data.y_val, data.y_test):
        assert len(labels) == 19 and sorted(set(labels.tolist())) == list(range(10))
    whole = load("digits", seed=seed)
    same = (data.x_train[:, None] == whole.x_train[None, :40]).all((2, 3, 4))
    assert same.any(1).sum() >= 17  # the first of the order, but for those that gave way
    np.testing.assert_array_equal(load("digits", limit=100).y_test, load("digits").y_test[:100])


def test_limit_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"limit = 9 leaves the train split without an image of: \d\n"
    ) as error:
        load("digits", limit=9)
    assert "at least 10" in error.value.hint


def test_class_that_the_validation_split_lacks_is_named(tmp_path: Path) -> None:
    raw = arrays()
    rare = np.ones(400, bool)
    rare[:39] = False  # one image of the first class, which stays in training
    np.savez(tmp_path / "fashion_mnist.npz", **raw | {k: raw[k][rare] for k in ("x_train", "y_train")})
    with pytest.raises(DataError, match="the validation split has no image of: T-shirt/top"):
        load(path=tmp_path)


def test_data_that_lack_a_class_are_taken_where_the_others_are_named(tmp_path: Path) -> None:
    """A device's own images are often of a few classes; the labels keep their numbers."""
    raw = arrays()
    for split in ("train", "test"):
        kept = np.isin(raw[f"y_{split}"], (0, 3, 9))
        raw |= {f"{name}_{split}": raw[f"{name}_{split}"][kept] for name in "xy"}
    np.savez(tmp_path / "fashion_mnist.npz", **raw)
    with pytest.raises(DataError, match="the train split has no image of: Trouser") as error:
        load(path=tmp_path)
    assert "keep_classes in [data.shift]" in error.value.hint
    with pytest.raises(DataError, match="has no image of: Pullover"):
        load(path=tmp_path, present=(0, 2, 3, 9))
    data = load(path=tmp_path, present=(0, 3, 9))
    assert data.classes == 10
    for labels in (data.y_train, data.y_val, data.y_test):
        assert set(labels.tolist()) == {0, 3, 9}
    with pytest.raises(DataError, match="limit = 2 leaves the train split without an image of") as error:
        load(path=tmp_path, present=(0, 3, 9), limit=2)
    assert "at least 3" in error.value.hint


@pytest.mark.parametrize("wrong", [{"validation": 0.0}, {"validation": 1.0}, {"limit": 0}])
def test_wrong_settings(npz: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        load(path=npz, **wrong)


def test_rare_class_stays_in_training() -> None:
    kept, held = stratified_split(np.array([0] * 10 + [1]), 0.5, seed=0)
    assert 10 in kept and len(held) == 5


def test_environment_comes_before_neighbours(
    npz: Path, nowhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbour = tmp_path / "a" / "shared" / "data"
    neighbour.mkdir(parents=True)
    (neighbour / npz.name).write_bytes(npz.read_bytes())
    assert load().source == str(neighbour / npz.name)
    monkeypatch.setenv(places.ENVIRONMENT, str(npz.parent))
    assert load().source == str(npz)


def test_stand_in_says_so(nowhere: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(places.ENVIRONMENT, str(tmp_path / "empty"))
    data = load()
    assert data.source == "scikit-learn's bundled digits"
    assert data.input_shape == (28, 28, 1) and data.classes == 10 and not data.mirror
    assert len(data.x_train) + len(data.x_val) + len(data.x_test) == 1797
    assert len(data.warnings) == 1
    for part in ("no route to host", "not those of Fashion-MNIST", str(tmp_path / "empty")):
        assert part in data.warnings[0]
    assert data.x_train.max() == 255


def test_digits_enlarge_each_pixel() -> None:
    from sklearn.datasets import load_digits

    data = load("digits")
    originals = {image.astype(int).tobytes() for image in load_digits().images}
    for image in data.x_test[:20, :, :, 0]:
        inner = image[2:26, 2:26]
        small = inner[::3, ::3]
        np.testing.assert_array_equal(np.kron(small, np.ones((3, 3), np.uint8)), inner)
        assert np.rint(small / 255 * 16).astype(int).tobytes() in originals


def test_download_is_checked_and_kept(nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {fashion_mnist.IDX_FILES[key][0]: idx_bytes(array) for key, array in arrays().items()}
    sums = {
        key: (name, hashlib.md5(files[name]).hexdigest())
        for key, (name, _) in fashion_mnist.IDX_FILES.items()
    }
    asked: list[str] = []

    def serve(url: str, timeout: float) -> io.BytesIO:
        assert timeout <= 60
        asked.append(url)
        return io.BytesIO(files[url.rsplit("/", 1)[1]])

    monkeypatch.setattr("urllib.request.urlopen", serve)
    # wrong checksums: not Fashion-MNIST, whatever it is
    assert "checksum" in load().warnings[0]
    monkeypatch.setattr(fashion_mnist, "IDX_FILES", sums)
    asked.clear()
    data = load()
    assert data.source == fashion_mnist.KERAS_URL and len(asked) == 4 and not data.warnings
    assert {i.tobytes() for i in data.x_test} == {i.tobytes() for i in arrays()["x_test"]}
    asked.clear()
    load()
    assert not asked


def test_idx_folder(tmp_path: Path) -> None:
    for key, array in arrays().items():
        name = fashion_mnist.IDX_FILES[key][0]
        raw = idx_bytes(array)
        if key == "y_test":  # unpacked files are as good
            name, raw = name.removesuffix(".gz"), gzip.decompress(raw)
        (tmp_path / name).write_bytes(raw)
    data = load(path=tmp_path)
    assert len(data.x_test) == 60 and data.source == str(tmp_path)


def test_truncated_npz(npz: Path) -> None:
    npz.write_bytes(npz.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"fashion_mnist\.npz") as error:
        load(path=npz)
    assert error.value.hint


def test_corrupt_npz(npz: Path) -> None:
    raw = bytearray(npz.read_bytes())
    raw[20_000:20_050] = bytes(50)
    npz.write_bytes(raw)
    with pytest.raises(DataError):
        load(path=npz)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": None}, "x_train"),
        ({"y_test": np.arange(5)}, "60 images but labels of shape"),
        ({"y_train": np.full(400, 11)}, "labels 11..11"),
        ({"x_train": images(400, 1).astype(np.float32)}, "float32"),
        ({"y_train": np.full(400, 0.5)}, "float64"),
        ({"x_test": images(60, 2)[:, :20]}, "test images"),
    ],
)
def test_wrong_arrays(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, **{key: value for key, value in {**arrays(), **change}.items() if value is not None})
    with pytest.raises(DataError, match=message):
        load(path=file)


def test_a_given_path_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Fashion-MNIST at"):
        load(path=tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        load(path=tmp_path / "text.npz")


@pytest.mark.parametrize("damage", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\1", b"\0\0\x08\x01\0\0\0\x05ab"])
def test_damaged_idx(damage: bytes) -> None:
    with pytest.raises(DataError, match="somewhere"):
        read_idx(damage, "somewhere")
    with pytest.raises(DataError, match="somewhere"):
        read_idx(gzip.compress(bytes(1000))[:20], "somewhere")


def test_registry() -> None:
    def loader(path: Path | None) -> Arrays:
        x, y = np.zeros((20, 4, 4, 3), np.uint8), np.repeat(np.arange(2), 10)
        return Arrays(x, y, x, y, ("a", "b"), source="memory")

    register("test-only")(loader)
    assert "test-only" in names() and {"fashion_mnist", "digits"} <= set(names())
    assert load("test-only", validation=0.2).class_names == ("a", "b")
    with pytest.raises(DataError, match="unknown data set"):
        load("fashion")
