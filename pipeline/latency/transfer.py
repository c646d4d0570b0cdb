"""Transfer: another board's table, corrected by a few measurements of this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import LutError
from pipeline.latency.correction import LEVEL, Correction, Places, choose
from pipeline.latency.rows import Row


@dataclass(frozen=True, slots=True)
class Transfer:
    """How a table's transferred rows came about; errors are relative, of measurements left out of the fit.

    `base_identity` is the hash of the base table's identity; `alone` are the kernels that no measurement is of.
    """

    base: str
    base_identity: str
    measurements: int
    mape: float
    worst: float
    level: float
    correction: str
    alone: tuple[str, ...] = ()

    def describe(self) -> str:
        return (
            f"operators of {self.base} corrected by {self.measurements} measurements "
            f"(left out: {100 * self.mape:.1f} % off on average, {100 * self.worst:.1f} % at most)"
        )

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Transfer:
        """What `asdict` was saved as. Raises KeyError, TypeError or ValueError for anything else."""
        values = {**table, "alone": tuple(table["alone"])}
        found = cls(**values)
        if not (found.measurements > 0 and 0 < found.level < 1):
            raise ValueError(f"a transfer by {found.measurements} measurements at level {found.level}")
        return found


def worth_measuring(base: Mapping[str, Row], count: int, measured: Mapping[str, Row]) -> list[Row]:
    """Rows of `base` that, with those `measured` already, make `count` measurements and tell most of the others."""
    rows = usable(base)
    known = [i for i, row in enumerate(rows) if row.op.key in measured and not measured[row.op.key].refused]
    tried = {key for key, row in measured.items() if row.refused}
    wanted = max(0, count - len(known))
    # a refused operator is not asked again: others take its place
    # large operators make up most of a network's latency, small ones are many
    importance = np.sqrt([row.cycles for row in rows])
    order = choose(Places.of(rows), importance, wanted + len(tried), known)
    return [rows[i] for i in order if rows[i].op.key not in tried][:wanted]


def usable(base: Mapping[str, Row]) -> list[Row]:
    """Measured rows, in the order of their keys. Raises LutError for a table that was transferred itself."""
    if any(row.transferred for row in base.values()):
        raise LutError("the base table is a transferred one itself", hint="use the table that it came from")
    return [base[key] for key in sorted(base) if not base[key].refused and base[key].cycles > 0]


def transferred(
    base: Mapping[str, Row], measured: Mapping[str, Row], name: str, identity: str
) -> tuple[dict[str, Row], Transfer, float]:
    """Rows of the whole table: those measured, as they are, and every other row of `base`, corrected.

    With how that came about, and the median factor on `base`.

    `name` and `identity` (its hash) are those of the base. Raises LutError: fewer measurements of operators that
    `base` has than a fit needs.
    """
    rows = usable(base)
    places = Places.of(rows)
    both = [i for i, row in enumerate(rows) if row.op.key in measured and not measured[row.op.key].refused]
    ratios = np.array([np.log(measured[rows[i].op.key].cycles / rows[i].cycles) for i in both])
    fit = Correction.fit(places[both], ratios)
    factors, half, relatives = fit.predict(places)
    found: dict[str, Row] = {}
    for i, row in enumerate(rows):
        cycles = row.cycles * float(factors[i])
        width = float(np.exp(half[i]))
        found[row.op.key] = replace(
            row, cycles=cycles, low=cycles / width, p95=cycles * width, n=0, fitted=len(both),
            relatives=int(relatives[i]),
        )  # fmt: skip
    found |= {key: row for key, row in measured.items() if not row.refused or key not in found}
    alone = sorted({row.kernel for row in found.values() if row.transferred and not row.relatives})
    errors = np.abs(fit.errors)
    about = Transfer(
        name, identity, len(both), float(errors.mean()), float(errors.max()), LEVEL,
        fit.process.strengths.describe(), tuple(alone),
    )  # fmt: skip
    return found, about, float(np.median(factors))
