"""Lut: measured operators of one board, engine and compiler, and what they predict for whole graphs.

A table is two files: `<name>.csv` (one operator a line, each with its checksum) and `<name>.toml` (identity,
overheads, flash model). Reading is strict: a table that was damaged, edited by hand or measured under other
conditions is refused.
"""

from __future__ import annotations

import csv
import io
import json
import tomllib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import LutError
from pipeline.figures import Provenance
from pipeline.latency.interpolate import KernelModel
from pipeline.memory.flash import FlashModel
from pipeline.space.graph import OpGraph
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.storage import write_text

FORMAT = 1
_HEADER = ("op", "kernel", "cycles", "p95", "instructions", "n", "refused", "crc32")


@dataclass(frozen=True, slots=True)
class Identity:
    """Under which conditions a table was measured; every field must be equal for it to be used.

    `engine_revision` is the hash of the kernels' sources, `firmware_revision` that of the rest of the
    firmware (which the flash model and the overheads depend on, and operators do not).
    """

    board: str
    clock_hz: int
    memory: str
    engine: str
    engine_revision: str
    firmware_revision: str
    compiler: str
    flags: str
    timing: str
    counter: str

    @property
    def hash(self) -> str:
        """Of what an operator's cycles depend on: the journal's key."""
        values = {k: v for k, v in asdict(self).items() if k != "firmware_revision"}
        return f"{zlib.crc32(_canonical(values)):08x}"

    def differences(self, other: Identity) -> dict[str, tuple[Any, Any]]:
        """Fields that differ: name to (this one's, the other's) value."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@dataclass(frozen=True, slots=True)
class Row:
    """One operator. `cycles` is the median of `n` runs; `refused` says why there is no measurement."""

    op: OpSpec
    kernel: str
    cycles: float
    p95: float
    instructions: int
    n: int
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Cycles that no operator's row has in it: per layer (its call) and per inference (the rest)."""

    layer_cycles: float = 0.0
    layer_instructions: float = 0.0
    inference_cycles: float = 0.0
    inference_instructions: float = 0.0


