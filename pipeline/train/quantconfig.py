"""What can be chosen about quantization."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Self

from pipeline.errors import ConfigError

WEIGHTS = ("channel", "tensor")
WEIGHT_RANGES = ("max", "mse")
ACTIVATIONS = ("average", "minmax", "percentile", "mse")
_CHOICES = {"weights": WEIGHTS, "weight_range": WEIGHT_RANGES, "activations": ACTIVATIONS}
# Asked for elsewhere, and why there is no such choice here.
_NO_KERNEL = {
    ("weights", "asymmetric"): "the kernels take weights with a zero point of 0",
    ("weights", "group"): "the kernels have one weight scale for a channel or for the tensor",
    ("weights", "int4"): "the kernels compute with INT8 weights",
    ("activations", "channel"): "the kernels have one scale and zero point for an activation tensor",
    ("activations", "int16"): "the kernels compute with INT8 activations",
    ("activations", "dynamic"): "the kernels have fixed activation scales: the device measures no ranges",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to find the grids; written `weights/weight_range/activations`."""

    weights: str = "channel"
    weight_range: str = "max"
    activations: str = "average"

    @property
    def tracks(self) -> bool:
        """Whether activation ranges follow every batch of fine-tuning; others are set anew each epoch."""
        return self.activations == "average"

    def __str__(self) -> str:
        return f"{self.weights}/{self.weight_range}/{self.activations}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of `str`. Raises ConfigError for anything else."""
        parts = text.split("/")
        if len(parts) != len(_CHOICES):
            raise ConfigError(
                f"quantization auto: '{text}' is not weights/weight_range/activations",
                hint='such as "channel/max/average", or "all"',
                key="auto",
            )
        for (name, known), part in zip(_CHOICES.items(), parts, strict=True):
            _check(name, part, known, key="auto")
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class QuantizationConfig:
    """How the INT8 grids of weights and activations are found.

    weights: one scale a channel or one a tensor (FULLY_CONNECTED always has one). weight_range: up to the
    largest weight, or where the mean squared error is least. activations: moving average of batch minima and
    maxima, extremes of all calibration batches, a percentile of their values, or least squared error.
    Raises ConfigError for values that cannot work.
    """

    weights: str = "channel"
    weight_range: str = "max"
    activations: str = "average"
    percentile: float = 99.99  # of the values on each side of a tensor, in percent
    auto: tuple[str, ...] = ()  # choices to try on the validation split, "all" for each; (): those above

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            _check(name, getattr(self, name), known, key=name)
        if not 50 < self.percentile <= 100:
            raise ConfigError(
                f"quantization percentile = {self.percentile} must be in (50, 100]", key="percentile"
            )
        if len(set(self.auto)) != len(self.auto):
            raise ConfigError("quantization auto names a choice twice", hint="each once", key="auto")
        if self.auto != ("all",):
            for text in self.auto:
                Choice.parse(text)

    @property
    def choice(self) -> Choice:
        """What is taken where nothing is tried."""
        return Choice(self.weights, self.weight_range, self.activations)

    @property
    def candidates(self) -> tuple[Choice, ...]:
        """What is tried after float training; one where there is no choice left."""
        if not self.auto:
            return (self.choice,)
        if self.auto == ("all",):
            return tuple(Choice(*parts) for parts in product(*_CHOICES.values()))
        return tuple(Choice.parse(text) for text in self.auto)


def _check(name: str, value: str, known: tuple[str, ...], *, key: str) -> None:
    if value not in known:
        why = _NO_KERNEL.get((name, value), "is not known")
        raise ConfigError(
            f"quantization {name} = '{value}'{':' if why != 'is not known' else ''} {why}",
            hint=f"one of {', '.join(known)}",
            key=key,
        )
