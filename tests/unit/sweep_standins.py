"""What tests of sweeps share: a small bench, and journals that need no search."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.progress import Reporter
from pipeline.search.effort import affordable_trainings, edgenas_passes, training_passes
from pipeline.space import Budgets
from pipeline.space.cells import CellSpace
from pipeline.sweep import Bench, Job, Sweep

CELLS = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)
ARRAYS = SimpleNamespace(**vars(DATA), x_test=DATA.x_val, y_test=DATA.y_val)
BENCH = Bench(SMALL, ARRAYS, MacCost(), "stand-in", Budgets(), TINY, judge_steps=3)
QUIET = Reporter(quiet=True)


def keep(sweep: Sweep, entries: dict[Job, dict[str, Any]]) -> None:
    """In the journal, as if the sweep had done them."""
    sweep.folder.joinpath("results").mkdir(exist_ok=True)
    for job, entry in entries.items():
        sweep.folder.joinpath("results", f"{job.name}.json").write_text(json.dumps(entry))


def planned(job: Job) -> int:
    images = len(DATA.x_val)
    if job.method == "edgenas":
        return edgenas_passes(TINY, images)
    return affordable_trainings(TINY, images) * (training_passes(TINY, TINY.proxy_steps) + images)
