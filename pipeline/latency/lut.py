"""Lut: measured operators of one board, engine and compiler, and what they predict for whole graphs.

A table is two files: `<name>.csv` (one operator a line, each with its checksum) and `<name>.toml` (identity,
overheads, flash model); `<name>.intervals.toml` beside them is its calibration on whole models. Reading is strict: a
table that was damaged, edited by hand or measured under other conditions is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import LutError
from pipeline.figures import Provenance
from pipeline.latency.identity import Identity as Identity
from pipeline.latency.identity import refuse_other_identity as refuse_other_identity
from pipeline.latency.interpolate import KernelModel
from pipeline.latency.intervals import Interval, intervals_path
from pipeline.latency.rows import Row as Row
from pipeline.latency.rows import read_rows, rows_checksum, write_rows
from pipeline.latency.tablefiles import canonical, damaged, profile_hint, read_toml, write_toml
from pipeline.latency.transfer import Transfer
from pipeline.latency.waits import WaitModel
from pipeline.memory.flash import FlashModel, layers
from pipeline.space.graph import OpGraph
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec


@dataclass(frozen=True, slots=True)
class Overhead:
    """Cycles that no operator's row has in it: per layer its call, and what an application does between it and the
    next; per inference the rest."""

    layer_cycles: float = 0.0
    layer_instructions: float = 0.0
    inference_cycles: float = 0.0
    inference_instructions: float = 0.0
    between_cycles: float = 0.0
    between_instructions: float = 0.0

    def outside_cycles(self, layers: int) -> float:
        """What lies outside of all layers, in an inference of so many."""
        return self.inference_cycles + layers * self.between_cycles


@dataclass(frozen=True, slots=True)
class NodePrediction:
    """Cycles of one layer, its call included, and the interval they should lie in; `outside` the range that was
    measured, they are extrapolated."""

    cycles: float
    provenance: Provenance
    low: float
    high: float
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """Cycles of one inference. `unmeasured` are the keys of operators that were interpolated, `outside` those of them
    that were extrapolated: they lie outside the measured range.

    Layers have the intervals of their rows or kernels' models; `interval` are the factors that make the sums of
    those ends an interval of the whole. `unlike`: no model that calibrated the table can be like this one.
    """

    per_node: tuple[NodePrediction, ...]
    overhead_cycles: float
    unmeasured: tuple[str, ...]
    interval: Interval
    front_end: NodePrediction | None = None  # that makes the input out of sound; in all sums
    outside: tuple[str, ...] = ()
    unlike: bool = False

    def describe(self) -> str:
        """The interval, where it comes from, and what is said of operators that have no row."""
        text = self.interval.describe()
        if self.unlike:
            more = f"{100 * self.interval.elsewhere:.2g} %"
            text = (
                f"assumed interval: {more} more than the table's ({text}), since this model is unlike those"
            )
        return text + self.estimates

    @property
    def provenance(self) -> Provenance:
        """As good as its least known operator."""
        return "estimated" if self.unmeasured else "modelled"

    @property
    def estimates(self) -> str:
        """What is said of operators that have no row; empty where all have one."""
        if not self.unmeasured:
            return ""
        text = f"; {len(self.unmeasured)} operators interpolated"
        return text + (f", {len(self.outside)} of them outside the measured range" if self.outside else "")

    @property
    def total_cycles(self) -> float:
        front_end = self.front_end.cycles if self.front_end else 0.0
        return sum(node.cycles for node in self.per_node) + self.overhead_cycles + front_end

    @property
    def low_cycles(self) -> float:
        """Lower end of the interval."""
        return self.interval.low * self.sums[0]

    @property
    def high_cycles(self) -> float:
        """Upper quantile: what budgets are held against."""
        return self.interval.high * self.sums[1]

    @property
    def sums(self) -> tuple[float, float]:
        """Lower and upper ends of rows and kernels' models, added up: what an interval is calibrated on."""
        parts = [*self.per_node, *([self.front_end] if self.front_end else [])]
        low, high = (sum(getattr(part, end) for part in parts) for end in ("low", "high"))
        return low + self.overhead_cycles, high + self.overhead_cycles

    def latency_ms(self, clock_hz: int) -> float:
        return self.total_cycles / clock_hz * 1e3


