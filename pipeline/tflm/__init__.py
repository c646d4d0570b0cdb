"""TensorFlow Lite Micro as a second engine. Described in docs/tflm.md."""

from pipeline.tflm.device import Prepared, TflmDevice
from pipeline.tflm.library import Library, find_library
from pipeline.tflm.models import operator_model

__all__ = ["Library", "Prepared", "TflmDevice", "find_library", "operator_model"]
