"""Sweeps: each search once, whatever happens meanwhile, and what is made of the results."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("torch")

import numpy as np
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.cli.sweep import _print
from pipeline.errors import ConfigError
from pipeline.fleet import connect, disconnect
from pipeline.progress import Reporter
from pipeline.report import read_sweep, render_sweep, write_sweep
from pipeline.search import search
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.effort import affordable_trainings, cell_passes, edgenas_passes, training_passes
from pipeline.search.meter import Meter
from pipeline.search.settings import CELL_METHODS
from pipeline.space import Budgets, Cost, OpGraph
from pipeline.space.cells import CellSpace
from pipeline.sweep import Bench, Job, Sweep, grid, summarize
from pipeline.sweep.bench import perform
from pipeline.sweep.grid import method_list, numbers, seed_list
from pipeline.sweep.sweep import shares
from pipeline.sweep.workers import LocalWorkers, RayWorkers, _RayRun, _Remote, in_turn
from pipeline.train.config import TrainConfig

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
    config = replace(TINY, method="hypernetwork", proxy_steps=4)
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


@pytest.mark.slow
def test_a_killed_search_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    job = Job("edgenas", 1, 2.0)
    longer = replace(BENCH, config=replace(TINY, steps=150, checkpoint_seconds=0.01))
    sweep = Sweep(longer, [job], tmp_path, QUIET)
    folder = tmp_path / "jobs" / job.name
    running = LocalWorkers(longer, 1).start(job, sweep._keys[job], folder)
    deadline = time.monotonic() + 60
    while not (list(folder.glob("search-*.pt")) and (folder / "progress.json").exists()):
        assert time.monotonic() < deadline and not running.done()
        time.sleep(0.01)
    running.stop()
    counted = json.loads((folder / "progress.json").read_text())["passes"]
    sweep.run(1, 1)
    entry = sweep.entry(job)
    whole = search(SMALL, DATA, MacCost(), Budgets(2.0), replace(longer.config, method="edgenas"), seed=1)
    assert entry is not None and entry["result"] == json.loads(json.dumps(whole.to_json()))
    # what the first attempt spent is not forgotten, and only what followed its checkpoint is spent twice
    full = edgenas_passes(longer.config, len(DATA.x_val))
    assert counted > 0
    assert 0.5 * full < entry["passes"] < 1.5 * full


def test_a_worker_with_another_state_of_the_program_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another state of edgenas"):
        perform(replace(BENCH, code="older"), Job("random", 0, 2.0), "key", tmp_path, 1)


@dataclass(frozen=True)
class Interrupted(MacCost):
    """Ctrl-C comes while it is sent to a worker."""

    def __getstate__(self) -> dict[str, object]:
        signal.raise_signal(signal.SIGINT)
        return dict(self.__dict__)


@pytest.mark.slow
def test_ctrl_c_never_leaves_a_worker_with_half_a_job(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bench = replace(BENCH, cost=Interrupted())
    # a shell that starts tests in the background has them ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            LocalWorkers(bench, 1).start(Job("random", 0, 2.0), "key", tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    (child,) = multiprocessing.active_children()
    child.join(60)
    assert child.exitcode == 0
    assert "result" in json.loads((tmp_path / "outcome.json").read_text())
    assert "Traceback" not in capfd.readouterr().err


@dataclass(frozen=True)
class Deadly(MacCost):
    """Ends its process in the way of the out-of-memory killer."""

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class Broken(MacCost):
    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        raise KeyError("no such row")


@pytest.mark.parametrize(("cost", "said"), [(Deadly(), "SIGKILL"), (Broken(), "KeyError: 'no such row'")])
def test_a_failure_has_a_reason_and_is_tried_again(cost: MacCost, said: str, tmp_path: Path) -> None:
    job = Job("random", 0, 2.0)
    bench = replace(BENCH, cost=cost)
    sweep = Sweep(bench, [job], tmp_path, QUIET)
    sweep.run(1, 1)
    assert sweep.entry(job) is None
    assert said in (sweep.failure(job) or "")
    document = summarize(sweep, "broken", "stand-in")
    assert document["failures"][0]["kind"] == "failed"
    assert said.split(":")[0] in render_sweep(document)
    mended = Sweep(BENCH, [job], tmp_path, QUIET)
    mended.run(1, 1)
    assert mended.entry(job) is not None
    assert mended.failure(job) is None


def test_two_sweeps_do_not_share_a_folder(tmp_path: Path) -> None:
    sweep = Sweep(BENCH, [Job("random", 0, 2.0)], tmp_path, QUIET)
    with sweep._alone(), pytest.raises(ConfigError, match="another sweep"):
        Sweep(BENCH, [Job("random", 0, 2.0)], tmp_path, QUIET).run(1, 1)


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_search_behind(tmp_path: Path) -> None:
    script = tmp_path / "long.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            from dataclasses import replace
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_sweep import BENCH, QUIET, Job, Sweep, TINY
            if __name__ == "__main__":
                bench = replace(BENCH, config=replace(TINY, steps=10**6))
                Sweep(bench, [Job("edgenas", 0, 2.0)], Path({str(tmp_path / "out")!r}), QUIET).run(1, 1)
            """
        )
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": root})
    progress = tmp_path / "out" / "jobs" / "edgenas-2ms-seed0" / "progress.json"
    try:
        deadline = time.monotonic() + 100
        while not progress.exists():
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert children
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_ray_finds_the_same(tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("ray").cloudpickle
    import search_standins

    cloudpickle.register_pickle_by_value(search_standins)
    jobs = grid(["random"], [0], [0.001, 2.0])
    try:
        sweep = Sweep(BENCH, jobs, tmp_path, QUIET)
        sweep.run(2, 1, "local")
    finally:
        cloudpickle.unregister_pickle_by_value(search_standins)
    for job in jobs:
        entry = sweep.entry(job)
        assert entry is not None, sweep.failure(job)
        alone = perform(BENCH, job, sweep._keys[job], tmp_path / "alone" / job.name, 1)
        assert entry["result"] == json.loads(json.dumps(alone["result"]))
        assert entry["accuracy"] == alone["accuracy"]


def test_what_ran_on_another_host_leaves_nothing_there(tmp_path: Path) -> None:
    remote = _Remote()
    folder, job = remote._folder, Job("random", 0, 2.0)
    found = remote.run(BENCH, job, "key", {"progress.json": b"{}"}, 1)
    assert found["result"]["feasible"]
    assert not folder.exists() and remote.changed({}) == {}


def test_an_interrupted_job_hands_over_its_checkpoint_and_its_folder_goes(tmp_path: Path) -> None:
    remote = _Remote()
    folder = remote._folder
    (folder / "search-key.pt").write_bytes(b"weights")
    asked: list[str] = []
    actor = SimpleNamespace(
        leave=SimpleNamespace(remote=lambda known: asked.append("leave") or remote.leave(known))
    )
    ray = SimpleNamespace(
        exceptions=SimpleNamespace(RayError=ValueError), get=lambda files, timeout: files,
        kill=lambda actor: asked.append("kill"),
    )  # fmt: skip
    _RayRun(ray, actor, None, tmp_path / "home").stop()
    assert asked == ["leave", "kill"] and not folder.exists()
    assert (tmp_path / "home" / "search-key.pt").read_bytes() == b"weights"


def test_a_local_ray_is_its_own_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "ray", ray)
    connected = connect("local", None, 2)
    told = ray.init.call_args.kwargs
    # without an address Ray would join a cluster that RAY_ADDRESS or its own files name
    assert told["address"] == "local" and told["num_cpus"] == 2
    folder = Path(told["_temp_dir"])
    assert folder.is_dir()
    ray.shutdown.side_effect = lambda: (folder / "session").mkdir()
    disconnect(connected)
    assert ray.shutdown.called and not folder.exists()


