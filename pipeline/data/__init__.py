"""Labelled images: where they come from and how they are split. No torch here."""

from pipeline.data import cifar10 as _cifar10  # noqa: F401  (registers itself, as the others do)
from pipeline.data import digits as _digits  # noqa: F401
from pipeline.data import fashion_mnist as _fashion_mnist  # noqa: F401
from pipeline.data import folders as _folders  # noqa: F401
from pipeline.data import speech as _speech  # noqa: F401
from pipeline.data import wake_words as _wake_words  # noqa: F401
from pipeline.data.dataset import DataSet
from pipeline.data.registry import default_options, load, names, register, register_with

__all__ = ["DataSet", "default_options", "load", "names", "register", "register_with"]
