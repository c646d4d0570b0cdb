"""From an emulated board's table to a real board's: measure a handful of operators, correct the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.boards import Board, load_board
from pipeline.engine.host import cache_dir
from pipeline.errors import ConfigError, LutError
from pipeline.fleet import Targets
from pipeline.latency.identity import Identity, refuse_other_identity
from pipeline.latency.lut import Lut, Overhead, Row
from pipeline.latency.transfer import transferred, usable, worth_measuring
from pipeline.profiler import current_identity
from pipeline.profiler.footprint import measure_flash, sample_graph
from pipeline.profiler.profile import journalled, lut_path, measure
from pipeline.profiler.standin import same_core
from pipeline.progress import Reporter
from pipeline.storage import usable_folder

MEASUREMENTS = 20  # unless the user says otherwise


@dataclass(frozen=True, slots=True)
class Base:
    """The table whose cycles are corrected, and its board."""

    board: Board
    lut: Lut


def transfer_table(
    board_name: str, base: str, measurements: int | None, tables: Sequence[Path], out: Path | None,
    *, targets: Targets, quiet: bool = False,
) -> tuple[Lut, Path]:  # fmt: skip
    """`fit_transfer` with the user's journal, into `out` (a folder of tables; None: those that ship).

    `measurements` None: MEASUREMENTS, none where `tables` are given.
    """
    board = load_board(board_name)
    count = measurements if measurements is not None else 0 if tables else MEASUREMENTS
    path = lut_path(board, out)
    usable_folder(path.parent, "--out")
    lut = fit_transfer(
        board, open_base(board, base), journal=cache_dir() / "profile" / f"{board.name}.sqlite", out=path,
        reporter=Reporter(quiet=quiet), measurements=count, tables=tables, targets=targets,
    )  # fmt: skip
    return lut, path


def summary(lut: Lut) -> dict[str, Any]:
    """How a table that `transfer_table` made came about: the fit, and each kernel's rows and intervals.

    `interval_*` are upper ends above the rows' cycles, as fractions.
    """
    assert lut.transfer is not None
    rows = [row for row in lut.rows.values() if row.transferred]
    kernels = {}
    for name in sorted({row.kernel for row in rows}):
        own = [row for row in rows if row.kernel == name]
        widths = sorted(row.p95 / row.cycles - 1.0 for row in own)
        kernels[name] = {
            "rows": len(own), "measured": own[0].relatives,
            "interval_median": widths[len(widths) // 2], "interval_widest": widths[-1],
        }  # fmt: skip
    return {
        "board": lut.identity.board, "provenance": lut.provenance, **asdict(lut.transfer),
        "measured_rows": len(lut.rows) - len(rows), "transferred_rows": len(rows), "kernels": kernels,
    }  # fmt: skip


def open_base(board: Board, name: str = "") -> Base:
    """The table called `name` (a board's, or a `.csv`); without a name that of an emulated board with the same core.

    Raises LutError: none with the same core, damaged, of other conditions than today's (naming the field), or of
    `board` itself.
    """
    if name:
        path = Path(name) if name.endswith(".csv") else lut_path(load_board(name))
        lut = Lut.load(path)
        found = Base(load_board(lut.identity.board), lut)
    else:
        same = same_core(board)
        if same is None and board.emulator is not None:
            raise LutError(
                f"no other emulated board has the core of {board.name}, which is emulated itself",
                hint=f"measure all of it: edgenas profile --board {board.name}; or name the nearest table: --base",
            )
        if same is None:
            raise LutError(
                f"no table of an emulated board has the core of {board.name} ({board.core.name})",
                hint="name the nearest one: --base",
            )
        found = Base(*same)
    if found.board.name == board.name:
        raise LutError(f"the base table is one of {board.name} itself", hint="name another board's: --base")
    _refuse(found.lut.identity, current_identity(found.board))
    return found


def fit_transfer(
    board: Board,
    base: Base,
    *,
    journal: Path,
    out: Path,
    reporter: Reporter,
    measurements: int = 0,
    tables: Sequence[Path] = (),
    targets: Targets | None = None,
) -> Lut:
    """Measure until `measurements` operators are known, fit, and write the whole table of `board` to `out` (`.csv`).

    Known are those of `journal`, of `tables`, and of the table at `out`; what was measured stays as it is. Raises
    LutError: too few measurements, tables of other conditions (naming the field); and what measuring raises.
    """
    identity = current_identity(board)
    if base.lut.identity.engine != identity.engine:
        raise ConfigError(
            f"the base table is of the engine {base.lut.identity.engine}, not {identity.engine}",
            hint=f"name a table of {identity.engine}",
        )
    if base.board.core.isa != board.core.isa:
        reporter.warn(f"{base.board.name} runs other kernels ({base.board.core.isa}) than {board.name}")
    ops = [row.op for row in usable(base.lut.rows)]
    known = _known(identity, [*tables, *([out] if out.is_file() else [])])
    known |= journalled(board, ops, journal=journal)
    # again where the board refuses some, which may be too large for it
    while wanted := worth_measuring(base.lut.rows, measurements, known):
        reporter.say(f"  measuring {len(wanted)} operators of {board.name}; {_measured(known)} are known")
        known |= measure(
            board, [row.op for row in wanted], journal=journal, reporter=reporter, targets=targets
        )
    rows, about, factor = transferred(base.lut.rows, known, base.board.name, base.lut.identity.hash)
    reporter.say("  footprint: building two applications")
    flash = measure_flash(board, sample_graph(), journal.parent / f"footprint-{board.name}")
    lut = Lut(identity, rows, _scaled(base.lut.overhead, factor), flash, transfer=about)
    if about.alone:
        names = ", ".join(name.removeprefix("edgenas_") for name in about.alone)
        reporter.warn(f"no measurement is of the kernels {names}: their intervals are wider")
    lut.save(out)
    return lut


def _measured(rows: Mapping[str, Row]) -> int:
    return sum(not row.refused for row in rows.values())


def _known(identity: Identity, paths: Sequence[Path]) -> dict[str, Row]:
    """Measured rows of these tables, which must be of the conditions that hold today."""
    found: dict[str, Row] = {}
    for path in paths:
        lut = Lut.load(path)
        _refuse(lut.identity, identity)
        found |= {key: row for key, row in lut.rows.items() if not row.transferred and lut.row(row.op) is row}
    return found


def _refuse(found: Identity, wanted: Identity) -> None:
    """Operators do not depend on the rest of the firmware."""
    refuse_other_identity(replace(found, firmware_revision=wanted.firmware_revision), wanted)


def _scaled(overhead: Overhead, factor: float) -> Overhead:
    """An inference's overhead is code like any other; how much slower it is was not measured."""
    return replace(
        overhead,
        layer_cycles=round(factor * overhead.layer_cycles, 1),
        inference_cycles=round(factor * overhead.inference_cycles, 1),
        between_cycles=round(factor * overhead.between_cycles, 1),
    )
