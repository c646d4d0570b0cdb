"""What can be chosen about knowledge distillation."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.tomltable import MOST_RATE, TEMPERATURES, check_at_most, check_within

ARCHITECTURES = ("wide", "resnet", "convnet")
_WIDEST = 256.0  # times the student: beyond it are no teachers, but sizes that torch cannot count


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """A larger network whose outputs the trained one learns from (Hinton et al. 2015, arXiv:1503.02531).

    The loss is (1 - weight) CE + weight T^2 KL(teacher || student), both softened by T = `temperature`.
    Raises ConfigError for values that cannot work.
    """

    weight: float = 0.0  # share of the teacher in the loss; 0: no teacher
    temperature: float = 4.0
    architecture: str = "wide"  # "wide": the student with `width` times its channels; "resnet"; "convnet"
    width: float = 2.0  # a resnet has 16, 32 and 64 channels times this, a convnet 32, 96 and 96
    depth: int = 2  # residual blocks in each of a resnet's three stages
    members: int = 1  # so many teachers from different seeds, their probabilities averaged
    epochs: int = 12
    learning_rate: float = 0.15  # peak of the one-cycle schedule
    files: tuple[str, ...] = ()  # trained teachers to use again; then nothing is trained

    @property
    def active(self) -> bool:
        return self.weight > 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"teacher weight = {self.weight} must be in [0, 1]", key="weight")
        for name in ("temperature", "width", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"teacher {name} = {getattr(self, name)} must be positive", key=name)
        check_at_most(_WIDEST, {"teacher width": self.width})
        check_at_most(MOST_RATE, {"teacher learning_rate": self.learning_rate})
        check_within(TEMPERATURES, {"teacher temperature": self.temperature})
        for name in ("depth", "members", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"teacher {name} = {getattr(self, name)} must be at least 1", key=name)
        if self.architecture not in ARCHITECTURES:
            raise ConfigError(
                f"teacher architecture = '{self.architecture}' is not known",
                hint=f"one of {', '.join(ARCHITECTURES)}",
                key="architecture",
            )
