"""A table for a real board that nobody has measured yet: the operators of an emulated board with the same core."""

from __future__ import annotations

from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board, load_board
from pipeline.errors import EdgeNasError
from pipeline.latency.identity import Identity
from pipeline.latency.intervals import Interval
from pipeline.latency.lut import Lut
from pipeline.profiler.footprint import measure_flash, sample_graph

# Factors on the emulated cycles. Chosen, not measured: the core's model is expected within 10 % where memory keeps up
# (docs/fidelity.md), and wait states and caches, which the emulator has none of, can only add to it.
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


def stand_in(board: Board, identity: Identity, folder: Path) -> Lut | None:
    """Cycles of an emulated board's shipped table, memory of `board`'s own applications; None without such a table.

    Its figures are `modelled` and have the interval LOW to HIGH until the board itself is measured. Raises
    ToolError: no compiler.
    """
    found = same_core(board)
    if found is None:
        return None
    other, lut = found
    source = f"cycles of {other.name}, whose memory never waits; held against no hardware"
    interval = Interval(LOW, HIGH, 0, "modelled", source)
    flash = measure_flash(board, sample_graph(), folder / f"footprint-{board.name}")
    return Lut(identity, lut.rows, lut.overhead, flash, interval, stand_in=other.name)
