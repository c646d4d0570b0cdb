"""Inputs for a model that comes without a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Model
from pipeline.errors import DataError


def random_inputs(model: Model, count: int, seed: int = 0) -> NDArray[np.int8]:
    """`count` inputs [count, ...] uniform over int8, deterministic under `seed`."""
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (count, *model.input_shape[1:])).astype(np.int8)


def read_inputs(path: Path, model: Model, limit: int) -> tuple[NDArray[np.int8], NDArray[np.int64] | None]:
    """Inputs (and labels) from a .npy or .npz file; an .npz holds `x` and, if known, `y`.

    int8 values are taken as they are, uint8 as int8 + 128, floats are quantized with the model's input scale
    and zero point. Raises DataError for a file that is missing, damaged or of another shape.
    """
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        x = np.asarray(loaded["x"] if path.suffix == ".npz" else loaded)
        y = np.asarray(loaded["y"]) if path.suffix == ".npz" and "y" in loaded.files else None
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}", hint="give a .npy or .npz of inputs") from error
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", hint="a .npy, or an .npz with array 'x'"
        ) from error
    shape = model.input_shape[1:]
    if x.ndim == 0 or len(x) == 0 or x.size != len(x) * model.input_bytes:
        raise DataError(
            f"{path} holds shape {x.shape}", hint=f"the model takes [n, {', '.join(map(str, shape))}]"
        )
    x = x[:limit].reshape(-1, *shape)
    if x.dtype == np.uint8:
        x = (x ^ 0x80).view(np.int8)
    elif np.issubdtype(x.dtype, np.floating):
        scaled = np.round(x / model.input.scale) + model.input.zero_point
        x = np.clip(scaled, -128, 127).astype(np.int8)
    elif x.dtype != np.int8:
        raise DataError(f"{path} holds {x.dtype}", hint="int8, uint8 or floating point")
    return np.ascontiguousarray(x), None if y is None else y[:limit].astype(np.int64)
