"""Many searches, each once: every method with every seed and latency limit, in parallel, resumable."""

from pipeline.sweep.bench import Bench, Job
from pipeline.sweep.grid import grid
from pipeline.sweep.open import open_sweep
from pipeline.sweep.summary import summarize
from pipeline.sweep.sweep import Sweep

__all__ = ["Bench", "Job", "Sweep", "grid", "open_sweep", "summarize"]
