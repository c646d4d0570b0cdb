"""Journal: every single measurement, written before anything is made of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pipeline.errors import LutError
from pipeline.latency.lut import Row
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    id INTEGER PRIMARY KEY,
    identity TEXT NOT NULL,
    op TEXT NOT NULL,
    kernel TEXT NOT NULL,
    cycles REAL NOT NULL,
    instructions INTEGER NOT NULL,
    ticks INTEGER NOT NULL,
    output_crc INTEGER NOT NULL,
    refused TEXT NOT NULL,
    at TEXT NOT NULL,
    suspect INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_operator ON measurements (identity, op);
"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one operator. `ticks` is the device's own count; `refused` says why it did not run.

    `number` is its place in the journal, 0 before it has one.
    """

    op: OpSpec
    cycles: float = 0.0
    instructions: int = 0
    ticks: int = 0
    output_crc: int = 0
    refused: str = ""
    number: int = 0


class Journal:
    """An SQLite file; each `add` is on disk when it returns. Raises LutError for a file that is none."""

    def __init__(self, path: Path, identity_hash: str) -> None:
        self._path, self._identity = path, identity_hash
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=30.0)
            self._db.executescript(_SCHEMA)
            if "suspect" not in {row[1] for row in self._db.execute("PRAGMA table_info(measurements)")}:
                self._db.execute("ALTER TABLE measurements ADD COLUMN suspect INTEGER NOT NULL DEFAULT 0")
        except sqlite3.Error as error:
            raise LutError(f"{path} is not a measurement journal: {error}", hint="move it away") from error

    def add(self, measurement: Measurement) -> Measurement:
        """Writes `measurement`; returns it with its number."""
        m = measurement
        now = datetime.now(UTC).isoformat(timespec="seconds")
        values = (self._identity, m.op.key, select(m.op).name, m.cycles, m.instructions, m.ticks,
                  m.output_crc, m.refused, now)  # fmt: skip
        columns = "identity, op, kernel, cycles, instructions, ticks, output_crc, refused, at"
        try:
            with self._db:
                statement = f"INSERT INTO measurements ({columns}) VALUES (?,?,?,?,?,?,?,?,?)"
                number = self._db.execute(statement, values).lastrowid
        except sqlite3.Error as error:
            raise LutError(f"cannot write to the journal {self._path}: {error}") from error
        return replace(m, number=number or 0)

    def suspect(self, measurements: Sequence[Measurement]) -> None:
        """Marks measurements as made while the target drifted: they stay, and no longer count."""
        with self._db:
            self._db.executemany(
                "UPDATE measurements SET suspect = 1 WHERE id = ?", [(m.number,) for m in measurements]
            )

    def of(self, op: OpSpec) -> list[Measurement]:
        """Every measurement of `op`, but suspect ones, under this identity and with today's kernel, oldest first."""
        query = (
            "SELECT cycles, instructions, ticks, output_crc, refused, id FROM measurements "
            "WHERE identity = ? AND op = ? AND kernel = ? AND NOT suspect ORDER BY id"
        )
        found = self._db.execute(query, (self._identity, op.key, select(op).name))
        return [Measurement(op, *values) for values in found]

    def row(self, op: OpSpec) -> Row | None:
        """The table's row of `op`; None where nothing was measured."""
        return summarize(op, self.of(op))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def summarize(op: OpSpec, measurements: Sequence[Measurement]) -> Row | None:
    """Median and 95th percentile over the runs that were not refused; None without measurements."""
    if not measurements:
        return None
    kernel = select(op).name
    good = [m for m in measurements if not m.refused]
    if not good:
        return Row(op, kernel, 0.0, 0.0, 0, 0, measurements[-1].refused)
    cycles = [m.cycles for m in good]
    instructions = round(float(np.median([m.instructions for m in good])))
    median, p95 = float(np.median(cycles)), float(np.quantile(cycles, 0.95))
    return Row(op, kernel, median, p95, instructions, len(good))
