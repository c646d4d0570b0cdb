"""HyperConfig: the options of the hypernetwork search, `[search.hyper]` in a run file."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class HyperConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `kappa` weighs the expected latency, `condition_weight` the squared excess over the condition's budgets,
    `entropy_weight` (times the temperature) rewards undecided choices. `lr` is Adam's, `hidden` the units of
    each of the two hidden layers, `family` the conditions that are swept after the training.
    """

    kappa: float = 0.1
    condition_weight: float = 5.0
    entropy_weight: float = 0.05
    lr: float = 0.005
    hidden: int = 64
    family: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise ConfigError(f"search.hyper.{field.name} must be a whole number >= 1, not {value!r}")
            real = isinstance(value, int | float) and not isinstance(value, bool)
            if field.type == "float" and not (real and value > 0):
                raise ConfigError(f"search.hyper.{field.name} must be a number > 0, not {value!r}")
