"""ExitConfig: the options of choosing early exits, `[search.exits]` in a run file."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ExitConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `accuracy_drop` is the validation accuracy (a fraction) that early exits together may cost, against the same
    network without them.
    """

    accuracy_drop: float = 0.005

    def __post_init__(self) -> None:
        value = self.accuracy_drop
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not (real and 0 <= value < 1):
            raise ConfigError(f"search.exits.accuracy_drop must be a fraction of 0 to 1, not {value!r}")
