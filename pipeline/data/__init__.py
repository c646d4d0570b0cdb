"""Labelled images: where they come from and how they are split. No torch here."""

from pipeline.data import digits as _digits  # noqa: F401  (registers itself)
from pipeline.data import fashion_mnist as _fashion_mnist  # noqa: F401
from pipeline.data.dataset import DataSet
from pipeline.data.registry import load, names, register

__all__ = ["DataSet", "load", "names", "register"]
