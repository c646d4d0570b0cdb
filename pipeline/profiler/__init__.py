"""Measuring operators on a board: a journal first, then the table."""

from pipeline.profiler.engines import ENGINES
from pipeline.profiler.identity import ENGINE, current_identity
from pipeline.profiler.profile import lut_path, obtain, profile

__all__ = ["ENGINE", "ENGINES", "current_identity", "lut_path", "obtain", "profile"]