@dataclass(frozen=True, eq=False)
class Lut:
    """Immutable; equal where identity, rows, overhead, flash model and calibration are.

    `stand_in` names the emulated board whose cycles are used in place of measurements ("": it has its own);
    `transfer` says how the rows that were not measured were fitted (None: there are none). `waits` is what operators of
    whole models wait for memories beyond what their rows have; no file of the table keeps it.
    """

    identity: Identity
    rows: Mapping[str, Row]
    overhead: Overhead = field(default_factory=Overhead)
    flash: FlashModel | None = None
    calibration: Interval | None = None
    stand_in: str = ""
    transfer: Transfer | None = None
    waits: WaitModel | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lut):
            return NotImplemented
        mine = (self.identity, dict(self.rows), self.overhead, self.flash, self.calibration, self.transfer)
        theirs = (
            other.identity,
            dict(other.rows),
            other.overhead,
            other.flash,
            other.calibration,
            other.transfer,
        )
        return mine == theirs

    @property
    def provenance(self) -> Provenance:
        """Of the table as a whole; see `observed`."""
        return "modelled" if self.stand_in or self.transfer else self.observed

    @property
    def observed(self) -> Provenance:
        """Of measured rows: a timing model over instructions does not measure, simulated hardware is its own kind."""
        if self.identity.counter == "instructions":
            return "modelled"
        return "cycle-accurate" if self.identity.timing == "RTL simulation" else "measured"

    @property
    def key(self) -> str:
        """Of what predictions depend on: for caches. The same measurements' correction differs with their number."""
        if self.transfer is None:
            return self.identity.hash
        return f"{self.identity.hash}-{zlib.crc32(canonical(asdict(self.transfer))):08x}"

    @property
    def interval(self) -> Interval:
        """Of whole models: calibrated, or a default width that says so."""
        if self.calibration is not None:
            return self.calibration
        found = Interval.default(self.observed)
        if self.transfer is not None:
            found = replace(
                found, source=f"on top of {self.transfer.describe()}; whole models {found.source}"
            )
        if self.waits is not None:
            why = "flash and cache effects of whole models simulated"
            found = found.widened(self.waits.low, self.waits.high, why)
        return found

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

    def predict_op(self, op: OpSpec, *, unlike: bool = False) -> NodePrediction:
        """Cycles of one operator without its call, waits included; reshape costs nothing.

        Its ends are wider in a model that is `unlike` those that calibrated the table. Raises LutError for an operator
        whose kernel, or a loop of it, was never measured.
        """
        found = self._predict_warm(op)
        if not unlike or op.kind == "reshape":
            return found
        more = self.interval.elsewhere
        return replace(found, low=(1 - more) * found.low, high=(1 + more) * found.high)

    def unlike(self, graph: OpGraph) -> bool:
        """Whether no model that calibrated the table can be like `graph`: it has an operator that is not of their
        space, or fewer layers than any of them (whose errors even out less)."""
        if layers(graph) < self.interval.fewest_layers:
            return True
        known = self._calibrated
        return known is not None and any(n.op not in known for n in graph.nodes if n.op.kind != "reshape")

    @cached_property
    def _calibrated(self) -> frozenset[OpSpec] | None:
        """Operators of the space whose models calibrated the table; None where nothing limits the interval."""
        space = self.calibration.space if self.calibration is not None else None
        return None if space is None else frozenset(space.operators())

    def _predict_warm(self, op: OpSpec) -> NodePrediction:
        bare = self._predict_bare(op)
        if self.waits is None or op.kind == "reshape":
            return bare
        waits = self.waits.op(op)
        provenance: Provenance = "modelled" if bare.provenance == "measured" else bare.provenance
        return NodePrediction(
            bare.cycles + waits.likely, provenance, bare.low + waits.low, bare.high + waits.high, bare.outside
        )

    def _predict_bare(self, op: OpSpec) -> NodePrediction:
        if op.kind == "reshape":
            return NodePrediction(0.0, self.provenance, 0.0, 0.0)
        row = self.row(op)
        if row is not None and not row.refused:
            provenance = "modelled" if row.transferred or self.stand_in else self.observed
            return NodePrediction(row.cycles, provenance, row.least, row.p95)
        kernel = select(op).name
        model = self.models.get(kernel)
        if model is None:
            raise LutError(
                f"the table of {self.identity.board} has no operator that runs {kernel}, needed by {op.key}",
                hint=profile_hint(self.identity.board),
            )
        if not model.covers(op):
            raise LutError(
                f"no operator in the table of {self.identity.board} runs all loops of {kernel} that {op.key} runs",
                hint=profile_hint(self.identity.board),
            )
        estimate = model.estimate(op)
        below, above = self._spread.get(kernel, (1.0, 1.0))
        low, high = below * estimate.low, above * estimate.high
        return NodePrediction(estimate.cycles, "estimated", low, high, estimate.outside)

    @cached_property
    def _spread(self) -> Mapping[str, tuple[float, float]]:
        """Widest ends, as factors, of each kernel's transferred rows: what is estimated from them inherits these."""
        found: dict[str, tuple[float, float]] = {}
        for row in self.rows.values():
            if row.transferred:
                below, above = found.get(row.kernel, (1.0, 1.0))
                found[row.kernel] = min(below, row.low / row.cycles), max(above, row.p95 / row.cycles)
        return found

    def predict(self, graph: OpGraph) -> Prediction:
        """Cycles of one inference over `graph`, layer by layer. Raises LutError as `predict_op` does."""
        call, unlike = self.overhead.layer_cycles, self.unlike(graph)
        nodes: list[NodePrediction] = []
        unmeasured: list[str] = []
        outside: list[str] = []
        for node in graph.nodes:
            p = self.predict_op(node.op, unlike=unlike)
            if node.op.kind != "reshape":
                p = replace(p, cycles=p.cycles + call, low=p.low + call, high=p.high + call)
                if p.provenance == "estimated":
                    unmeasured.append(node.op.key)
                if p.outside:
                    outside.append(node.op.key)
            nodes.append(p)
        without_row, beyond = (tuple(dict.fromkeys(keys)) for keys in (unmeasured, outside))
        overhead = self.overhead.outside_cycles(layers(graph))
        return Prediction(tuple(nodes), overhead, without_row, self.interval, None, beyond, unlike)

    def cycles_per_instruction(self, graph: OpGraph) -> float:
        """Ratio over one inference, from the rows that `graph` has in the table (all rows where none)."""
        ops = [node.op for node in graph.nodes if node.op.kind != "reshape" and node.op in self]
        rows = [self.rows[op.key] for op in ops] or [r for r in self.rows.values() if not r.refused]
        besides = self.overhead
        cycles = sum(r.cycles for r in rows) + len(ops) * besides.layer_cycles
        instructions = sum(r.instructions for r in rows) + len(ops) * besides.layer_instructions
        if ops:
            cycles += besides.outside_cycles(len(ops))
            instructions += besides.inference_instructions + len(ops) * besides.between_instructions
        if instructions <= 0:
            raise LutError(
                f"the table of {self.identity.board} counts no instructions",
                hint=profile_hint(self.identity.board),
            )
        return cycles / instructions

    # -- files -------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write `path` (`.csv`), its `.toml` and, where it is calibrated, its `.intervals.toml`.

        A calibration that lies there stays where all that latencies follow from has come out the same again.
        """
        before = _timed(path)
        write_rows(path, self.rows, self.observed)
        write_toml(path.with_suffix(".toml"), self._description())
        if self.calibration is not None:
            self.calibration.save(path, self.identity)
        elif _timed(path) != before:
            intervals_path(path).unlink(missing_ok=True)  # of the table that was there before

    @classmethod
    def load(cls, path: Path, identity: Identity | None = None, *, calibration: bool = True) -> Lut:
        """Read `path` (`.csv`, or its `.toml`), without its calibration where that is to be made anew.

        Raises LutError: missing or damaged files (with the line), or an identity other than `identity`
        (naming the fields that differ).
        """
        description = read_toml(path.with_suffix(".toml"))
        found = _identity(description, path)
        if identity is not None:
            refuse_other_identity(found, identity)
        rows = read_rows(path.with_suffix(".csv"), found.board)
        if len(rows) != description.get("rows"):
            what = f"has {len(rows)} operators, its .toml says {description.get('rows')}"
            raise damaged(path.with_suffix(".csv"), what, found.board)
        stated = description.get("rows_checksum")  # tables of earlier versions have none
        if stated is not None and stated != rows_checksum(rows):
            what = "has other operators than those its .toml was written with"
            raise damaged(path.with_suffix(".csv"), what, found.board)
        try:
            overhead = Overhead(**description["overhead"])
            flash = FlashModel.from_table(description["flash"]) if "flash" in description else None
            transfer = Transfer.from_table(description["transfer"]) if "transfer" in description else None
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path.with_suffix(".toml"), f"lacks or misstates {error}", found.board) from error
        interval = Interval.load(path.with_suffix(".csv"), found) if calibration else None
        return cls(found, rows, overhead, flash, interval, transfer=transfer)

    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = {
            "rows": len(self.rows),
            "rows_checksum": rows_checksum(self.rows),
            "identity": asdict(self.identity),
            "overhead": asdict(self.overhead),
        }
        if self.flash is not None:
            description["flash"] = self.flash.to_table()
        if self.transfer is not None:
            description["transfer"] = asdict(self.transfer)
        return description


# -- description -------------------------------------------------------------------------------------------


def _timed(path: Path) -> tuple[bytes, str, object] | None:
    """What the latencies of the table in these files follow from; None without one, or for a damaged one."""
    try:
        description = read_toml(path.with_suffix(".toml"))
        return path.read_bytes(), _identity(description, path).hash, description.get("overhead")
    except (LutError, OSError):
        return None


def _identity(description: Mapping[str, Any], path: Path) -> Identity:
    try:
        return Identity(**description["identity"])
    except (KeyError, TypeError) as error:
        raise damaged(path.with_suffix(".toml"), f"lacks part of its identity: {error}") from error
