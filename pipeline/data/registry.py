"""Data sets by name. A new one is a function from an optional path to `Arrays`, registered here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.data.dataset import Arrays, DataSet, make_dataset
from pipeline.errors import DataError

Loader = Callable[[Path | None], Arrays]
_LOADERS: dict[str, Loader] = {}


def register(name: str) -> Callable[[Loader], Loader]:
    """Decorator: make a loader available as `load(name)`. The loader gets the user's path, or None."""

    def add(loader: Loader) -> Loader:
        _LOADERS[name] = loader
        return loader

    return add


def names() -> tuple[str, ...]:
    """The registered data sets, sorted."""
    return tuple(sorted(_LOADERS))


def load(
    name: str = "fashion_mnist",
    *,
    path: Path | None = None,
    seed: int = 0,
    validation: float = 0.1,
    limit: int | None = None,
) -> DataSet:
    """Load a data set and split it.

    path: a file or folder to read (then nothing else is tried); None searches the usual places.
    seed: of the train/validation split. validation: fraction of the training images held out.
    limit: at most so many images per split.
    Raises DataError for an unknown name, and for data that is missing or damaged.
    """
    if name not in _LOADERS:
        raise DataError(f"unknown data set {name!r}", hint=f"known data sets: {', '.join(names())}")
    return make_dataset(name, _LOADERS[name](path), seed=seed, validation=validation, limit=limit)
