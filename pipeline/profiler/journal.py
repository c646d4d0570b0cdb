"""Journal: every single measurement, written before anything is made of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
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
    at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_operator ON measurements (identity, op);
"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one operator. `ticks` is the device's own count; `refused` says why it did not run."""

    op: OpSpec
    cycles: float = 0.0
    instructions: int = 0
    ticks: int = 0
    output_crc: int = 0
    refused: str = ""


class Journal:
    """An SQLite file; each `add` is on disk when it returns. Raises LutError for a file that is none."""

    def __init__(self, path: Path, identity_hash: str) -> None:
        self._path, self._identity = path, identity_hash
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=30.0)
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise LutError(f"{path} is not a measurement journal: {error}", hint="move it away") from error

    def add(self, measurement: Measurement) -> None:
        m = measurement
        now = datetime.now(UTC).isoformat(timespec="seconds")
        values = (self._identity, m.op.key, select(m.op).name, m.cycles, m.instructions, m.ticks,
                  m.output_crc, m.refused, now)  # fmt: skip
        columns = "identity, op, kernel, cycles, instructions, ticks, output_crc, refused, at"
        try:
            with self._db:
                self._db.execute(f"INSERT INTO measurements ({columns}) VALUES (?,?,?,?,?,?,?,?,?)", values)
        except sqlite3.Error as error:
            raise LutError(f"cannot write to the journal {self._path}: {error}") from error

    def of(self, op: OpSpec) -> list[Measurement]:
        """Every measurement of `op` under this identity and with today's kernel, oldest first."""
        query = (
            "SELECT cycles, instructions, ticks, output_crc, refused FROM measurements "
            "WHERE identity = ? AND op = ? AND kernel = ? ORDER BY id"
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
