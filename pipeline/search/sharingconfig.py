"""SharingConfig: how architectures share weights and are compared after it, `[search.sharing]` in a run file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.tomltable import WEIGHTS, check_at_most


@dataclass(frozen=True, slots=True)
class SharingConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `identity` is what is added to the supernet's random first weights from every channel to the one of the same
    number, so that all choices of a block start as nearly the same function; 0 leaves them unrelated, which ranks
    better. `capacity` is the accuracy (a fraction) that a doubling of multiply-accumulates is expected to add between
    the contests of a search and a full training; 0 takes the contests at their word. With `sandwich` > 0 a weight step
    of the supernet trains so many drawn paths, a wide one and a narrow one; all but the wide one learn for the part
    `distill` from its outputs instead of the labels.
    """

    identity: float = 0.0
    capacity: float = 0.02
    sandwich: int = 0
    distill: float = 1.0

    def __post_init__(self) -> None:
        for name in ("identity", "capacity", "distill"):
            value = getattr(self, name)
            real = isinstance(value, int | float) and not isinstance(value, bool)
            if not (real and 0 <= value < math.inf):
                raise ConfigError(f"search.sharing.{name} must be a number >= 0, not {value!r}", key=name)
        check_at_most(WEIGHTS[1], {"search.sharing.identity": self.identity})
        if self.distill > 1:
            raise ConfigError(
                f"search.sharing.distill must be at most 1, not {self.distill!r}", key="distill"
            )
        if not (
            isinstance(self.sandwich, int) and not isinstance(self.sandwich, bool) and self.sandwich >= 0
        ):
            raise ConfigError(
                f"search.sharing.sandwich must be a whole number >= 0, not {self.sandwich!r}", key="sandwich"
            )

    @property
    def paths(self) -> int:
        """Paths that one weight step of the supernet trains."""
        return self.sandwich + 2 if self.sandwich else 1
