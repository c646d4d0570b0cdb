"""ExitConfig: the options of choosing early exits, `[search.exits]` in a run file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.tomltable import MOST_EXIT_WEIGHT, check_at_most, check_within

_DROP, _WEIGHT, _HEAD_WEIGHT = 0.005, 0.3, 1.0  # weights as in the full training
_LEAST_HEAD_WEIGHT = 1e-30  # a smaller one leaves float32 where loss_weight is divided by it


@dataclass(frozen=True, slots=True)
class ExitConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `accuracy_drop` is the validation accuracy (a fraction) that early exits together may cost, against the same
    network without them: within it the expected latency is least. With `expected_latency_ms` (0: none) the accuracy
    is highest instead among the choices whose mean latency over the validation images is at most that.

    `search`: candidates train with the exits' heads and are compared by the accuracy that they have at that goal, each
    with the exits that serve it best. Of each exit's loss the blocks learn with `loss_weight`, where the final output's
    counts 1, and the exit's own head with `head_weight`.
    """

    accuracy_drop: float = _DROP
    expected_latency_ms: float = 0.0
    search: bool = False
    loss_weight: float = _WEIGHT
    head_weight: float = _HEAD_WEIGHT

    def __post_init__(self) -> None:
        for name in ("accuracy_drop", "expected_latency_ms", "loss_weight", "head_weight"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"search.exits.{name} must be a number, not {value!r}")
        if not 0 <= self.accuracy_drop < 1:
            raise ConfigError(
                f"search.exits.accuracy_drop must be a fraction of 0 to 1, not {self.accuracy_drop!r}"
            )
        if self.expected_latency_ms < 0:
            raise ConfigError(
                f"search.exits.expected_latency_ms must be above 0, not {self.expected_latency_ms!r}",
                hint="milliseconds; without the key there is no goal",
            )
        if not 0 <= self.loss_weight < math.inf:
            raise ConfigError(
                f"search.exits.loss_weight must be 0 or more, not {self.loss_weight!r}",
                hint="0: blocks learn for the final output alone, heads from what these give them",
            )
        if not 0 < self.head_weight < math.inf:
            raise ConfigError(f"search.exits.head_weight must be above 0, not {self.head_weight!r}")
        check_at_most(MOST_EXIT_WEIGHT, {"search.exits.loss_weight": self.loss_weight})
        bounds = (_LEAST_HEAD_WEIGHT, MOST_EXIT_WEIGHT)
        check_within(bounds, {"search.exits.head_weight": self.head_weight})
        if self.search and not self.expected_latency_ms:
            raise ConfigError(
                "search.exits.search = true: nothing says what exits are worth",
                hint="give the mean latency to reach, search.exits.expected_latency_ms",
            )
        if self.expected_latency_ms and self.accuracy_drop != _DROP:
            raise ConfigError(
                "search.exits.accuracy_drop has no effect with a goal of latency, within which accuracy is highest",
                hint="leave accuracy_drop or expected_latency_ms out",
            )
        for name, usual in (("loss_weight", _WEIGHT), ("head_weight", _HEAD_WEIGHT)):
            if getattr(self, name) != usual and not self.search:
                raise ConfigError(
                    f"search.exits.{name} has no effect without search = true",
                    hint="train.exit_weight is that of the training after the search",
                )

    @property
    def choice(self) -> dict[str, Any]:
        """What the choice after training depends on, for its key."""
        if self.expected_latency_ms:
            return {"expected_latency_ms": self.expected_latency_ms}
        return {"accuracy_drop": self.accuracy_drop}
