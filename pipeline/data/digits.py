"""scikit-learn's bundled digits: 1,797 images of 8x8, the stand-in that needs no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.data.dataset import Arrays, stratified_split
from pipeline.data.registry import register
from pipeline.errors import DataError

_TEST_FRACTION = 0.2
_SPLIT_SEED = 1998  # the data set has no test split of its own: this one is the same for every run


@register("digits")
def digits(path: Path | None) -> Arrays:
    """The digits as (n, 28, 28, 1): each pixel three times in each direction, with a border of two.

    That size lets the same search space serve it as Fashion-MNIST. Raises DataError where scikit-learn is
    missing, and for a `path`, because there is no file to read.
    """
    if path is not None:
        raise DataError("the digits come with scikit-learn, not from a file", hint="leave the path out")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("scikit-learn is not installed", hint="pip install scikit-learn") from error
    bundle = load_digits()
    pixels = np.rint(bundle.images * (255.0 / 16.0)).astype(np.uint8)
    images = np.pad(pixels.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))[..., None]
    labels = bundle.target.astype(np.int64)
    train, test = stratified_split(labels, _TEST_FRACTION, _SPLIT_SEED)
    return Arrays(
        x_train=images[train],
        y_train=labels[train],
        x_test=images[test],
        y_test=labels[test],
        class_names=tuple(str(label) for label in range(10)),
        source="scikit-learn's bundled digits",
        mirror=False,
    )
