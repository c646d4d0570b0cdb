"""Where the searches of a sweep run: processes and hosts that end, fail, or share their processors and GPUs."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("torch")

from search_standins import DATA, SMALL, TINY, MacCost
from sweep_standins import BENCH, QUIET

from pipeline.errors import ConfigError
from pipeline.fleet import connect, disconnect
from pipeline.report import render_sweep
from pipeline.search import search
from pipeline.search.effort import edgenas_passes
from pipeline.space import Budgets, Cost, OpGraph
from pipeline.sweep import Job, Sweep, grid, summarize
from pipeline.sweep.bench import perform
from pipeline.sweep.sweep import shares
from pipeline.sweep.workers import LocalWorkers, RayWorkers, _RayRun, _Remote, in_turn
from pipeline.train.config import TrainConfig


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
            from test_sweep_workers import BENCH, QUIET, TINY, Job, Sweep
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
