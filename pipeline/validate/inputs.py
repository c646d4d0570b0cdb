"""Inputs for a model that comes without a data set."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Model
from pipeline.errors import DataError
from pipeline.frontend import FrontEnd, features
from pipeline.storage import why_unreadable


class Inputs(NamedTuple):
    """Inputs `x` [n, ...] int8, their labels, and the clips (n, samples) that they were made of; None: no such."""

    x: NDArray[np.int8]
    labels: NDArray[np.int64] | None = None
    sound: NDArray[np.int16] | None = None


def random_inputs(model: Model, count: int, seed: int = 0) -> Inputs:
    """`count` inputs uniform over int8, deterministic under `seed`; of a model with a front end, noise of all
    loudnesses."""
    rng = np.random.default_rng(seed)
    if model.front_end is None:
        return Inputs(rng.integers(-128, 128, (count, *model.input_shape[1:])).astype(np.int8))
    loudness = 2.0 ** rng.uniform(2, 14, (count, 1))
    sound = rng.normal(0, 1, (count, model.front_end.samples)) * loudness
    clips = np.clip(np.rint(sound), -32768, 32767).astype(np.int16)
    return Inputs(features(model.front_end, clips), None, clips)


def read_inputs(path: Path, model: Model, limit: int) -> Inputs:
    """Inputs (and labels) from a .npy or .npz file; an .npz holds `x` and, if known, `y`.

    int16 values are clips for the model's front end. int8 values are taken as they are, uint8 as int8 + 128,
    floats are quantized with the model's input scale and zero point. Raises DataError for a file that is missing,
    damaged or of another shape.
    """
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        named = isinstance(loaded, np.lib.npyio.NpzFile)  # whatever the file is called
        if named and "x" not in loaded.files:
            held = ", ".join(loaded.files) or "nothing"
            raise DataError(
                f"{path} has no array 'x', it holds: {held}", hint="inputs are 'x', their classes 'y'"
            )
        x = np.asarray(loaded["x"] if named else loaded)
        y = np.asarray(loaded["y"]) if named and "y" in loaded.files else None
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}", hint="give a .npy or .npz of inputs") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: {why_unreadable(error)}", hint="a .npy, or an .npz with array 'x'"
        ) from error
    labels = None if y is None else _labels(path, x, y, math.prod(model.output_shape))[:limit]
    if x.dtype == np.int16:
        return _clips(path, x[:limit] if x.ndim else x, labels, model.front_end)
    shape = model.input_shape[1:]
    if x.ndim and len(x) == 0:
        raise DataError(f"{path} holds no inputs: its shape is {x.shape}", hint="give at least one")
    if x.ndim == 0 or x.size != len(x) * model.input_bytes:
        raise DataError(
            f"{path} holds shape {x.shape}", hint=f"the model takes [n, {', '.join(map(str, shape))}]"
        )
    x = x[:limit].reshape(-1, *shape)
    if x.dtype == np.uint8:
        x = (x ^ 0x80).view(np.int8)
    elif np.issubdtype(x.dtype, np.floating):
        if np.isnan(x).any():
            raise DataError(f"{path} holds values that are no number (nan)", hint="leave those inputs out")
        scaled = np.round(x / model.input.scale) + model.input.zero_point
        x = np.clip(scaled, -128, 127).astype(np.int8)
    elif x.dtype != np.int8:
        raise DataError(f"{path} holds {x.dtype}", hint="int8, uint8, floating point, or int16 for sound")
    return Inputs(np.ascontiguousarray(x), labels)


def _labels(path: Path, x: NDArray[Any], y: NDArray[Any], classes: int) -> NDArray[np.int64]:
    if y.shape != (x.shape or (0,))[:1]:
        raise DataError(
            f"{path}: y has shape {y.shape}, x {x.shape}", hint="one class for each input, or leave y out"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"{path}: y holds {y.dtype}", hint="the number of each input's class, from 0")
    if y.size and not 0 <= y.min() <= y.max() < classes:
        raise DataError(
            f"{path}: y holds {y.min()} to {y.max()}, the model has {classes} outputs",
            hint=f"the number of each input's class, 0 to {classes - 1}",
        )
    return y.astype(np.int64)


def _clips(
    path: Path, x: NDArray[np.int16], labels: NDArray[np.int64] | None, front_end: FrontEnd | None
) -> Inputs:
    if front_end is None:
        raise DataError(
            f"{path} holds int16, and the model has no front end for sound", hint="give its features, as int8"
        )
    if x.ndim != 2 or len(x) == 0 or x.shape[1] != front_end.samples:
        raise DataError(f"{path} holds shape {x.shape}", hint=f"clips of [n, {front_end.samples}] samples")
    clips = np.ascontiguousarray(x)
    return Inputs(features(front_end, clips), labels, clips)
