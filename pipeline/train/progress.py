"""What a training tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["teacher", "float", "qat"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands after a step; `val_accuracy` (0..1) is set at the end of each epoch.

    A teacher's training counts its own steps and epochs.
    """

    step: int
    total_steps: int
    phase: Phase
    epoch: int
    epochs: int
    loss: float
    val_accuracy: float | None = None
