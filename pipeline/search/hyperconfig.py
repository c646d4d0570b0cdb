"""HyperConfig: the options of the hypernetwork search, `[search.hyper]` in a run file."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pipeline.errors import ConfigError
from pipeline.tomltable import MOST_RATE, TEMPERATURES, WEIGHTS, check_at_most, check_within


@dataclass(frozen=True, slots=True)
class HyperConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `boards` are trained for together with the run's own. `kappa` weighs the expected latency,
    `simplex_weight` the operators' shares, each times its component of S, `condition_weight` the squared
    log-excess over the condition's budgets, `spend_weight` that of latency left unused; `entropy_weight`
    (times the temperature) rewards undecided choices. Each step sees `conditions` conditions. The temperature
    falls linearly from `temperature_start` to `temperature_end`. `lr` is Adam's, `hidden` the units of each of
    the two hidden layers, `family` the conditions that are swept per board after the training.
    """

    boards: tuple[str, ...] = ()
    kappa: float = 0.1
    simplex_weight: float = 4.0
    condition_weight: float = 1.0
    spend_weight: float = 0.3
    entropy_weight: float = 4.0
    conditions: int = 4
    temperature_start: float = 1.0
    temperature_end: float = 0.2
    lr: float = 0.002
    hidden: int = 64
    family: int = 16

    def __post_init__(self) -> None:
        if len(set(self.boards)) != len(self.boards):
            raise ConfigError(
                f"search.hyper.boards names a board twice: {', '.join(self.boards)}", key="boards"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise ConfigError(
                    f"search.hyper.{field.name} must be a whole number >= 1, not {value!r}", key=field.name
                )
            real = isinstance(value, int | float) and not isinstance(value, bool)
            if field.type == "float" and not (real and value > 0):
                raise ConfigError(
                    f"search.hyper.{field.name} must be a number > 0, not {value!r}", key=field.name
                )
        check_at_most(MOST_RATE, {"search.hyper.lr": self.lr})
        weights = ("kappa", "simplex_weight", "condition_weight", "spend_weight", "entropy_weight")
        check_at_most(WEIGHTS[1], {f"search.hyper.{name}": getattr(self, name) for name in weights})
        temperatures = ("temperature_start", "temperature_end")
        check_within(TEMPERATURES, {f"search.hyper.{name}": getattr(self, name) for name in temperatures})
