"""profile: operators in, table out. Whatever the journal holds already is not measured again."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.errors import ConfigError, LutError
from pipeline.fleet import Fleet, Targets
from pipeline.latency.intervals import Interval
from pipeline.latency.lut import Identity, Lut, Row
from pipeline.links import check_reachable
from pipeline.profiler.calibration import ANCHOR, calibration_operators
from pipeline.profiler.campaign import DRIFT, WALL_CLOCK_DRIFT, Campaign
from pipeline.profiler.engines import Engine, Session, engine_named
from pipeline.profiler.footprint import measure_footprint, sample_graph
from pipeline.profiler.identity import ENGINE, current_identity, is_this_machine, timing_name
from pipeline.profiler.journal import Journal, Measurement
from pipeline.profiler.plan import Plan
from pipeline.profiler.standin import stand_in, with_refill
from pipeline.progress import Reporter
from pipeline.space.opspec import OpSpec


def lut_path(board: Board, root: Path | None = None, engine: str = ENGINE) -> Path:
    """Where the table of `board` lies: in `root`, or among those that ship."""
    return (root or asset_dir("luts")) / board.name / f"{engine}.csv"


def profile(
    board: Board, ops: Sequence[OpSpec], *, journal: Path, reporter: Reporter, out: Path | None = None,
    base: Lut | None = None, engine: str = ENGINE, bound: float = 0.0, targets: Targets | None = None,
    stop: Event | None = None,
) -> Lut:  # fmt: skip
    """Measure `ops` (and the calibration set) on `engine`, and the application's footprint.

    The table is written to `out` (a `.csv`, or a folder). Each measurement goes to `journal` at once, so an
    interrupted call continues where it stopped. Rows of `base`, a table of the same identity, are taken
    over. Builds lie beside the journal. `bound`: a kernel is measured no further once its model's errors on
    held-out operators stay below it (relative; 0: measure all). `stop`: another thread may set it to end the
    measuring. Raises ToolError (compiler or emulator missing), LinkError (the target keeps dying or drifts, or
    `stop`), LutError (`base` of another identity, or an unusable journal).
    """
    runner = engine_named(engine)
    identity = runner.identity(board)
    if base is not None and base.identity.hash != identity.hash:
        raise LutError("the table to extend was measured under other conditions", hint="leave it out")
    graph = sample_graph()
    needed = {node.op for node in graph.nodes}
    wanted = sorted({op for op in {*ops, *calibration_operators(), *needed} if op.kind != "reshape"})
    todo = base.missing(wanted) if base is not None else wanted
    with Journal(journal, identity.hash) as book:
        plan = Plan(todo, [op for op in todo if op in needed] if bound else (), bound=bound)
        _measure(runner, board, plan, book, journal, reporter, targets or Targets(), stop)
        measured = {op.key: row for op in todo if (row := book.row(op)) is not None}
    rows = {**(base.rows if base is not None else {}), **measured}
    lut = Lut(identity, rows)
    if base is not None:
        lut = replace(lut, calibration=_calibration(base, lut, reporter), transfer=base.transfer)
    if base is not None and base.flash is not None and base.identity == identity:
        lut = replace(lut, overhead=base.overhead, flash=base.flash)
    else:
        folder = _folder(journal, runner, "footprint", board)
        flash, overhead = runner.footprint(board, graph, lut, folder, reporter)
        lut = replace(lut, overhead=overhead, flash=flash)
    _summary(lut, base, wanted, plan, reporter)
    if out is not None:
        lut.save(out if out.suffix == ".csv" else out / f"{engine}.csv")
    return lut


def _calibration(base: Lut, lut: Lut, reporter: Reporter) -> Interval | None:
    """The interval of `base`, where `lut`, which has more rows, predicts what calibrated it from the same rows."""
    found = base.calibration
    if found is None or lut.rows == base.rows:
        return found
    if found.space is not None and all(op in base for op in found.space.operators()):
        return found
    reporter.warn(
        f"the calibrated interval of {base.identity.board} no longer holds: operators of its models were estimated "
        f"and are measured now. Calibrate anew: edgenas lut check --board {base.identity.board} --calibrate"
    )
    return None


def measure(
    board: Board, ops: Sequence[OpSpec], *, journal: Path, reporter: Reporter, targets: Targets | None = None
) -> dict[str, Row]:
    """Rows of exactly these operators; what `journal` has is not measured again. Raises as `profile` does."""
    runner = engine_named(ENGINE)
    with Journal(journal, runner.identity(board).hash) as book:
        _measure(runner, board, Plan(ops), book, journal, reporter, targets or Targets())
        return {op.key: row for op in ops if (row := book.row(op)) is not None}


def journalled(board: Board, ops: Sequence[OpSpec], *, journal: Path) -> dict[str, Row]:
    """Rows of those of `ops` that `journal` has under today's identity."""
    if not journal.is_file():
        return {}
    with Journal(journal, current_identity(board).hash) as book:
        return {op.key: row for op in ops if (row := book.row(op)) is not None}


def _folder(journal: Path, engine: Engine, what: str, board: Board) -> Path:
    suffix = "" if engine.name == ENGINE else f"-{engine.name}"
    return journal.parent / f"{what}-{board.name}{suffix}"