@dataclass(frozen=True, slots=True)
class NodePrediction:
    """Cycles of one layer, its call included, and the interval they should lie in."""

    cycles: float
    provenance: Provenance
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Cycles of one inference. `unmeasured` are the keys of operators that were interpolated."""

    per_node: tuple[NodePrediction, ...]
    overhead_cycles: float
    unmeasured: tuple[str, ...]

    @property
    def total_cycles(self) -> float:
        return sum(node.cycles for node in self.per_node) + self.overhead_cycles

    @property
    def low_cycles(self) -> float:
        return sum(node.low for node in self.per_node) + self.overhead_cycles

    @property
    def high_cycles(self) -> float:
        return sum(node.high for node in self.per_node) + self.overhead_cycles

    def latency_ms(self, clock_hz: int) -> float:
        return self.total_cycles / clock_hz * 1e3


@dataclass(frozen=True, eq=False)
class Lut:
    """Immutable; equal where identity, rows, overhead and flash model are."""

    identity: Identity
    rows: Mapping[str, Row]
    overhead: Overhead = field(default_factory=Overhead)
    flash: FlashModel | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lut):
            return NotImplemented
        mine = (self.identity, dict(self.rows), self.overhead, self.flash)
        return mine == (other.identity, dict(other.rows), other.overhead, other.flash)

    @property
    def provenance(self) -> Provenance:
        """Of rows: a timing model over instructions does not measure, and simulated hardware is its own kind."""
        if self.identity.counter == "instructions":
            return "modelled"
        return "cycle-accurate" if self.identity.timing == "RTL simulation" else "measured"

    def row(self, op: OpSpec) -> Row | None:
        """The row of `op`, if there is one and it is of the kernel that runs `op` today."""
        row = self.rows.get(op.key)
        return row if row is not None and row.kernel == select(op).name else None

    def __contains__(self, op: OpSpec) -> bool:
        row = self.row(op)
        return op.kind == "reshape" or (row is not None and not row.refused)

    def missing(self, ops: Iterable[OpSpec]) -> list[OpSpec]:
        """Operators that nobody tried to measure, sorted and without repetition."""
        return sorted({op for op in ops if op.kind != "reshape" and self.row(op) is None})

    # -- prediction --------------------------------------------------------------------------------------

    @cached_property
    def models(self) -> Mapping[str, KernelModel]:
        """A model of every kernel that was measured at all."""
        by_kernel: dict[str, dict[OpSpec, float]] = {}
        for row in self.rows.values():
            if not row.refused:
                by_kernel.setdefault(row.kernel, {})[row.op] = row.cycles
        return {kernel: KernelModel.fit(kernel, rows) for kernel, rows in sorted(by_kernel.items())}

    def predict_op(self, op: OpSpec) -> NodePrediction:
        """Cycles of one operator without its call; reshape costs nothing.

        Raises LutError for an operator whose kernel was never measured.
        """
        if op.kind == "reshape":
            return NodePrediction(0.0, self.provenance, 0.0, 0.0)
        row = self.row(op)
        if row is not None and not row.refused:
            return NodePrediction(row.cycles, self.provenance, min(row.cycles, row.p95), row.p95)
        kernel = select(op).name
        model = self.models.get(kernel)
        if model is None:
            raise LutError(
                f"the table of {self.identity.board} has no operator that runs {kernel}, needed by {op.key}",
                hint=_profile_hint(self.identity.board),
            )
        estimate = model.estimate(op)
        return NodePrediction(estimate.cycles, "estimated", estimate.low, estimate.high)

    def predict(self, graph: OpGraph) -> Prediction:
        """Cycles of one inference over `graph`, layer by layer. Raises LutError as `predict_op` does."""
        call = self.overhead.layer_cycles
        nodes, unmeasured = [], []
        for node in graph.nodes:
            p = self.predict_op(node.op)
            if node.op.kind != "reshape":
                p = NodePrediction(p.cycles + call, p.provenance, p.low + call, p.high + call)
                if p.provenance == "estimated":
                    unmeasured.append(node.op.key)
            nodes.append(p)
        return Prediction(tuple(nodes), self.overhead.inference_cycles, tuple(dict.fromkeys(unmeasured)))

    def cycles_per_instruction(self, graph: OpGraph) -> float:
        """Ratio over one inference, from the rows that `graph` has in the table (all rows where none)."""
        ops = [node.op for node in graph.nodes if node.op.kind != "reshape" and node.op in self]
        rows = [self.rows[op.key] for op in ops] or [r for r in self.rows.values() if not r.refused]
        cycles = sum(r.cycles for r in rows) + len(ops) * self.overhead.layer_cycles
        instructions = sum(r.instructions for r in rows) + len(ops) * self.overhead.layer_instructions
        if ops:
            cycles += self.overhead.inference_cycles
            instructions += self.overhead.inference_instructions
        if instructions <= 0:
            raise LutError(
                f"the table of {self.identity.board} counts no instructions",
                hint=_profile_hint(self.identity.board),
            )
        return cycles / instructions

    # -- files -------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write `path` (`.csv`) and its `.toml`."""
        lines = [_line([*_HEADER[:-1]])] + [_row_line(self.rows[key]) for key in sorted(self.rows)]
        write_text(path, "".join(f"{line}\n" for line in lines))
        write_text(path.with_suffix(".toml"), _toml(self._description()))

    @classmethod
    def load(cls, path: Path, identity: Identity | None = None) -> Lut:
        """Read `path` (`.csv`, or its `.toml`).

        Raises LutError: missing or damaged files (with the line), or an identity other than `identity`
        (naming the fields that differ).
        """
        description = _read_toml(path.with_suffix(".toml"))
        found = _identity(description, path)
        if identity is not None:
            refuse_other_identity(found, identity)
        rows = _read_rows(path.with_suffix(".csv"), found.board)
        if len(rows) != description.get("rows"):
            what = f"has {len(rows)} operators, its .toml says {description.get('rows')}"
            raise _damaged(path.with_suffix(".csv"), what, found.board)
        try:
            overhead = Overhead(**description["overhead"])
            flash = FlashModel.from_table(description["flash"]) if "flash" in description else None
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path.with_suffix(".toml"), f"lacks or misstates {error}", found.board) from error
        return cls(found, rows, overhead, flash)

    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = {
            "format": FORMAT,
            "rows": len(self.rows),
            "identity": asdict(self.identity),
            "overhead": asdict(self.overhead),
        }
        if self.flash is not None:
            description["flash"] = self.flash.to_table()
        return {"checksum": _checksum(description), **description}


