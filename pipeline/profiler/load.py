"""How much slower a board is right now than when its table was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.boards import Board
from pipeline.errors import LinkError, LutError
from pipeline.latency.lut import Lut, Row
from pipeline.profiler.bench import Session
from pipeline.space.opspec import OpSpec


@dataclass(frozen=True, slots=True)
class LoadScale:
    """Ratio of observed to tabulated cycles over several operators and runs of each."""

    median: float
    upper: float  # the quantile asked for: what a deadline should be held against
    quantile: float
    operators: int
    runs: int

    @property
    def latency_scale(self) -> float:
        """What to plan with: never below 1, since a deadline must hold when the board is as the table says."""
        return max(1.0, self.upper)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def spread(lut: Lut, ops: Sequence[OpSpec], wanted: int) -> list[Row]:
    """Up to `wanted` measured rows of `ops`, evenly spaced in order of their cycles.

    Raises LutError where none of them was measured.
    """
    found = {row.op.key: row for op in ops if (row := lut.row(op)) is not None}
    rows = sorted((row for row in found.values() if not row.refused and row.cycles > 0), key=_cycles)
    if not rows:
        raise LutError(
            f"the table of {lut.identity.board} measured none of these operators",
            hint=f"measure them: edgenas profile --board {lut.identity.board}",
        )
    places = np.unique(np.linspace(0, len(rows) - 1, min(wanted, len(rows))).round().astype(int))
    return [rows[place] for place in places]


def _cycles(row: Row) -> tuple[float, str]:
    return row.cycles, row.op.key


def measure_load(
    session: Session, board: Board, rows: Sequence[Row], runs: int, quantile: float
) -> LoadScale:
    """Run each operator of `rows` `runs` times, round by round, and compare with the table.

    Rounds, so that load which comes and goes is seen by all of them. Raises LinkError: the target answers not, or
    refuses an operator that the table has.
    """
    ratios = []
    for _ in range(runs):
        for row in rows:
            seen = session.measure(row.op)
            if seen.refused:
                raise LinkError(
                    f"{board.name} refused {row.op.key}: {seen.refused}",
                    hint="is the benchmark firmware of this version on the board? see `edgenas flash --help`",
                )
            ratios.append(seen.cycles / row.cycles)
    return LoadScale(
        float(np.median(ratios)), float(np.quantile(ratios, quantile)), quantile, len(rows), runs
    )
