"""HwDartsConfig: the options of the HW-DARTS search, `[search.hwdarts]` in a run file."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.tomltable import WEIGHTS, check_at_most


@dataclass(frozen=True, slots=True)
class HwDartsConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `lambdas` are the multipliers of latency, each of which gives an architecture; `steps` the architecture
    steps of each, 0: `search.steps` divided among them.
    """

    lambdas: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0)
    steps: int = 0

    def __post_init__(self) -> None:
        numbers = [x for x in self.lambdas if isinstance(x, int | float) and not isinstance(x, bool)]
        if not numbers or len(numbers) < len(self.lambdas) or not all(0 <= x < float("inf") for x in numbers):
            raise ConfigError(
                f"search.hwdarts.lambdas must be numbers >= 0, not {list(self.lambdas)!r}", key="lambdas"
            )
        check_at_most(WEIGHTS[1], {"search.hwdarts.lambdas": max(numbers)})
        if len(set(numbers)) < len(numbers):
            raise ConfigError(f"search.hwdarts.lambdas has one twice: {list(self.lambdas)!r}", key="lambdas")
        if type(self.steps) is not int or self.steps < 0:
            raise ConfigError(
                f"search.hwdarts.steps must be a whole number >= 0, not {self.steps!r}", key="steps"
            )

    def steps_each(self, steps: int) -> int:
        """Architecture steps of one multiplier, where `steps` is `search.steps`."""
        return self.steps or -(-steps // len(self.lambdas))