def refuse_other_identity(found: Identity, wanted: Identity) -> None:
    """Raises LutError, naming every field that differs, where `found` is not `wanted`."""
    differences = found.differences(wanted)
    if differences:
        what = "; ".join(f"{name} is '{a}', here it is '{b}'" for name, (a, b) in differences.items())
        raise LutError(
            f"the table of {found.board} was measured under other conditions: {what}",
            hint=_profile_hint(wanted.board),
        )


def _profile_hint(board: str) -> str:
    return f"measure it here: edgenas profile --board {board}"


def _damaged(path: Path, what: str, board: str = "") -> LutError:
    name = board or path.parent.name
    return LutError(f"{path} {what}", hint=f"the file is damaged or was edited; {_profile_hint(name)}")


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _checksum(description: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(_canonical(description)):08x}"


# -- rows --------------------------------------------------------------------------------------------------


def _line(values: list[str]) -> str:
    """The CSV line of `values` and the checksum over its text (the header's too)."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(values)
    text = buffer.getvalue()
    return f"{text},{zlib.crc32(text.encode()):08x}"


def _row_line(row: Row) -> str:
    numbers = [repr(row.cycles), repr(row.p95), str(row.instructions), str(row.n)]
    return _line([row.op.key, row.kernel, *numbers, row.refused])


def _read(path: Path, board: str = "") -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        hint = _profile_hint(board or path.parent.name)
        raise LutError(f"there is no table at {path}", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"cannot be read: {error}", board) from error


def _read_rows(path: Path, board: str) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    lines = _read(path, board).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        text, _, checksum = line.removesuffix("\r").rpartition(",")
        if f"{zlib.crc32(text.encode()):08x}" != checksum:
            raise _damaged(path, f"line {number}: the checksum does not match", board)
        values = next(csv.reader([text]), [])
        if number == 1:
            if tuple(values) != _HEADER[:-1]:
                raise _damaged(path, f"line 1: the columns are not {', '.join(_HEADER)}", board)
            continue
        try:
            row = _row(values)
        except ValueError as error:
            raise _damaged(path, f"line {number}: {error}", board) from error
        if row.op.key in rows:
            raise _damaged(path, f"line {number}: {row.op.key} is there twice", board)
        rows[row.op.key] = row
    return rows


def _row(values: list[str]) -> Row:
    if len(values) != len(_HEADER) - 1:
        raise ValueError(f"{len(values)} values instead of {len(_HEADER) - 1}")
    key, kernel, cycles, p95, instructions, n, refused = values
    return Row(OpSpec.from_key(key), kernel, float(cycles), float(p95), int(instructions), int(n), refused)


# -- description -------------------------------------------------------------------------------------------


def _read_toml(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        description = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _damaged(path, f"is not valid TOML: {error}") from error
    checksum = description.pop("checksum", None)
    if checksum != _checksum(description):
        raise _damaged(path, f"line 1: checksum {checksum} does not match the contents")
    if description.get("format") != FORMAT:
        raise LutError(
            f"{path} has format {description.get('format')}, this version reads {FORMAT}",
            hint=_profile_hint(path.parent.name),
        )
    return description


def _identity(description: Mapping[str, Any], path: Path) -> Identity:
    try:
        return Identity(**description["identity"])
    except (KeyError, TypeError) as error:
        raise _damaged(path.with_suffix(".toml"), f"lacks part of its identity: {error}") from error


def _toml(description: Mapping[str, Any]) -> str:
    """TOML of nested tables with strings, numbers and lists of strings; scalars come first."""
    lines: list[str] = []
    _toml_table(description, "", lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml_table(table: Mapping[str, Any], name: str, lines: list[str]) -> None:
    if name:
        lines += ["", f"[{name}]"]
    for key, value in table.items():
        if not isinstance(value, Mapping):
            lines.append(f"{_toml_key(key)} = {json.dumps(value, ensure_ascii=False)}")
    for key, value in table.items():
        if isinstance(value, Mapping):
            _toml_table(value, f"{name}.{_toml_key(key)}" if name else _toml_key(key), lines)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)