@pytest.mark.parametrize(
    ("given", "elsewhere", "found"),
    [
        ((None, None), None, (3, 2)),
        ((2, None), "local", (2, 4)),
        ((None, 5), None, (3, 5)),
        ((20, None), None, (3, 2)),
        ((None, None), "10.0.0.1:6379", (3, 1)),
        ((20, 4), "10.0.0.1:6379", (20, 4)),
    ],
)
def test_eight_processors_are_shared_by_three_searches(
    given: tuple[int | None, int | None], elsewhere: str | None, found: tuple[int, int]
) -> None:
    assert shares(3, 8, *given, elsewhere=elsewhere) == found


class Process:
    """What LocalWorkers asks of a process: it lives until it is told otherwise."""

    def __init__(self, target: Any, args: tuple[Any, ...], name: str, daemon: bool) -> None:
        self.args, self.alive, self.start = args, True, lambda: None

    def is_alive(self) -> bool:
        return self.alive


@pytest.mark.parametrize(
    ("device", "gpus", "taken"),
    [
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ("cuda", 3, ["cuda:0", "cuda:1", "cuda:2", "cuda:1"]),
        ("auto", 0, ["auto"] * 4),
        ("cuda", 1, ["cuda"] * 4),
        ("cuda:1", 2, ["cuda:1"] * 4),
        ("cpu", 2, ["cpu"] * 4),
    ],
)
def test_processes_of_one_machine_take_its_gpus_in_turn(
    device: str, gpus: int, taken: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three at a time; the second ends first, and the fourth takes its place."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    bench = replace(BENCH, config=replace(TINY, device=device), train=TrainConfig(device=device))
    workers = LocalWorkers(bench, 1)
    workers._context = SimpleNamespace(Process=Process)
    runs = [workers.start(Job("random", seed, 2.0), "key", tmp_path / str(seed)) for seed in range(3)]
    runs[1]._process.alive = False
    runs.append(workers.start(Job("random", 3, 2.0), "key", tmp_path / "3"))
    placed = [in_turn(bench, run._process.args[-1]) for run in runs]
    assert [one.config.device for one in placed] == [one.train.device for one in placed] == taken
    # which GPU it was changes no key, so any of them goes on with what another began
    assert {one.key(Job("random", 0, 2.0), "data") for one in placed} == {
        bench.key(Job("random", 0, 2.0), "data")
    }


class Cluster:
    """What RayWorkers asks of Ray."""

    def __init__(self, *hosts: dict[str, float]) -> None:
        self.hosts, self.claimed = hosts, mock.MagicMock()
        self.remote, self.put = (lambda _: SimpleNamespace(options=self.claimed)), mock.MagicMock()

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": host} for host in self.hosts]


@pytest.mark.parametrize(
    ("device", "workers", "gpus"),
    [("auto", 3, 0), ("cpu", 3, 0), ("cuda", 1, 1), ("cuda", 2, 1), ("cuda", 3, 0.666), ("cuda", 99, 0.666)],
)
def test_searches_share_the_gpus_that_they_compute_on(
    device: str, workers: int, gpus: float, tmp_path: Path
) -> None:
    cluster = Cluster({"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0})
    bench = replace(BENCH, config=replace(TINY, device=device))
    RayWorkers(bench, 2, workers, cluster).start(Job("random", 0, 2.0), "key", tmp_path)
    claimed = cluster.claimed.call_args.kwargs
    assert (claimed["num_cpus"], claimed["num_gpus"]) == (2, gpus)


@pytest.mark.parametrize(("device", "threads", "says"), [("cpu", 5, "5 processors"), ("cuda", 1, "no GPU")])
def test_a_cluster_that_lacks_something_is_refused(device: str, threads: int, says: str) -> None:
    cluster = Cluster({"CPU": 4.0}, {"CPU": 2.0})
    with pytest.raises(ConfigError, match=says) as error:
        RayWorkers(replace(BENCH, config=replace(TINY, device=device)), threads, 1, cluster)
    assert error.value.hint


# -- what is made of it --------------------------------------------------------------------------------------


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


def test_the_meter_counts_images_once_and_training_images_thrice() -> None:
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2 * 36, 4))
    with Meter(5) as meter:
        net(torch.zeros(7, 1, 8, 8))
        with torch.no_grad():
            net(torch.zeros(11, 1, 8, 8))
        net[2](torch.zeros(3, 72))  # no images
    net(torch.zeros(13, 1, 8, 8))
    assert meter.passes == 5 + 3 * 7 + 11


def test_the_meter_counts_gates_as_the_paths_that_they_run() -> None:
    import torch

    net, images = CellSupernet(CELLS, 0), torch.zeros(5, 1, 8, 8)
    with Meter() as meter, torch.no_grad():
        net(images, (0,) * CELLS.positions)
        net(images, torch.full((CELLS.positions, 3), 1 / 3))
    assert meter.passes == 5 + 3 * 5
