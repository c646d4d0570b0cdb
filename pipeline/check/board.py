"""A board's table on random whole models, from its files to a page; where asked, calibrated on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.boards import load_board
from pipeline.check.models import DEFAULT, calibrate, check_table, points_ms, summarize
from pipeline.errors import ConfigError
from pipeline.fleet import Targets
from pipeline.latency.intervals import FEWEST, Interval
from pipeline.latency.lut import Lut
from pipeline.profiler import current_identity, lut_path
from pipeline.progress import Reporter
from pipeline.storage import usable_folder


@dataclass(frozen=True, slots=True)
class Checked:
    """`summary` as `check.json` has it, `interval` that which it judges, `page` the `check.html` beside the journal."""

    summary: Mapping[str, Any]
    interval: Interval
    page: Path


def check_board(
    name: str,
    count: int,
    *,
    seed: int = 0,
    calibrated: bool = False,
    tables: Path | None = None,
    out: Path | None = None,
    targets: Targets | None = None,
    quiet: bool = False,
) -> Checked:
    """Run `count` random architectures of the default space on the board called `name` (or in that file) and hold its
    table in `tables` (None: those that ship) against them; journal and page lie in `out` (None: runs/check-NAME).

    `calibrated`: the interval that the models show is written beside the table, in place of the one that it had. Raises
    ConfigError for fewer models than that needs and for folders that cannot be written to, both before any model runs;
    LutError for a table that is missing, damaged or of other conditions; and what `check_table` raises.
    """
    from pipeline.report.scatter import write_check  # needs matplotlib

    if calibrated and count < FEWEST:
        raise ConfigError(
            f"--calibrate needs at least --count {FEWEST}, not {count}", hint="40 models or more are better"
        )
    board = load_board(name)
    path = lut_path(board, tables)
    lut = Lut.load(path, current_identity(board), calibration=not calibrated)
    folder = usable_folder(out or Path("runs") / f"check-{board.name}", "--out")
    if calibrated:
        usable_folder(path.parent, "--tables")
    models = check_table(board, lut, count, folder, Reporter(quiet=quiet), seed=seed, targets=targets)
    interval = lut.interval
    if calibrated:
        interval = calibrate(models, board, seed, DEFAULT)
        interval.save(path, lut.identity)
    summary = {
        "board": board.name,
        "seed": seed,
        "observed_by": board.latency_provenance,
        **summarize(models, board.clock_hz, interval),
    }
    return Checked(summary, interval, write_check(folder, summary, points_ms(models, board.clock_hz)))
