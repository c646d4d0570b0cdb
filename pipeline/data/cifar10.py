"""CIFAR-10 (Krizhevsky 2009) from disk, in any of its forms, else by download."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.dataset import Arrays
from pipeline.data.images import decode_many
from pipeline.data.places import ENVIRONMENT, cache_dir, download, usual_places
from pipeline.data.registry import register
from pipeline.errors import DataError
from pipeline.storage import why_unreadable

NAME = "cifar10"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Where keras.datasets.cifar10 downloads from; MD5 sums as on the data set's page.
ARCHIVE = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
_JPEG_FILE = "cifar10_jpeg.npz"
_TIMEOUT_S = 60.0
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = "test_batch"
_SUBFOLDERS = ("", "cifar-10-batches-py", "cifar-10-batches-bin")
_RECORD = 1 + 3 * 32 * 32
_HINT = "fetch it again"


@register(NAME)
def cifar10(path: Path | None) -> Arrays:
    """CIFAR-10, (n, 32, 32, 3), from the first source that has it.

    Order: `path` if given (nothing else then), $EDGENAS_DATA, `../shared/data` next to the checkout or the
    current folder, the download (kept in the user's cache). A place is a folder or a file: the Python or the
    binary batches, either's .tar.gz, or `cifar10_jpeg.npz`. Raises DataError where there is none, or damage.
    """
    for place in [path] if path is not None else usual_places():
        reader = _reader(place)
        if reader is not None:
            return reader()
    if path is not None:
        raise DataError(
            f"no CIFAR-10 at {path}",
            hint=f"a folder with data_batch_1 ... test_batch (or these with .bin), {ARCHIVE} or {_JPEG_FILE}",
        )
    try:
        raw = download(URL, ARCHIVE_MD5, cache_dir() / NAME / ARCHIVE, timeout_s=_TIMEOUT_S)
    except (DataError, OSError) as error:
        raise DataError(
            f"CIFAR-10 was not found, and its download failed ({getattr(error, 'message', error)})",
            hint=f"pass --data FOLDER or set ${ENVIRONMENT} to the folder of {ARCHIVE}",
        ) from error
    return _from_archive(raw, URL)


def _reader(place: Path) -> Callable[[], Arrays] | None:
    """What reads CIFAR-10 at `place`; None where there is none."""
    if place.is_file():
        if place.suffix == ".npz":
            return lambda: _from_npz(place)
        return lambda: _from_archive(place.read_bytes(), str(place))
    for folder in (place / name for name in _SUBFOLDERS):
        for suffix in ("", ".bin"):
            if (folder / f"{_TEST}{suffix}").is_file():
                return partial(_from_folder, folder, suffix)
    for name in (ARCHIVE, "cifar-10-binary.tar.gz", _JPEG_FILE, f"{NAME}.npz"):
        if (place / name).is_file():
            return _reader(place / name)
    return None


def _from_folder(folder: Path, suffix: str) -> Arrays:
    return _from_batches(lambda name: _read(folder / f"{name}{suffix}"), str(folder), suffix)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}", hint="all six batches are needed"
        ) from error


def _from_npz(file: Path) -> Arrays:
    """`jpeg_*`, `offset_*` and `y_*` (JPEG files in a row), or `x_*` and `y_*` (pixels)."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is not a readable .npz file: {why_unreadable(error)}", hint=_HINT) from error
    kinds = ("jpeg", "offset", "y") if "jpeg_train" in arrays else ("x", "y")
    lacking = [f"{k}_{part}" for k in kinds for part in ("train", "test") if f"{k}_{part}" not in arrays]
    if lacking:
        raise DataError(f"{file} lacks an array: {', '.join(lacking)}", hint=f"{_JPEG_FILE}, or x_* and y_*")
    images = {}
    for part in ("train", "test"):
        if "jpeg" in kinds:
            where = f"{file}: jpeg_{part}"
            images[part] = decode_many(arrays[f"jpeg_{part}"], arrays[f"offset_{part}"], where)
        else:
            images[part] = arrays[f"x_{part}"]
    labels = {part: arrays[f"y_{part}"].squeeze() for part in images}
    names = tuple(str(name) for name in arrays.get("class_names", np.array(CLASS_NAMES)))
    warnings = ("The images are JPEG copies: accuracies lie slightly below the original's.",) * (
        "jpeg" in kinds
    )
    return _arrays(images, labels, str(file), names, warnings)


def _from_archive(raw: bytes, origin: str) -> Arrays:
    try:
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            members = {Path(m.name).name: archive.extractfile(m) for m in archive.getmembers() if m.isfile()}
            files = {name: member.read() for name, member in members.items() if member is not None}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{origin} is not a readable archive: {error}", hint=_HINT) from error
    suffix = ".bin" if f"{_TEST}.bin" in files else ""

    def read(name: str) -> bytes:
        if f"{name}{suffix}" not in files:
            raise DataError(f"{origin} lacks {name}{suffix}", hint=f"CIFAR-10's {ARCHIVE} has it")
        return files[f"{name}{suffix}"]

    return _from_batches(read, origin, suffix)


def _from_batches(read: Callable[[str], bytes], origin: str, suffix: str) -> Arrays:
    decode = _binary_batch if suffix else _python_batch
    train = [decode(read(name), f"{origin}: {name}{suffix}") for name in _TRAIN]
    test = decode(read(_TEST), f"{origin}: {_TEST}{suffix}")
    images = {"train": np.concatenate([x for x, _ in train]), "test": test[0]}
    labels = {"train": np.concatenate([y for _, y in train]), "test": test[1]}
    return _arrays(images, labels, origin, CLASS_NAMES, ())


def _binary_batch(raw: bytes, origin: str) -> tuple[np.ndarray, np.ndarray]:
    if not raw or len(raw) % _RECORD:
        raise DataError(f"{origin}: {len(raw)} bytes are not whole records of {_RECORD} bytes", hint=_HINT)
    records = np.frombuffer(raw, np.uint8).reshape(-1, _RECORD)
    return _planar(records[:, 1:]), records[:, 0].astype(np.int64)


def _python_batch(raw: bytes, origin: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
        data, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{origin} is not a CIFAR-10 batch: {error!r}", hint=_HINT) from error
    if (
        data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != _RECORD - 1
        or labels.dtype.kind not in "iu"
    ):
        raise DataError(f"{origin} holds {data.dtype} {data.shape}, not uint8 (n, {_RECORD - 1})", hint=_HINT)
    return _planar(data), labels.astype(np.int64)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and plain values: a batch from the net must not be able to run code."""

    def find_class(self, module: str, name: str) -> Any:
        parts = {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("multiarray", "_reconstruct"),
            ("numeric", "_frombuffer"),
        }
        of_numpy = module.split(".")[0] == "numpy" and (module.split(".")[-1], name) in parts
        if of_numpy or (module, name) == ("_codecs", "encode"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR-10 batch")


def _planar(rows: np.ndarray) -> np.ndarray:
    """Rows of three 32x32 planes as (n, 32, 32, 3)."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _arrays(
    images: dict[str, np.ndarray], labels: dict[str, np.ndarray], source: str, names: tuple[str, ...],
    warnings: tuple[str, ...],
) -> Arrays:  # fmt: skip
    for part, y in labels.items():
        if y.dtype.kind not in "iu":
            raise DataError(f"{source}: y_{part} holds {y.dtype}, not class numbers")
    return Arrays(
        x_train=images["train"],
        y_train=labels["train"].astype(np.int64),
        x_test=images["test"],
        y_test=labels["test"].astype(np.int64),
        class_names=names,
        source=source,
        warnings=warnings,
    )
