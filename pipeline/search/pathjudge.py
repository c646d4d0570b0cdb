"""What holds paths of any space against budgets. No torch here."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from pipeline.space.architecture import Architecture
from pipeline.space.budgets import Cost


class PathJudge(Protocol):
    """Exact costs of a space's paths against budgets; paths are what the space makes them."""

    def architecture(self, path: Any) -> Architecture: ...
    def exact(self, path: Any) -> Cost: ...
    def macs(self, path: Any) -> int: ...
    def violation(self, path: Any) -> float: ...
    def feasible(self, path: Any) -> bool: ...
    def grown(self, path: Any, rng: np.random.Generator) -> Any:
        """With more work, as far as the budgets allow."""
