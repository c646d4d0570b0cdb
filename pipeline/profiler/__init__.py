"""Measuring operators on a board: a journal first, then the table."""

from pipeline.profiler.identity import current_identity
from pipeline.profiler.profile import lut_path, obtain, profile

__all__ = ["current_identity", "lut_path", "obtain", "profile"]
