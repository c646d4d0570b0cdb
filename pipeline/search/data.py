"""The images that a search needs, whatever set they come from. No torch here."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace


class SearchData(Protocol):
    """Images (n, h, w, c) uint8 (real value x / 255) and labels (n,) of two disjoint splits."""

    @property
    def x_train(self) -> NDArray[np.uint8]: ...
    @property
    def y_train(self) -> NDArray[np.int64]: ...
    @property
    def x_val(self) -> NDArray[np.uint8]: ...
    @property
    def y_val(self) -> NDArray[np.int64]: ...


def check_data(data: SearchData, space: SearchSpace | CellSpace) -> None:
    """Raises DataError where images or labels do not fit the space, or one split alone lacks a class."""
    for split in ("train", "val"):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        if x.ndim != 4 or x.shape[1:] != space.input_shape or x.dtype != np.uint8:
            raise DataError(
                f"{split} images are {x.dtype} {x.shape[1:]}, the space wants uint8 {space.input_shape}"
            )
        if len(x) != len(y) or len(x) < 2:
            raise DataError(f"{len(x)} {split} images with {len(y)} labels")
        if int(y.min()) < 0 or int(y.max()) >= space.classes:
            raise DataError(f"{split} labels go from {y.min()} to {y.max()}, not 0 to {space.classes - 1}")
    counts = {
        split: np.bincount(getattr(data, f"y_{split}"), minlength=space.classes) for split in ("train", "val")
    }
    for split, other in (("train", "val"), ("val", "train")):
        missing = np.flatnonzero((counts[split] == 0) & (counts[other] > 0))
        if len(missing):
            named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            raise DataError(
                f"the {split} split has no image of class {named}, of which the {other} split has "
                f"{int(counts[other][missing].sum())}",
                hint="take more images (data.limit), or another share for validation (data.validation)",
            )
