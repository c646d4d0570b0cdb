"""PredictorConfig: where the latency predictor comes from, `[search.predictor]` in a run file."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.tomltable import MOST_RATE, check_at_most


@dataclass(frozen=True, slots=True)
class PredictorConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `file` is a fitted predictor; without one it is fitted to `models` random architectures that are built and
    run on the target, a part `held_out` of which only states its error. `residual` corrects the table's
    expectation, otherwise the network learns the latency alone. `hidden` units, `steps` of Adam with `lr`
    and weight decay `decay`.
    """

    file: str = ""
    models: int = 160
    residual: bool = True
    held_out: float = 0.25
    hidden: int = 64
    steps: int = 300
    lr: float = 0.01
    decay: float = 0.1

    def __post_init__(self) -> None:
        for name, least in (("models", 20), ("hidden", 1), ("steps", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ConfigError(
                    f"search.predictor.{name} must be a whole number >= {least}, not {value!r}", key=name
                )
        if not 0 < self.held_out < 1:
            raise ConfigError(
                f"search.predictor.held_out must be between 0 and 1, not {self.held_out!r}", key="held_out"
            )
        if not self.lr > 0:
            raise ConfigError(f"search.predictor.lr must be a number > 0, not {self.lr!r}", key="lr")
        if not self.decay >= 0:
            raise ConfigError(
                f"search.predictor.decay must be a number >= 0, not {self.decay!r}", key="decay"
            )
        rates = {"search.predictor.lr": self.lr, "search.predictor.decay": self.decay}
        check_at_most(MOST_RATE, rates)
