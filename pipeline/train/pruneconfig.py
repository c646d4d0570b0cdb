"""What can be chosen about structured pruning."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.space.budgets import Budgets
from pipeline.tomltable import MOST_RATE, check_at_most

IMPORTANCE = ("taylor", "scale", "random")


@dataclass(frozen=True, slots=True)
class PruneConfig:
    """Removing whole channels of the trained float network until limits hold; without any limit nothing is pruned.

    importance: "taylor": first-order change of the loss; "scale": size of the batch normalization's factor;
    "random": to compare with. Raises ConfigError for values that cannot work.
    """

    latency_ms: float = 0.0  # limits to prune to; 0: none
    sram_bytes: int = 0
    flash_bytes: int = 0
    parameters: int = 0
    fraction: float = 0.0  # of the multiply-accumulates, to be removed
    importance: str = "taylor"
    multiple: int = 4  # widths are multiples of it, where the kernels are fastest
    rounds: int = 5  # of removing channels and training on
    round_steps: int = 60  # of training after each round
    batches: int = 16  # training batches that importance is found with
    epochs: int = 6  # of float training after the last round
    learning_rate: float = 0.05  # peak of that training; a fifth of it between rounds

    @property
    def active(self) -> bool:
        return self.fraction > 0 or self.budgets != Budgets()

    @property
    def budgets(self) -> Budgets:
        """The limits without the fraction."""
        return Budgets(
            self.latency_ms or None,
            self.sram_bytes or None,
            self.flash_bytes or None,
            self.parameters or None,
        )

    def __post_init__(self) -> None:
        for name in ("latency_ms", "sram_bytes", "flash_bytes", "parameters", "round_steps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"prune {name} = {getattr(self, name)} must not be negative", key=name)
        if not 0 <= self.fraction < 1:
            raise ConfigError(f"prune fraction = {self.fraction} must be in [0, 1)", key="fraction")
        for name in ("multiple", "rounds", "batches", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"prune {name} = {getattr(self, name)} must be at least 1", key=name)
        if not self.learning_rate > 0:
            raise ConfigError(
                f"prune learning_rate = {self.learning_rate} must be positive", key="learning_rate"
            )
        check_at_most(MOST_RATE, {"prune learning_rate": self.learning_rate})
        if self.importance not in IMPORTANCE:
            raise ConfigError(
                f"prune importance = '{self.importance}' is not known",
                hint=f"one of {', '.join(IMPORTANCE)}",
                key="importance",
            )
