"""Sweeps: each search once, at equal cost, and what counts as done."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

pytest.importorskip("torch")

from search_standins import DATA, SMALL, TINY, MacCost
from sweep_standins import ARRAYS, BENCH, CELLS, QUIET, keep, planned

from pipeline.cli.sweep import _print
from pipeline.errors import ConfigError
from pipeline.report import render_sweep
from pipeline.search import search
from pipeline.search.effort import cell_passes
from pipeline.search.hwdartsconfig import HwDartsConfig
from pipeline.search.settings import CELL_METHODS
from pipeline.space import Budgets
from pipeline.sweep import Job, Sweep, grid, summarize
from pipeline.sweep.bench import perform
from pipeline.sweep.grid import method_list, numbers, seed_list

# -- the grid ------------------------------------------------------------------------------------------------


def test_short_forms_of_the_command_line() -> None:
    assert seed_list("0-2, 7,1") == [0, 1, 2, 7]
    assert numbers("35,20,35", "--latency-ms") == [20.0, 35.0]
    assert method_list("random,edgenas,random") == ["random", "edgenas"]
    assert grid(["a", "b"], [0, 1], [5.0])[:2] == [Job("a", 0, 5.0), Job("b", 0, 5.0)]


@pytest.mark.parametrize(
    ("read", "text", "named"),
    [
        (seed_list, "4-0", "4-0"),
        (seed_list, "x", "'x'"),
        (seed_list, ",", "--seeds is empty"),
        (seed_list, str(2**63), "too large"),
        (seed_list, "9" * 5000, "no seed"),
        (seed_list, "0-99999999999", "'0-99999999999' are too many"),
        (method_list, "edgenas,nonsense", "nonsense"),
        (lambda text: numbers(text, "--latency-ms"), "20,0", "'0'"),
        (lambda text: numbers(text, "--latency-ms"), "nan", "nan"),
        (lambda text: numbers(text, "--latency-ms"), "inf", "inf"),
        (lambda text: grid(["a"] * 200, range(100), numbers(text, "--latency-ms")), "1", "20,000"),
        (lambda text: grid(["a"], [0], numbers(text, "--latency-ms")), "20,20.0000001", "same first six"),
    ],
)
def test_what_has_no_meaning_is_named(read, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)) as caught:
        read(text)
    assert caught.value.hint


# -- running -------------------------------------------------------------------------------------------------


def test_every_job_is_the_search_it_stands_for_and_is_done_once(tmp_path: Path) -> None:
    jobs = [Job("edgenas", 3, 2.0), Job("random", 3, 2.0), Job("random", 3, 0.001)]
    sweep = Sweep(BENCH, jobs, tmp_path, QUIET)
    sweep.run(2, 1)
    for job in jobs:
        entry = sweep.entry(job)
        assert entry is not None
        alone = search(
            SMALL, DATA, MacCost(), Budgets(job.latency_ms), replace(TINY, method=job.method), seed=3
        )
        assert entry["result"] == json.loads(json.dumps(alone.to_json()))
        if job.latency_ms > 1:
            # EdgeNAS' pool may be smaller than planned: architectures that come twice are looked at once.
            share = 0.9 if job.method == "edgenas" else 1.0
            assert share * planned(job) <= entry["passes"] <= planned(job)
            assert 0 < entry["accuracy"] <= 1
        else:
            assert not entry["result"]["feasible"]
            assert "latency" in entry["result"]["reason"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    assert len(before) == 3
    assert not list((tmp_path / "jobs").iterdir())
    Sweep(BENCH, jobs, tmp_path, QUIET).run(2, 1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()} == before


def test_cells_are_swept_at_equal_cost(tmp_path: Path) -> None:
    config = replace(TINY, method="hypernetwork", proxy_steps=4, hwdarts=HwDartsConfig((0.0, 1.0)))
    bench = replace(BENCH, space=CELLS, config=config)
    jobs = grid(CELL_METHODS, [0], [0.001, 2.0])
    sweep = Sweep(bench, jobs, tmp_path, QUIET)
    keep(sweep, {job: perform(bench, job, sweep._keys[job], tmp_path / "jobs" / job.name, 1) for job in jobs})
    document = summarize(sweep, "cells", "stand-in")
    assert [(p["method"], p["limit_ms"]) for p in document["points"]] == [(m, 2.0) for m in CELL_METHODS]
    assert all(p["latency_ms"] <= 2.0 and 0 < p["accuracy"] <= 1 for p in document["points"])
    effort = document["effort"]
    assert (effort["planned_for"], effort["planned_passes"]) == (
        "hypernetwork", cell_passes(config, len(CELLS.ops), len(DATA.x_val)),
    )  # fmt: skip
    assert all(0.8 < m["share_of_planned"] <= 1 for m in effort["methods"].values())
    page = render_sweep(json.loads(json.dumps(document)))
    assert "cell 8/2" in page and "of the hypernetwork search as planned" in page


def test_a_given_architecture_is_judged_beside_what_was_searched(tmp_path: Path) -> None:
    config = replace(TINY, method="given", given=("ir2-8", "se4-16", "skip"))
    jobs = grid(["given", "random"], [0], [0.001, 2.0])
    bench = replace(BENCH, config=config)
    sweep = Sweep(bench, jobs, tmp_path, QUIET)
    keep(sweep, {job: perform(bench, job, sweep._keys[job], tmp_path / "jobs" / job.name, 1) for job in jobs})
    document = summarize(sweep, "given", "stand-in")
    assert [(p["method"], p["limit_ms"]) for p in document["points"]] == [("given", 2.0), ("random", 2.0)]
    point = document["points"][0]
    blocks = [block["op"] for block in point["architecture"]["blocks"]]
    assert blocks == ["ir2", "se4", "skip"] and 0 < point["accuracy"] <= 1
    assert document["effort"]["methods"]["given"]["passes"] == {"mean": 0, "min": 0, "max": 0}
    assert "the given one needs latency" in document["failures"][0]["reason"]
    assert "</html>" in render_sweep(json.loads(json.dumps(document)))
    _print(document)


def test_results_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    job = Job("random", 0, 2.0)
    Sweep(BENCH, [job], tmp_path, QUIET).run(1, 1)
    changes = [
        {"judge_steps": 4},
        {"search_images": 40},
        {"budgets": Budgets(parameters=5000)},
        {"config": replace(TINY, proxy_steps=4)},
        {"cost_identity": "another table"},
        {"cost_key": "other vetoes"},
        {"code": "another state of the program"},
        {"data": SimpleNamespace(**{**vars(ARRAYS), "y_test": ARRAYS.y_test[::-1]})},
    ]
    for change in changes:
        assert Sweep(replace(BENCH, **change), [job], tmp_path, QUIET).entry(job) is None, change
    # how it is run changes nothing
    same = replace(BENCH, config=replace(TINY, threads=2, checkpoint_seconds=1.0))
    assert Sweep(same, [job], tmp_path, QUIET).entry(job) is not None


def test_searches_see_less_than_what_compares_their_winners(tmp_path: Path) -> None:
    seen: list[int] = []

    def judge(_space, data, _architecture, **how) -> float:
        assert how["device"] == BENCH.config.device
        seen.append(len(data.x_train))
        return 0.5

    job = Job("random", 0, 2.0)
    part = SimpleNamespace(**{**vars(ARRAYS), "x_train": DATA.x_train[:40], "y_train": DATA.y_train[:40]})
    with mock.patch("pipeline.search.retrain.held_out_accuracy", judge):
        whole, less, same = (
            perform(bench, job, "key", tmp_path / str(number), 1)["result"]
            for number, bench in enumerate(
                (BENCH, replace(BENCH, search_images=40), replace(BENCH, data=part))
            )
        )
    assert less == same != whole
    assert seen == [160, 160, 40]


def test_two_sweeps_do_not_share_a_folder(tmp_path: Path) -> None:
    sweep = Sweep(BENCH, [Job("random", 0, 2.0)], tmp_path, QUIET)
    with sweep._alone(), pytest.raises(ConfigError, match="another sweep"):
        Sweep(BENCH, [Job("random", 0, 2.0)], tmp_path, QUIET).run(1, 1)
