"""What is made of a sweep: hypervolumes, fronts, the page."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
from search_standins import DATA, SMALL, TINY
from sweep_standins import BENCH, QUIET, keep

from pipeline.cli.sweep import _print
from pipeline.report import read_sweep, render_sweep, write_sweep
from pipeline.search.effort import edgenas_passes
from pipeline.space import Cost
from pipeline.sweep import Job, Sweep, grid, summarize


def journal(sweep: Sweep, job: Job, latency_ms: float, accuracy: float) -> None:
    """A finished search as the journal has it."""
    architecture = SMALL.random(np.random.default_rng(0)).to_json()
    cost = asdict(Cost(latency_ms, 1000, 2000, 300))
    candidate = {
        "architecture": architecture, "cost": cost, "shared_accuracy": 0.2, "proxy_accuracy": 0.3, "proxy_steps": 3
    }  # fmt: skip
    result = {
        "feasible": True, "reason": "", "method": job.method, "seed": job.seed, "history": [],
        "architecture": architecture, "cost": cost, "candidates": [candidate],
    }  # fmt: skip
    entry = {
        "job": asdict(job), "key": sweep._keys[job], "result": result, "accuracy": accuracy, "passes": 10,
        "cpu_seconds": 1.0, "seconds": 2.0, "threads": 1, "host": "h",
    }  # fmt: skip
    keep(sweep, {job: entry})


def test_hypervolumes_are_areas_of_whole_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = grid(["edgenas", "random"], [0, 1], [10.0, 20.0])
    sweep = Sweep(BENCH, jobs, tmp_path, QUIET)
    for seed, gain in ((0, 0.0), (1, 0.1)):
        journal(sweep, Job("edgenas", seed, 10.0), 8.0, 0.55 + gain)
        journal(sweep, Job("edgenas", seed, 20.0), 18.0, 0.75 + gain)
        journal(sweep, Job("random", seed, 10.0), 8.0, 0.45)
    journal(sweep, Job("random", 0, 20.0), 18.0, 0.45)  # dominated; the one of seed 1 is missing
    document = summarize(sweep, "areas", "stand-in")
    found = document["hypervolume"]
    assert found["reference"] == (22.0, 0.25)  # four classes: guessing is right for a quarter
    # 14 ms wide above 0.25 at 8 ms, and 4 ms wide above that at 18 ms
    first = 14 * 0.30 + 4 * 0.20
    assert found["methods"]["edgenas"]["seeds"] == {
        "0": pytest.approx(first),
        "1": pytest.approx(first + 1.4),
    }
    assert found["methods"]["random"]["seeds"] == {"0": pytest.approx(14 * 0.20)}
    assert found["differences"]["random"]["n"] == 1
    assert found["differences"]["random"]["mean"] == pytest.approx(14 * 0.20 - first)
    assert document["fronts"]["edgenas"] == [(8.0, 0.65), (18.0, 0.85)]
    best = document["best"][1]
    assert best["best"]["method"] == "edgenas" and best["best"]["accuracy"] == pytest.approx(0.85)
    assert best["methods"]["random"]["n"] == 1
    _print(document)
    said = capsys.readouterr().out
    assert "(latency modelled, accuracy measured)" in said
    assert "at most 20 ms (given): 85.00 % (measured) by edgenas (seed 1), 18.00 ms (modelled)" in said
    assert [f["kind"] for f in document["failures"]] == ["not done"]
    assert (document["searches"], document["finished"]) == (8, 7)
    assert document["effort"]["methods"]["random"] == {
        "n": 3, "passes": {"mean": 10, "min": 10, "max": 10},
        "share_of_planned": 10 / edgenas_passes(TINY, len(DATA.x_val)), "cpu_seconds": 1.0,
    }  # fmt: skip


def test_a_winner_that_nobody_trained_is_in_no_front(tmp_path: Path) -> None:
    """A proxy's winner that had to be repaired lost the accuracies it had."""
    jobs = grid(["edgenas", "random"], [0], [10.0])
    sweep = Sweep(BENCH, jobs, tmp_path, QUIET)
    journal(sweep, jobs[0], 8.0, 0.5)
    journal(sweep, jobs[1], 8.0, 0.5)
    path = sweep.folder / "results" / f"{jobs[1].name}.json"
    entry = json.loads(path.read_text())
    entry["accuracy"] = entry["result"]["candidates"][0]["proxy_accuracy"] = None
    path.write_text(json.dumps(entry))
    document = summarize(sweep, "bare", "stand-in")
    assert [p["accuracy"] for p in document["points"]] == [0.5, None]
    assert document["fronts"]["random"] == [] and document["best"][0]["methods"]["random"]["n"] == 0
    assert "</html>" in render_sweep(document)


def test_the_page_is_whole_and_can_be_rendered_again(tmp_path: Path) -> None:
    jobs = grid(["edgenas", "random"], [0], [10.0])
    sweep = Sweep(BENCH, jobs, tmp_path, QUIET)
    journal(sweep, jobs[0], 8.0, 0.5)
    page = write_sweep(tmp_path, summarize(sweep, "a <name>", "stand-in")).read_text()
    assert "a &lt;name&gt;" in page and page.count("<svg") == 2
    assert not re.search(r"<script|src=|@import", page)
    assert "interrupted or not begun" in page
    assert render_sweep(read_sweep(tmp_path)) == page


def test_a_sweep_that_found_nothing_has_a_page(tmp_path: Path) -> None:
    sweep = Sweep(BENCH, grid(["random"], [0], [10.0]), tmp_path, QUIET)
    assert "no search has found anything yet" in render_sweep(summarize(sweep, "none", "stand-in"))
