"""A table for a real board that nobody has measured yet: the operators of an emulated board with the same core.

Where the board file describes what the core waits for, simulated waits come on top (pipeline/profiler/waiting.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board, load_board
from pipeline.errors import EdgeNasError, LinkError, LutError, ToolError
from pipeline.latency.identity import Identity
from pipeline.latency.intervals import Interval
from pipeline.latency.lut import Lut
from pipeline.latency.waits import WaitModel
from pipeline.profiler.footprint import measure_flash, sample_graph
from pipeline.profiler.identity import current_identity
from pipeline.profiler.waiting import obtain_waits
from pipeline.progress import Reporter

# Factors on the emulated cycles. Chosen, not measured (docs/fidelity.md): what is expected of the core's model where
# memory keeps up, and for boards whose waits nobody simulates that wait states and caches can only add to it.
_CORE = {"cortex_m4": (0.90, 1.30), "cortex_m7": (0.85, 1.35)}
LOW, HIGH = 0.90, 1.50


def same_core(board: Board) -> tuple[Board, Lut] | None:
    """An emulated board with the core of `board`, and its shipped table; None without one."""
    for path in sorted(asset_dir("luts").glob("*/edgenas.csv")):
        try:
            other, lut = load_board(path.parent.name), Lut.load(path)
        except EdgeNasError:  # damaged tables are reported to those who ask for them
            continue
        same = (other.core.name, other.core.isa) == (board.core.name, board.core.isa)
        if other.emulator is not None and other.name != board.name and same:
            return other, lut
    return None


def stand_in(
    board: Board, identity: Identity, folder: Path, reporter: Reporter, anew: Callable[[Board], Lut]
) -> Lut | None:
    """Cycles of an emulated board's table, memory of `board`'s own applications; None without such a table.

    The table is the shipped one where it is of the code that this machine builds, else what `anew` gives. Its figures
    are `modelled` and have an assumed interval until the board itself is measured. Raises ToolError: no compiler.
    """
    found = same_core(board)
    if found is None:
        return None
    other, lut = found
    lut, differs = _of_this_code(other, lut, anew, reporter)
    waits = simulated_waits(board, other, lut, folder, reporter)
    flash = measure_flash(board, sample_graph(), folder / f"footprint-{board.name}")
    interval = _interval(other, waits)
    if differs:
        interval = replace(interval, source=f"{interval.source}; the table is of other {differs}")
    return Lut(identity, lut.rows, lut.overhead, flash, interval, stand_in=other.name, waits=waits)


def _of_this_code(
    other: Board, shipped: Lut, anew: Callable[[Board], Lut], reporter: Reporter
) -> tuple[Lut, str]:
    """A table of `other`, and in what it differs from the code that this machine builds: nothing, if that can be."""
    today = current_identity(other)
    if shipped.identity.hash == today.hash:
        return shipped, ""
    fields = sorted(shipped.identity.differences(today).keys() - {"firmware_revision"})
    try:
        return anew(other), ""
    except (ToolError, LinkError) as error:
        reporter.warn(f"the table of {other.name} is of other {', '.join(fields)}: {error.message}")
        return shipped, ", ".join(fields)


def with_refill(board: Board, lut: Lut, folder: Path, reporter: Reporter) -> Lut:
    """The measured table `lut` of `board` with what its operators wait for more within a whole model than alone.

    Unchanged where whole models calibrated it, or where that cannot be simulated here.
    """
    found = same_core(board) if lut.calibration is None and board.memory.system is not None else None
    waits = simulated_waits(board, *found, folder, reporter) if found is not None else None
    return lut if waits is None else replace(lut, waits=replace(waits, refill_only=True))


def simulated_waits(
    board: Board, other: Board, lut: Lut, folder: Path, reporter: Reporter
) -> WaitModel | None:
    """Also None, with a warning, where they cannot be had here."""
    try:
        return obtain_waits(board, other, lut, folder, reporter)
    except (ToolError, LinkError, LutError) as error:
        reporter.warn(f"waits of {board.name}'s memories are not modelled: {error.message}")
        return None


def _interval(other: Board, waits: WaitModel | None) -> Interval:
    name = f"cycles of {other.name}"
    if waits is None:
        return Interval(
            LOW, HIGH, 0, "modelled", f"{name}, whose memory never waits; held against no hardware"
        )
    low, high = _CORE.get(other.core.timing, (LOW, HIGH))
    base = Interval(low, high, 0, "modelled", f"{name}, held against no hardware")
    return base.widened(waits.low, waits.high, f"waits simulated under {waits.models} models")
