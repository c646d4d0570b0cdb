"""Budgets in a report: as figures, and whether they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.figures import Figure
from pipeline.space.budgets import Budgets, Cost

_UNITS = {"latency_ms": "ms", "sram_bytes": "bytes", "flash_bytes": "bytes", "parameters": "parameters",
          "energy_mj": "mJ"}  # fmt: skip


def budget_figures(budgets: Budgets) -> dict[str, Any]:
    """The budgets that are set, as figures."""
    given = {name: getattr(budgets, name) for name in _UNITS}
    return {name: Figure(v, _UNITS[name], "given").to_json() for name, v in given.items() if v is not None}


def check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def budget_checks(budgets: Budgets, cost: Cost, how: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Each budget that is set against `cost`: name, whether it holds, and how it stands.

    `how`: where a value comes from, by the budget's name, for the text.
    """
    found = []
    over = budgets.violations(cost)
    for name, unit in _UNITS.items():
        limit = getattr(budgets, name)
        if limit is not None:
            source = f" ({how[name]})" if how and name in how else ""
            value = getattr(cost, name)
            number = f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
            detail = f"{name} is {number} {unit}{source}, "
            detail += f"{100 * over[name]:.1f} % over its" if name in over else "within its"
            found.append(check(f"budget {name}", name not in over, f"{detail} budget of {limit:,}"))
    return found
