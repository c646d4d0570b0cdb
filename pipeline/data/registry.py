"""Data sets by name. A new one is a function from an optional path to `Arrays`, registered here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.data.dataset import Arrays, DataSet, make_dataset
from pipeline.data.images import resized
from pipeline.data.options import ImageOptions, SizeOptions
from pipeline.errors import DataError

Loader = Callable[[Path | None], Arrays]
Options = TypeVar("Options")
_LOADERS: dict[str, Callable[[Path | None, Any], Arrays]] = {}
_OPTIONS: dict[str, Any] = {}


def register(name: str) -> Callable[[Loader], Loader]:
    """Decorator: make a loader available as `load(name)`. The loader gets the user's path, or None.

    Its images can be brought to another shape by `SizeOptions`.
    """

    def add(loader: Loader) -> Loader:
        _LOADERS[name] = lambda path, options: in_shape(loader(path), options)
        _OPTIONS[name] = SizeOptions()
        return loader

    return add


def in_shape(arrays: Arrays, options: SizeOptions) -> Arrays:
    """`arrays` with images of the shape that `options` ask for, which the source then says.

    Raises DataError for images that cannot be scaled: features of sound, or of neither 1 nor 3 channels.
    """
    own = arrays.x_train.shape[1:]
    shape = (*options.shape, own[2])[:3] if options.shape else own
    if shape == own:
        return arrays
    if arrays.front_end is not None or own[2] not in (1, 3):
        raise DataError(f"{arrays.source} has no images that data.shape could scale", hint="leave it out")
    wanted = ImageOptions(shape, options.fit)
    found = {name: getattr(arrays, name) for name in ("x_train", "x_val", "x_test")}
    parts: dict[str, Any] = {name: resized(x, wanted) for name, x in found.items() if x is not None}
    sizes = ["x".join(map(str, sides)) for sides in (shape, own)]
    return replace(
        arrays,
        source=f"{arrays.source}, brought to {sizes[0]} from {sizes[1]} ({options.fit})",
        **parts,
    )


def register_with(
    name: str, options: Options
) -> Callable[[Callable[[Path | None, Options], Arrays]], Callable[[Path | None, Options], Arrays]]:
    """Decorator for a loader that also gets options: a dataclass whose defaults are `options`."""

    def add(
        loader: Callable[[Path | None, Options], Arrays],
    ) -> Callable[[Path | None, Options], Arrays]:
        _LOADERS[name], _OPTIONS[name] = loader, options
        return loader

    return add


def names() -> tuple[str, ...]:
    """The registered data sets, sorted."""
    return tuple(sorted(_LOADERS))


def default_options(name: str) -> Any:
    """A dataclass with the options of a data set and their defaults. Raises DataError for an unknown name."""
    _known(name)
    return _OPTIONS[name]


def load(
    name: str = "fashion_mnist",
    *,
    path: Path | None = None,
    seed: int = 0,
    validation: float = 0.1,
    limit: int | None = None,
    options: Any = None,
    present: Sequence[int] = (),
) -> DataSet:
    """Load a data set and split it.

    path: a file or folder to read (then nothing else is tried); None searches the usual places.
    seed: of the train/validation split. validation: fraction of the training images held out.
    limit: at most so many images per split. options: of the type of `default_options(name)`; None: those.
    present: labels that every split must have; none: all.
    Raises DataError for an unknown name or foreign options, and for data that is missing or damaged.
    """
    _known(name)
    options = _OPTIONS[name] if options is None else options
    if type(options) is not type(_OPTIONS[name]):
        raise DataError(f"{type(options).__name__} are not options of the data set {name!r}")
    arrays = _LOADERS[name](path, options)
    return make_dataset(name, arrays, seed=seed, validation=validation, limit=limit, present=present)


def _known(name: str) -> None:
    if name not in _LOADERS:
        raise DataError(f"unknown data set {name!r}", hint=f"known data sets: {', '.join(names())}")
