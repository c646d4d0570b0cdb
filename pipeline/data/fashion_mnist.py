"""Fashion-MNIST (Zalando Research, MIT licence) from disk, else from Keras' storage, else a stand-in."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.dataset import Arrays
from pipeline.data.digits import digits
from pipeline.data.idx import read_idx
from pipeline.data.places import ENVIRONMENT, cache_dir, download, usual_places
from pipeline.data.registry import register
from pipeline.errors import DataError
from pipeline.storage import why_unreadable

NAME = "fashion_mnist"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Where keras.datasets.fashion_mnist downloads from; MD5 sums as published in the data set's README.
KERAS_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
IDX_FILES = {
    "x_train": ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    "y_train": ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    "x_test": ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
    "y_test": ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
}
_TIMEOUT_S = 20.0


@register(NAME)
def fashion_mnist(path: Path | None) -> Arrays:
    """Fashion-MNIST, (n, 28, 28, 1), from the first source that has it.

    Order: `path` if given (nothing else then), $EDGENAS_DATA, `../shared/data` next to the checkout or the
    current folder, the Keras download (kept in the user's cache), scikit-learn's digits with a warning.
    Raises DataError for a damaged file, and where every source fails.
    """
    if path is not None:
        return read_place(path)
    for place in usual_places():
        if _find(place) is not None:
            return read_place(place)
    reasons: list[str] = []
    if ENVIRONMENT in os.environ:
        reasons.append(f"${ENVIRONMENT} ({os.environ[ENVIRONMENT]}) has no {NAME}.npz")
    try:
        return _from_keras(cache_dir())
    except (DataError, OSError) as error:  # URLError and time-outs are OSErrors
        reasons.append(f"the download failed ({getattr(error, 'message', error)})")
    warning = (
        "Fashion-MNIST was not found: " + "; ".join(reasons) + ". scikit-learn's bundled digits "
        "(1,797 images, far easier) take its place, so accuracies are not those of Fashion-MNIST. "
        f"To use the real data, pass --data FILE or set ${ENVIRONMENT} to the folder of {NAME}.npz."
    )
    return replace(digits(None), warnings=(warning,))


def read_place(place: Path) -> Arrays:
    """Read an .npz file, or a folder that holds `fashion_mnist.npz` or the four IDX files.

    Raises DataError when there is nothing of the kind, or what is there is damaged.
    """
    found = _find(place)
    if found is None:
        raise DataError(
            f"no Fashion-MNIST at {place}",
            hint=f"give a .npz file, or a folder with {NAME}.npz or the four files "
            f"{IDX_FILES['x_train'][0]} and so on",
        )
    if found.is_file():
        return read_npz(found)
    return _from_idx(lambda name: _read_idx_file(found, name), str(found))


def read_npz(file: Path) -> Arrays:
    """Read arrays `x_train`, `y_train`, `x_test`, `y_test` (images (n, h, w) or (n, h, w, c), uint8).

    Raises DataError, naming the file, for anything else.
    """
    hint = "delete it and fetch it again"
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in IDX_FILES}
    except KeyError as error:
        needed = f"needed: {', '.join(IDX_FILES)}"
        raise DataError(f"{file} lacks an array: {error.args[0]}", hint=needed) from error
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is not a readable .npz file: {why_unreadable(error)}", hint=hint) from error
    return _arrays(arrays, str(file))


def _find(place: Path) -> Path | None:
    """The .npz file, or the folder of IDX files, that `place` leads to."""
    if place.is_file():
        return place
    if (place / f"{NAME}.npz").is_file():
        return place / f"{NAME}.npz"
    complete = all(
        (place / name).is_file() or (place / name.removesuffix(".gz")).is_file()
        for name, _ in IDX_FILES.values()
    )
    return place if complete else None


def _read_idx_file(folder: Path, name: str) -> bytes:
    file = folder / name
    return (file if file.is_file() else folder / name.removesuffix(".gz")).read_bytes()


def _from_keras(cache: Path) -> Arrays:
    def fetch(name: str) -> bytes:
        return download(KERAS_URL + name, checksums[name], cache / NAME / name, timeout_s=_TIMEOUT_S)

    checksums = dict(IDX_FILES.values())
    return _from_idx(fetch, KERAS_URL)


def _from_idx(read: Callable[[str], bytes], origin: str) -> Arrays:
    arrays = {key: read_idx(read(name), f"{origin}: {name}") for key, (name, _) in IDX_FILES.items()}
    return _arrays(arrays, origin)


def _arrays(arrays: dict[str, np.ndarray], source: str) -> Arrays:
    for key in ("y_train", "y_test"):
        if arrays[key].dtype.kind not in "iu":
            raise DataError(f"{source}: {key} holds {arrays[key].dtype}, not class numbers")
    images = {
        key: arrays[key][..., None] if arrays[key].ndim == 3 else arrays[key] for key in ("x_train", "x_test")
    }
    return Arrays(
        x_train=images["x_train"],
        y_train=arrays["y_train"].astype(np.int64),
        x_test=images["x_test"],
        y_test=arrays["y_test"].astype(np.int64),
        class_names=CLASS_NAMES,
        source=source,
    )
