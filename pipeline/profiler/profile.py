"""profile: operators in, table out. Whatever the journal holds already is not measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.errors import LutError
from pipeline.latency.lut import Identity, Lut, Row
from pipeline.profiler.calibration import calibration_operators
from pipeline.profiler.engines import Engine, engine_named
from pipeline.profiler.footprint import sample_graph
from pipeline.profiler.identity import ENGINE, current_identity
from pipeline.profiler.journal import Journal, Measurement
from pipeline.progress import Reporter
from pipeline.space.opspec import OpSpec

_PROVING = 5  # operators measured twice, to prove that counts repeat
_RUNS_WHERE_NOISY = 5


def lut_path(board: Board, root: Path | None = None, engine: str = ENGINE) -> Path:
    """Where the table of `board` lies: in `root`, or among those that ship."""
    return (root or asset_dir("luts")) / board.name / f"{engine}.csv"


def profile(
    board: Board, ops: Sequence[OpSpec], *, journal: Path, reporter: Reporter, out: Path | None = None,
    base: Lut | None = None, engine: str = ENGINE,
) -> Lut:  # fmt: skip
    """Measure `ops` (and the calibration set) on `engine`, and the application's footprint.

    The table is written to `out` (a `.csv`, or a folder). Each measurement goes to `journal` at once, so an
    interrupted call continues where it stopped. Rows of `base`, a table of the same identity, are taken
    over. Builds lie beside the journal. Raises ToolError (compiler or emulator missing), LinkError (the
    target keeps dying), LutError (`base` of another identity, or an unusable journal).
    """
    runner = engine_named(engine)
    identity = runner.identity(board)
    if base is not None and base.identity.hash != identity.hash:
        raise LutError("the table to extend was measured under other conditions", hint="leave it out")
    graph = sample_graph()
    every = (*ops, *calibration_operators(), *(node.op for node in graph.nodes))
    wanted = sorted({op for op in every if op.kind != "reshape"})
    todo = base.missing(wanted) if base is not None else wanted
    with Journal(journal, identity.hash) as book:
        _measure_missing(runner, board, todo, book, _folder(journal, runner, "bench", board), reporter)
        measured = {op.key: row for op in todo if (row := book.row(op)) is not None}
    rows = {**(base.rows if base is not None else {}), **measured}
    lut = Lut(identity, rows)
    if base is not None and base.flash is not None and base.identity == identity:
        lut = replace(lut, overhead=base.overhead, flash=base.flash)
    else:
        folder = _folder(journal, runner, "footprint", board)
        flash, overhead = runner.footprint(board, graph, lut, folder, reporter)
        lut = replace(lut, overhead=overhead, flash=flash)
    _summary(lut, wanted, reporter)
    if out is not None:
        lut.save(out if out.suffix == ".csv" else out / f"{engine}.csv")
    return lut


def _folder(journal: Path, engine: Engine, what: str, board: Board) -> Path:
    suffix = "" if engine.name == ENGINE else f"-{engine.name}"
    return journal.parent / f"{what}-{board.name}{suffix}"


def obtain(board: Board, ops: Sequence[OpSpec], *, folder: Path, reporter: Reporter) -> Lut:
    """A table of this machine's identity that covers `ops`.

    The one that ships, or the one in `folder`, where it fits; else what is missing is measured and the
    table written to `folder`. Raises LutError for a damaged table, and as `profile` does.
    """
    identity = current_identity(board)
    base: Lut | None = None
    for path in (lut_path(board, folder), lut_path(board)):
        if not path.is_file():
            continue
        lut = Lut.load(path)
        if lut.identity == identity and not lut.missing(ops):
            return lut
        if lut.identity.hash == identity.hash:
            base = base or lut
        else:
            reporter.say(f"  {path}: {_why_not(lut.identity, identity)}; measuring anew")
    journal, out = folder / "journal.sqlite", lut_path(board, folder)
    return profile(board, ops, journal=journal, reporter=reporter, out=out, base=base)


def _why_not(found: Identity, wanted: Identity) -> str:
    return "other " + ", ".join(found.differences(wanted))


def _measure_missing(
    engine: Engine, board: Board, ops: Sequence[OpSpec], book: Journal, folder: Path, reporter: Reporter
) -> None:
    """Twice for the first few operators; more often where those show that counts do not repeat."""
    done = {op: book.of(op) for op in ops}
    if all(_complete(done[op], i, 1) for i, op in enumerate(ops)):
        return
    with engine.session(board, folder) as session, reporter.bar("profile", len(ops)) as bar:
        runs = 1
        for i, op in enumerate(ops):
            seen = done[op]
            while not _complete(seen, i, runs):
                measurement = session.measure(op)
                book.add(measurement)
                seen.append(measurement)
                if not _repeats(seen):
                    runs = _RUNS_WHERE_NOISY
            bar.update(i + 1, op.kind)


def _complete(seen: Sequence[Measurement], index: int, runs: int) -> bool:
    wanted = max(2 if index < _PROVING else 1, runs)
    return len(seen) >= wanted or any(m.refused for m in seen)


def _repeats(seen: Sequence[Measurement]) -> bool:
    return len({(m.cycles, m.instructions, m.output_crc) for m in seen}) <= 1


def _summary(lut: Lut, wanted: Sequence[OpSpec], reporter: Reporter) -> None:
    rows: list[Row] = [lut.rows[op.key] for op in wanted]
    refused = [row for row in rows if row.refused]
    reporter.say(f"  {len(rows) - len(refused)} operators measured on {lut.identity.board}")
    for row in refused:
        reporter.warn(f"{row.op.key} was refused: {row.refused}; it will be estimated")
