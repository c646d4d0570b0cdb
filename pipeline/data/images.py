"""Image files to arrays of one shape: decoding by Pillow, scaling, cutting."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.options import ImageOptions
from pipeline.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_THREADS = 4  # Pillow works outside the interpreter's lock
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)  # that decoders raise
_STRETCH = 64  # images per task


def read_files(files: Sequence[Path], options: ImageOptions) -> NDArray[np.uint8]:
    """(n, height, width, channels) of image files. Raises DataError that names the first unreadable one."""
    height, width, channels = options.shape
    images = np.empty((len(files), height, width, channels), np.uint8)

    def one(index: int) -> None:
        images[index] = fitted(_open(files[index], str(files[index])), options)

    _in_parallel(one, len(files))
    return images


def resized(images: NDArray[np.uint8], options: ImageOptions) -> NDArray[np.uint8]:
    """(n, height, width, channels) of images (n, h, w, 1 or 3) of another shape, by the rules for files."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("Pillow is not installed", hint="pip install pillow") from error
    out = np.empty((len(images), *options.shape), np.uint8)

    def one(index: int) -> None:
        image = np.ascontiguousarray(images[index])
        out[index] = fitted(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), options)

    _in_parallel(one, len(images))
    return out


def decode_many(content: NDArray[np.uint8], offsets: NDArray[np.int64], origin: str) -> NDArray[np.uint8]:
    """(n, h, w, 3) of n concatenated image files, image i at content[offsets[i]:offsets[i + 1]].

    All must have the size of the first. Raises DataError, naming `origin` and the image, for anything else.
    """
    if (
        offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype.kind not in "iu" or content.dtype != np.uint8
        or offsets[0] < 0 or (np.diff(offsets.astype(np.int64)) <= 0).any() or offsets[-1] > content.size
    ):  # fmt: skip
        raise DataError(f"{origin}: the offsets do not fit the images", hint="fetch the file again")
    raw = content.tobytes()
    count = len(offsets) - 1

    def picture(index: int) -> NDArray[np.uint8]:
        part = io.BytesIO(raw[int(offsets[index]) : int(offsets[index + 1])])
        return np.asarray(_open(part, f"{origin}: image {index}").convert("RGB"))

    first = picture(0)
    images = np.empty((count, *first.shape), np.uint8)

    def one(index: int) -> None:
        image = picture(index)
        if image.shape != first.shape:
            raise DataError(f"{origin}: image {index} is {image.shape}, the first one {first.shape}")
        images[index] = image

    _in_parallel(one, count)
    return images


def _in_parallel(one: Callable[[int], None], count: int) -> None:
    """one(0) ... one(count - 1) on a few threads; the first error ends it."""

    def stretch(start: int) -> None:
        for index in range(start, min(start + _STRETCH, count)):
            one(index)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        try:
            list(pool.map(stretch, range(0, count, _STRETCH)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def fitted(image: Any, options: ImageOptions) -> NDArray[np.uint8]:
    """A Pillow image as (height, width, channels), scaled and cut as the options say."""
    from PIL import Image

    height, width, channels = options.shape
    if image.mode in ("P", "RGBA", "LA", "PA"):  # transparent parts become black
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    elif image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: Pillow would clip, not scale
        deep = np.asarray(image, np.float64)
        image = Image.fromarray(np.clip(deep / 257, 0, 255).round().astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = _scaled(image, width, height, options.fit)
    return np.asarray(image, np.uint8).reshape(height, width, channels)


def _scaled(image: Any, width: int, height: int, fit: str) -> Any:
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    if fit == "squash":
        return image.resize((width, height), bilinear)
    ratios = (width / image.width, height / image.height)
    if fit == "crop":  # the part of the image that has the wanted proportions
        scale = max(ratios)
        w, h = width / scale, height / scale
        left, top = (image.width - w) / 2, (image.height - h) / 2
        return image.resize((width, height), bilinear, box=(left, top, left + w, top + h))
    scale = min(ratios)
    w, h = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(image.resize((w, h), bilinear), ((width - w) // 2, (height - h) // 2))
    return canvas


def _open(source: Path | io.BytesIO, name: str) -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DataError("Pillow is not installed", hint="pip install pillow") from error
    try:
        with Image.open(source) as image:
            image.load()
            return ImageOps.exif_transpose(image) if image.getexif() else image
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read as an image: {error}", hint="replace or remove it") from error
