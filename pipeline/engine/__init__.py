"""Ahead-of-time engine: .tflite in, C11 out."""

from pipeline.engine.emit import emit_c
from pipeline.engine.loader import load
from pipeline.engine.model import Layer, Model
from pipeline.engine.slow import slower_than_measured
from pipeline.engine.sources import include_dir, kernel_sources

__all__ = ["Layer", "Model", "emit_c", "include_dir", "kernel_sources", "load", "slower_than_measured"]
