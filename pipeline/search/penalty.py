"""Penalties for broken budgets, with coefficients that grow while a budget stays broken."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.search.config import SearchConfig
from pipeline.search.relaxation import Expected
from pipeline.space.budgets import Budgets


@dataclass(slots=True)
class Penalty:
    """coefficient * max(0, expected / limit - 1)^2, summed over the budgets that are set.

    `coefficients` has one entry per limited budget: mu for latency, nu for the memories (SRAM, flash,
    parameters: one each, all starting at nu).
    """

    limits: dict[str, float]
    growth: float
    cap: float
    coefficients: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, budgets: Budgets, config: SearchConfig) -> Penalty:
        names = ("latency_ms", "sram_bytes", "flash_bytes", "parameters")
        limits = {n: float(getattr(budgets, n)) for n in names if getattr(budgets, n) is not None}
        if not config.ablation.latency_penalty:
            limits.pop("latency_ms", None)
        growth = config.penalty_growth if config.ablation.adaptive else 1.0
        initial = {n: config.mu if n == "latency_ms" else config.nu for n in limits}
        return cls(limits, growth, config.penalty_cap, initial)

    def loss(self, expected: Expected) -> Tensor:
        total = torch.zeros(())
        for name, limit in self.limits.items():
            excess = torch.clamp(getattr(expected, name) / limit - 1.0, min=0.0)
            total = total + self.coefficients[name] * excess * excess
        return total

    def update(self, expected: Expected) -> None:
        """After a step: grow the coefficients of broken budgets, keep the others."""
        for name, limit in self.limits.items():
            if getattr(expected, name).item() > limit:
                self.coefficients[name] = min(self.cap, self.coefficients[name] * self.growth)
