"""Rows of a latency table and their file: one operator a line, each line with its checksum."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.latency.tablefiles import damaged, read_text
from pipeline.space.opspec import OpSpec
from pipeline.storage import write_text

_HEADER = ("op", "kernel", "cycles", "p95", "instructions", "n", "refused")
_TRANSFERRED = ("provenance", "fitted", "relatives", "low")  # only in tables with transferred rows


@dataclass(frozen=True, slots=True)
class Row:
    """One operator. `cycles` is the median of `n` runs; `refused` says why there is no measurement.

    A transferred row (pipeline/latency/transfer.py) has no runs: its cycles are another board's, corrected by
    `fitted` measurements, `relatives` of them of the same kernel, and lie between `low` and `p95`.
    """

    op: OpSpec
    kernel: str
    cycles: float
    p95: float
    instructions: int
    n: int
    refused: str = ""
    fitted: int = 0
    relatives: int = 0
    low: float = 0.0

    @property
    def transferred(self) -> bool:
        return self.fitted > 0

    @property
    def least(self) -> float:
        """Lower end of the row's interval."""
        return self.low if self.transferred else min(self.cycles, self.p95)


def write_rows(path: Path, rows: Mapping[str, Row], provenance: str) -> None:
    """`provenance` is that of measured rows; transferred ones are modelled."""
    wide = any(row.transferred for row in rows.values())
    lines = [_line([*_HEADER, *_TRANSFERRED] if wide else [*_HEADER])]
    lines += [_row_line(rows[key], provenance if wide else "") for key in sorted(rows)]
    write_text(path, "".join(f"{line}\n" for line in lines))


def rows_checksum(rows: Mapping[str, Row]) -> str:
    """Over all rows: what ties a table's two files to each other."""
    lines = "\n".join(_row_line(rows[key], "any") for key in sorted(rows))
    return f"{zlib.crc32(lines.encode()):08x}"


def read_rows(path: Path, board: str) -> dict[str, Row]:
    """Raises LutError: no such file, or a line that was damaged or edited (naming it)."""
    rows: dict[str, Row] = {}
    lines = read_text(path, board).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    columns = len(_HEADER)
    for number, line in enumerate(lines, start=1):
        text, _, checksum = line.removesuffix("\r").rpartition(",")
        if f"{zlib.crc32(text.encode()):08x}" != checksum:
            raise damaged(path, f"line {number}: the checksum does not match", board)
        values = next(csv.reader([text]), [])
        if number == 1:
            if tuple(values) not in (_HEADER, (*_HEADER, *_TRANSFERRED)):
                raise damaged(path, f"line 1: the columns are not {', '.join(_HEADER)}, crc32", board)
            columns = len(values)
            continue
        try:
            row = _row(values, columns)
        except ValueError as error:
            raise damaged(path, f"line {number}: {error}", board) from error
        if row.op.key in rows:
            raise damaged(path, f"line {number}: {row.op.key} is there twice", board)
        rows[row.op.key] = row
    return rows


def _line(values: list[str]) -> str:
    """The CSV line of `values` and the checksum over its text (the header's too)."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    text = buffer.getvalue()
    return f"{text},{zlib.crc32(text.encode()):08x}"


def _row_line(row: Row, provenance: str) -> str:
    numbers = [repr(row.cycles), repr(row.p95), str(row.instructions), str(row.n)]
    values = [row.op.key, row.kernel, *numbers, row.refused]
    if provenance:
        kind = "modelled" if row.transferred else provenance
        values += [kind, str(row.fitted), str(row.relatives), repr(row.low)]
    return _line(values)


def _row(values: list[str], columns: int) -> Row:
    if len(values) != columns:
        raise ValueError(f"{len(values)} values instead of {columns}")
    key, kernel, cycles, p95, instructions, n, refused, *more = values
    row = (OpSpec.from_key(key), kernel, float(cycles), float(p95), int(instructions), int(n), refused)
    if not more:
        return Row(*row)
    _, fitted, relatives, low = more
    return Row(*row, int(fitted), int(relatives), float(low))
