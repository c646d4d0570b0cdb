"""Journal: every single measurement, written before anything is made of it."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.closing import Closing
from pipeline.errors import LutError, StorageError
from pipeline.latency.lut import Row
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.storage import checksum, remedy

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
    suspect INTEGER NOT NULL DEFAULT 0,
    checksum INTEGER
);
CREATE INDEX IF NOT EXISTS by_operator ON measurements (identity, op);
"""
# columns that journals of earlier versions lack; their rows have no checksum
_LATER = {"suspect": "INTEGER NOT NULL DEFAULT 0", "checksum": "INTEGER"}
# nothing is wrong with what is in the file
_NOT_NOW = (
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
)  # fmt: skip


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


class Journal(Closing):
    """An SQLite file; each `add` is on disk when it returns. All of it raises LutError for a file that is none or is
    damaged, and for one that cannot be read or written now.

    What could not be written (the disk is full) is kept, and written with the next `add`, by `flush`, or on
    closing, should there be room by then.
    """

    def __init__(self, path: Path, identity_hash: str) -> None:
        self._path, self._identity = path, identity_hash
        self._unwritten: list[Measurement] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the journal {path} cannot be written: {error.strerror}", hint=remedy(error)
            ) from error
        try:
            self._db = sqlite3.connect(path, timeout=30.0)
            self._db.executescript(_SCHEMA)
            there = {row[1] for row in self._db.execute("PRAGMA table_info(measurements)")}
            for name in _LATER.keys() - there:
                self._db.execute(f"ALTER TABLE measurements ADD COLUMN {name} {_LATER[name]}")
        except (sqlite3.Error, UnicodeError) as error:  # the latter in its own words on a damaged schema
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_NOW:
                raise LutError(
                    f"the journal {path} cannot be used: {error}",
                    hint="is another edgenas measuring this board, or may you not write there?",
                ) from error
            raise LutError(f"{path} is not a measurement journal: {error}", hint="move it away") from error

    @property
    def unwritten(self) -> int:
        """Measurements that wait for room on the disk."""
        return len(self._unwritten)

    def add(self, measurement: Measurement) -> Measurement:
        """Writes `measurement`; returns it with its number. LutError: the disk is full, or out of order."""
        self._unwritten.append(measurement)
        return replace(measurement, number=self.flush())

    def flush(self) -> int:
        """Writes what could not be written before, all of it or nothing; the last one's number."""
        columns = "identity, op, kernel, cycles, instructions, ticks, output_crc, refused, at, checksum"
        statement = f"INSERT INTO measurements ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)"
        number = 0
        try:
            with self._db:
                for m in self._unwritten:
                    number = self._db.execute(statement, self._values(m)).lastrowid or 0
        except sqlite3.Error as error:
            raise self._cannot_write(error) from error
        self._unwritten.clear()
        return number

    def _values(self, m: Measurement) -> tuple[str | int | float, ...]:
        what = (self._identity, m.op.key, select(m.op).name)
        found = (float(m.cycles), int(m.instructions), int(m.ticks), int(m.output_crc), m.refused)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return (*what, *found, now, checksum((*what, *found)))

    def _cannot_write(self, error: sqlite3.Error) -> LutError:
        try:
            safe = f"the {self._db.execute('SELECT count(*) FROM measurements').fetchone()[0]}"
        except sqlite3.Error:
            safe = "all"
        try:
            room = f"{shutil.disk_usage(self._path.parent).free / 1e6:.1f} MB free there"
        except OSError:
            room = "its folder is gone"
        return LutError(
            f"cannot write to the journal {self._path}: {error} ({room})",
            hint=f"make room and run it again: {safe} measurements in the journal are safe and will not be "
            "repeated",
        )

    def suspect(self, measurements: Sequence[Measurement]) -> None:
        """Marks measurements as made while the target drifted: they stay, and no longer count."""
        try:
            with self._db:
                self._db.executemany(
                    "UPDATE measurements SET suspect = 1 WHERE id = ?", [(m.number,) for m in measurements]
                )
        except sqlite3.Error as error:
            raise self._cannot_write(error) from error

    def of(self, op: OpSpec) -> list[Measurement]:
        """Every measurement of `op`, but suspect ones, under this identity and with today's kernel, oldest first."""
        query = (
            "SELECT cycles, instructions, ticks, output_crc, refused, id, checksum FROM measurements "
            "WHERE identity = ? AND op = ? AND kernel = ? AND NOT suspect ORDER BY id"
        )
        try:
            what = (self._identity, op.key, select(op).name)
            return [Measurement(op, *_checked(what, values)) for values in self._db.execute(query, what)]
        except (sqlite3.Error, ValueError, TypeError) as error:  # UnicodeError is a ValueError
            raise LutError(
                f"the journal {self._path} is damaged: {error}",
                hint=f"move it away; what is left of it: sqlite3 {self._path} .recover; a measurement by its number is "
                "taken out with DELETE FROM measurements WHERE id = NUMBER",
            ) from error

    def row(self, op: OpSpec) -> Row | None:
        """The table's row of `op`; None where nothing was measured."""
        return summarize(op, self.of(op))

    def close(self) -> None:
        try:
            self.flush()
        except LutError:
            pass  # `add` has said so
        finally:
            self._db.close()


def _checked(what: tuple[str, ...], values: tuple[Any, ...]) -> tuple[float, int, int, int, str, int]:
    """A row's columns as `Journal.of` asks for them; a damaged file may have anything there. `what` was asked for."""
    cycles, instructions, ticks, output_crc, refused, number, stated = values
    if not (math.isfinite(cycles) and cycles >= 0 and isinstance(refused, str)):
        raise ValueError(f"measurement {number} has {cycles} cycles")
    if stated is not None and stated != checksum((*what, *values[:5])):
        raise ValueError(f"measurement {number} does not match its checksum")
    return float(cycles), int(instructions), int(ticks), int(output_crc), refused, int(number)


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