def obtain(board: Board, ops: Sequence[OpSpec], *, folder: Path, reporter: Reporter) -> Lut:
    """A table of this machine's identity that covers `ops`.

    The one that ships, or the one in `folder`, where it fits; else what is missing is measured and the
    table written to `folder`. A real board is not measured in passing, since it may run another firmware:
    what its table lacks is estimated, and where it has none at all, that of an emulated board with the same
    core stands in (`modelled`, with a wide interval). Raises LutError for a damaged table or, for a real
    board, none that fits and none to stand in, and as `profile` does.
    """
    identity = current_identity(board)
    if board.emulator is None:
        return _of_real_board(board, identity, ops, folder, reporter)
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
    what = f"{len(base.missing(ops))} operators that its table lacks" if base else "its latency table"
    reporter.say(f"  {board.name}: measuring {what} first, which can take minutes; kept in {out}")
    return profile(board, ops, journal=journal, reporter=reporter, out=out, base=base)


def _of_real_board(
    board: Board, identity: Identity, ops: Sequence[OpSpec], folder: Path, reporter: Reporter
) -> Lut:
    others = []
    for path in (lut_path(board, folder), lut_path(board)):
        if not path.is_file():
            continue
        lut = Lut.load(path)
        if lut.identity == identity:
            return with_refill(board, lut, folder, reporter)
        if lut.identity.hash == identity.hash:
            reporter.say("  footprint: building two applications")
            flash, overhead = measure_footprint(
                board, sample_graph(), lut, folder / f"footprint-{board.name}"
            )
            if lut.transfer is not None:  # its overhead came with the base table
                overhead = lut.overhead
            lut = replace(lut, identity=identity, flash=flash, overhead=overhead)
            return with_refill(board, lut, folder, reporter)
        others.append(f"{path} is of {_why_not(lut.identity, identity)}")
    anew = partial(obtain, ops=ops, folder=folder, reporter=reporter)
    if not others and (other := stand_in(board, identity, folder, reporter, anew)) is not None:
        reporter.warn(
            f"no latency table of {board.name}: {other.interval.describe()}. "
            f"Measure the board: edgenas flash, then edgenas profile, both with --board {board.name}"
        )
        return other
    raise LutError(
        f"no latency table of {board.name} fits" + (f": {'; '.join(others)}" if others else ""),
        hint=f"connect it and measure it: edgenas flash, then edgenas profile, both with --board {board.name}",
    )


def _why_not(found: Identity, wanted: Identity) -> str:
    return "other " + ", ".join(found.differences(wanted))


def _measure(
    engine: Engine,
    board: Board,
    plan: Plan,
    book: Journal,
    journal: Path,
    reporter: Reporter,
    targets: Targets,
    stop: Event | None = None,
) -> None:
    if plan.left() == 0 or not Campaign.anything_left(plan, book):
        return
    folder = _folder(journal, engine, "bench", board)
    ports = targets.each
    if is_this_machine(board) and (other := next((p for p in ports if p and p.startswith("ssh://")), None)):
        raise ConfigError(
            f"--port {other}: the table of {board.name} is of this machine ({timing_name(board)})",
            hint="run edgenas profile there, or describe that machine as a board: docs/add-a-board.md",
        )
    if targets.ray is None:
        check_reachable(board, ports)
    wanted = engine.identity(board) if targets.ray is not None else None

    def factory(index: int) -> Callable[[], Session]:
        own = folder if index == 0 else folder.with_name(f"{folder.name}-{index}")
        return partial(_session, engine, wanted, board, own, ports[index])

    with Fleet(factory, len(ports), board=board.name, ray=targets.ray) as fleet:
        drift = WALL_CLOCK_DRIFT if board.counter.counts == "time" else DRIFT
        campaign = Campaign(plan, fleet.workers, book, reporter, ANCHOR, board.name, drift, stop)
        campaign.run()
    _report_outliers(campaign.outliers(), reporter)


def _session(
    engine: Engine, wanted: Identity | None, board: Board, folder: Path, port: str | None
) -> Session:
    """Opened on the machine that has the target. Raises LutError where what that machine builds, or is, would be
    measured under other conditions than `wanted`, those that the table says."""
    there = engine.identity(board) if wanted is not None else None
    if wanted is not None and there is not None and there.hash != wanted.hash:
        differences = there.differences(wanted)
        differences.pop("firmware_revision", None)  # operators do not depend on it
        what = "; ".join(f"{name} is '{a}' there, '{b}' here" for name, (a, b) in differences.items())
        raise LutError(
            f"{platform.node()} would measure {board.name} under other conditions: {what}",
            hint="the same edgenas and compiler on all hosts; a table of a host's own processor is made on that host",
        )
    return engine.session(board, folder, port)


def _report_outliers(found: Mapping[OpSpec, Sequence[Measurement]], reporter: Reporter) -> None:
    if found:
        op = max(found, key=lambda op: len(found[op]))
        reporter.warn(
            f"{sum(map(len, found.values()))} runs of {len(found)} operators stand out, most of them {len(found[op])} "
            f"of {op.key}; they are in the journal, and the medians stand"
        )


def _summary(lut: Lut, base: Lut | None, wanted: Sequence[OpSpec], plan: Plan, reporter: Reporter) -> None:
    """Says what the table has of `wanted`, and how much of it `base` had, the table that it extends."""
    rows: list[Row] = [lut.rows[op.key] for op in wanted if op.key in lut.rows]
    refused = [row for row in rows if row.refused]
    before = sum(not row.refused and row.op.key in base.rows for row in rows) if base is not None else 0
    kept = f", {before} of them before" if before else ""
    reporter.say(f"  {len(rows) - len(refused)} operators measured on {lut.identity.board}{kept}")
    estimated = plan.estimated()
    if estimated:
        worst = max(plan.recent_errors(), default=0.0)
        reporter.say(
            f"  {len(estimated)} left to the kernels' models, whose last predictions were off by at most {worst:.2%}"
        )
    for row in refused:
        reporter.warn(f"{row.op.key} was refused: {row.refused}; it will be estimated")
