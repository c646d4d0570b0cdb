"""A number that says where it comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

# "given" marks what a user set (a budget), not something observed or predicted
Provenance = Literal["measured", "cycle-accurate", "modelled", "estimated", "given"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its unit and provenance; the only thing reports print.

    `n` is the number of observations behind it; `low`/`high` bound the interval where one is known;
    `note` says in a few words how the number was obtained.
    """

    value: float
    unit: str
    provenance: Provenance
    n: int = 1
    low: float | None = None
    high: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v not in (None, "")}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Figure:
        return cls(**raw)
