"""SharingConfig: how architectures share weights and are compared after it, `[search.sharing]` in a run file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SharingConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `identity` is what is added to the supernet's random first weights from every channel to the one of the same
    number, so that all choices of a block start as nearly the same function; 0 leaves them unrelated, which ranks
    better. `capacity` is the accuracy (a fraction) that a doubling of multiply-accumulates is expected to add between
    the contests of a search and a full training; 0 takes the contests at their word.
    """

    identity: float = 0.0
    capacity: float = 0.02

    def __post_init__(self) -> None:
        for name in ("identity", "capacity"):
            value = getattr(self, name)
            real = isinstance(value, int | float) and not isinstance(value, bool)
            if not (real and 0 <= value < math.inf):
                raise ConfigError(f"search.sharing.{name} must be a number >= 0, not {value!r}")
