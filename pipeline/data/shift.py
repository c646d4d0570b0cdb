"""Data that differ from those a model was made for: rotated, noisy, or only some of the classes.

Stands in for the local data of a device (docs/search.md, "Edge stage"), and works on any data set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.dataset import DataSet, Images, Labels
from pipeline.errors import ConfigError, DataError

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class ShiftConfig:
    """`[data.shift]`: what is done to the images of all three splits. Raises ConfigError.

    rotate_degrees: about the middle, counter-clockwise, 0 to 360; corners that come from outside are black.
    noise: standard deviation of Gaussian noise added to each value, as a part of the full range (0 to 1).
    keep_classes: labels (counted from 0) that stay; empty: all. The labels keep their numbers and the model its
    outputs, so that a model of all classes can be adapted; classes that are left out just do not occur.
    """

    rotate_degrees: float = 0.0
    noise: float = 0.0
    keep_classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.rotate_degrees <= 360:
            raise ConfigError(
                f"data.shift.rotate_degrees = {self.rotate_degrees} is not between 0 and 360",
                hint="counter-clockwise; 330 turns 30 degrees clockwise",
                key="rotate_degrees",
            )
        if not 0 <= self.noise <= 1:
            raise ConfigError(
                f"data.shift.noise = {self.noise} is not between 0 and 1",
                hint="a part of the full range",
                key="noise",
            )
        if len(set(self.keep_classes)) != len(self.keep_classes) or any(k < 0 for k in self.keep_classes):
            raise ConfigError(
                f"data.shift.keep_classes = {list(self.keep_classes)} are not different labels",
                hint="labels count from 0",
                key="keep_classes",
            )

    @property
    def nothing(self) -> bool:
        return not (self.rotate_degrees or self.noise or self.keep_classes)

    def describe(self) -> str:
        parts = []
        if self.keep_classes:
            parts.append(f"classes {', '.join(map(str, sorted(self.keep_classes)))} only")
        if self.rotate_degrees:
            parts.append(f"rotated by {self.rotate_degrees:g} degrees")
        if self.noise:
            parts.append(f"noise of {self.noise:g} of the range")
        return ", ".join(parts)


def shifted(data: DataSet, shift: ShiftConfig, *, seed: int) -> DataSet:
    """`data` after `shift`; the noise is a function of `seed` and the split alone.

    Raises DataError where a class to keep does not exist, or a split is left with too few images.
    """
    if shift.nothing:
        return data
    if shift.keep_classes and max(shift.keep_classes) >= data.classes:
        raise DataError(
            f"data.shift.keep_classes has {max(shift.keep_classes)}, {data.name} has labels 0 to "
            f"{data.classes - 1}"
        )
    parts: dict[str, Images | Labels] = {}
    for number, split in enumerate(_SPLITS):
        x, y = getattr(data, f"x_{split}"), getattr(data, f"y_{split}")
        if shift.keep_classes:
            kept = np.isin(y, shift.keep_classes)
            x, y = x[kept], y[kept]
            missing = np.setdiff1d(shift.keep_classes, y)
            if len(missing):
                raise DataError(
                    f"the {split} split has no image of class {missing[0]}", hint="raise data.limit"
                )
        x = rotated(x, shift.rotate_degrees)
        parts[f"x_{split}"] = noisy(x, shift.noise, np.random.default_rng([seed, 0x51F7, number]))
        parts[f"y_{split}"] = y
    # Altered features are those of no recording: the front end stays, for what it costs, its clips do not.
    sound = None
    if data.sound_test is not None and not (shift.rotate_degrees or shift.noise):
        stays = np.flatnonzero(np.isin(data.y_test, shift.keep_classes)).tolist()
        sound = tuple(data.sound_test[i] for i in stays)
    # A turned image is no longer upright: what its mirror image looks like was never seen.
    mirror = data.mirror and shift.rotate_degrees % 180 == 0
    source = f"{data.source}; {shift.describe()}"
    return replace(data, source=source, mirror=mirror, sound_test=sound, **parts)  # type: ignore[arg-type]


def rotated(x: Images, degrees: float) -> Images:
    """Images (n, h, w, c) turned counter-clockwise about their middle; bilinear, black outside."""
    if degrees % 360 == 0 or len(x) == 0:
        return x
    out = np.empty_like(x)
    for i, image in enumerate(x):
        for channel in range(x.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(image[:, :, channel]))
            out[i, :, :, channel] = np.asarray(plane.rotate(degrees, Image.Resampling.BILINEAR))
    return out


def noisy(x: Images, deviation: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`x` plus Gaussian noise of `deviation` times 255, rounded and clipped to 0..255."""
    if deviation == 0:
        return x
    out = np.empty_like(x)
    step = 4096  # images at a time, so that the noise of a large set need not be in memory at once
    for start in range(0, len(x), step):
        part = x[start : start + step]
        noise = rng.standard_normal(part.shape, dtype=np.float32) * (255 * deviation)
        out[start : start + step] = np.clip(np.rint(part + noise), 0, 255)
    return out
