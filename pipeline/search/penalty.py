"""Penalties for broken budgets: an augmented Lagrangian for inequalities, whose multipliers rise and fall."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.search.config import SearchConfig
from pipeline.search.relaxation import Expected
from pipeline.space.budgets import Budgets

_PART = 100  # `growth` is the factor after so great a part of the alternations (one in 100) broke the budget


@dataclass(slots=True)
class Penalty:
    """(max(0, l + 2 m g)^2 - l^2) / 4m with g = value / limit - 1, summed over the budgets that are set.

    With the multiplier l = 0 this is m max(0, g)^2. After each step l becomes max(0, l + 2 m g), at most `cap`: it
    collects what a broken budget needs and gives it back while the budget is met (Nocedal and Wright, Numerical
    Optimization, 17.4). The coefficient m (mu for latency, nu for each memory) grows while a budget is broken.
    `adaptive` False: m is kept and l stays 0.
    """

    limits: dict[str, float]
    growth: float  # of a coefficient after a violating step
    cap: float
    adaptive: bool = True
    coefficients: dict[str, float] = field(default_factory=dict)
    multipliers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, budgets: Budgets, config: SearchConfig) -> Penalty:
        names = ("latency_ms", "sram_bytes", "flash_bytes", "parameters")
        limits = {n: float(getattr(budgets, n)) for n in names if getattr(budgets, n) is not None}
        if not config.ablation.latency_penalty:
            limits.pop("latency_ms", None)
        # Counted in parts of the search: a short one has as much of the schedule as a long one.
        try:
            growth = config.penalty_growth ** (_PART / max(1, config.steps))
        except OverflowError:
            growth = math.inf  # the cap ends it
        initial = {n: config.mu if n == "latency_ms" else config.nu for n in limits}
        return cls(
            limits, growth, config.penalty_cap, config.ablation.adaptive, initial, dict.fromkeys(limits, 0.0)
        )

    def loss(self, cost: Expected) -> Tensor:
        total = torch.zeros(())
        for name, limit in self.limits.items():
            stiffness, multiplier = 2.0 * self.coefficients[name], self.multipliers[name]
            pull = torch.clamp(multiplier + stiffness * (getattr(cost, name) / limit - 1.0), min=0.0)
            total = total + (pull * pull - multiplier * multiplier) / (2.0 * stiffness)
        return total

    def update(self, cost: Expected) -> None:
        """After a step whose cost this was."""
        if not self.adaptive:
            return
        for name, limit in self.limits.items():
            excess = getattr(cost, name).item() / limit - 1.0
            pull = self.multipliers[name] + 2.0 * self.coefficients[name] * excess
            self.multipliers[name] = min(self.cap, max(0.0, pull))
            if excess > 0:
                self.coefficients[name] = min(self.cap, self.coefficients[name] * self.growth)

    def record(self) -> dict[str, float]:
        """Coefficients and multipliers by the names that a search's history has for them."""
        out = {}
        for name in self.limits:
            out["mu" if name == "latency_ms" else f"nu_{name}"] = self.coefficients[name]
            out[f"multiplier_{name}"] = self.multipliers[name]
        return out

    def state_dict(self) -> dict[str, Any]:
        return {"coefficients": dict(self.coefficients), "multipliers": dict(self.multipliers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coefficients = dict(state["coefficients"])
        self.multipliers |= state.get("multipliers", {})
