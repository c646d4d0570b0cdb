"""Budgets an architecture must meet, and the cost that is held against them."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Cost:
    """What one architecture costs on one board (predicted or observed)."""

    latency_ms: float
    sram_bytes: int  # arena + static RAM + reserved stack
    flash_bytes: int
    parameters: int
    vetoed: int = 0  # operators that cannot be deployed at all (space/vetoes.py)
    energy_mj: float | None = None  # of one inference, upper end; None where the board's current is not known


@dataclass(frozen=True, slots=True)
class Budgets:
    """Hard upper limits; None means unlimited. Field names equal those of `Cost`."""

    latency_ms: float | None = None
    sram_bytes: int | None = None
    flash_bytes: int | None = None
    parameters: int | None = None
    energy_mj: float | None = None

    def violations(self, cost: Cost) -> dict[str, float]:
        """Relative excess (0.1 = ten percent over) of each budget that `cost` breaks.

        Operators that cannot be deployed break the budget "vetoed", each by one.
        """
        out = {"vetoed": float(cost.vetoed)} if cost.vetoed else {}
        for field in fields(self):
            limit = getattr(self, field.name)
            value = getattr(cost, field.name)
            if limit is None:
                continue
            if value is None:  # nobody can say that it holds
                out[field.name] = float("inf")
            elif value > limit:
                out[field.name] = value / limit - 1.0
        return out
