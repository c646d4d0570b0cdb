"""Bench: what all searches of a sweep share; Job: what tells one from another; and how one is done."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.runstate import fingerprint
from pipeline.search import SearchConfig, SearchResult, search
from pipeline.search.costs import CostModel
from pipeline.search.settings import read_by
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.storage import write_text
from pipeline.train.config import INCIDENTAL, TrainConfig

_PROGRESS_EVERY_S = 1.0
_NEXT_JUDGE = 10_000  # between the seeds of one winner's trainings
_OUTCOME = ("search", "space", "train", "latency", "memory")  # rooms that a search's outcome rests on
_SPLITS = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test")


def code_identity() -> str:
    """Changes with the source of whatever a search's outcome rests on: results of two states do not compare."""
    rooms = Path(__file__).parents[1]
    sources = [path for room in _OUTCOME for path in sorted((rooms / room).rglob("*.py"))]
    return fingerprint(
        *(f"{path.relative_to(rooms)}\n{path.read_text(encoding='utf-8')}" for path in sources)
    )


@dataclass(frozen=True, slots=True)
class Job:
    """One search."""

    method: str
    seed: int
    latency_ms: float

    @property
    def name(self) -> str:
        """Also names its files."""
        return f"{self.method}-{self.latency_ms:g}ms-seed{self.seed}"


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Shared by all jobs, sent to every worker whole: workers need no data set and no table of their own.

    `data` has uint8 images and labels of three splits (x_train ... y_test). `judge_steps`: weight steps of the
    trainings from scratch by which winners are compared on the test split (0: none), `judge_seeds` of each. `train`:
    the full training of every winner in their place. With `search_images` searches see only so many of the training
    images, the first ones; what compares the winners sees all. `cost_identity` says what `cost` is; it and `cost_key`
    change with whatever changes a cost, `code` with the program.
    """

    space: SearchSpace | CellSpace
    data: Any
    cost: CostModel
    cost_identity: str
    budgets: Budgets
    config: SearchConfig
    judge_steps: int = 1000
    judge_seeds: int = 1
    search_images: int = 0
    train: TrainConfig | None = None
    latency_provenance: str = "modelled"
    cost_key: str = ""
    code: str = field(default_factory=code_identity)

    def data_key(self) -> str:
        return fingerprint(*(np.ascontiguousarray(getattr(self.data, name)).tobytes() for name in _SPLITS))

    def search_data(self) -> Any:
        """What the searches see of `data`."""
        images = self.search_images or len(self.data.x_train)
        train = {name: getattr(self.data, name)[:images] for name in ("x_train", "y_train")}
        return SimpleNamespace(**{name: getattr(self.data, name) for name in _SPLITS} | train)

    def data_bytes(self) -> int:
        return sum(int(getattr(self.data, name).nbytes) for name in _SPLITS)

    def key(self, job: Job, data_key: str) -> str:
        """Changes with whatever changes a job's outcome."""
        settings = self.config_of(job, 1).outcome
        train = {k: v for k, v in asdict(self.train).items() if k not in INCIDENTAL} if self.train else None
        return fingerprint(
            self.code, data_key, self.cost_identity, self.cost_key, self.space.to_json(), settings,
            asdict(self.budgets_of(job)), job.seed, self.judge_steps, self.judge_seeds,
            self.search_images, train,
        )  # fmt: skip

    def budgets_of(self, job: Job) -> Budgets:
        return replace(self.budgets, latency_ms=job.latency_ms)

    def config_of(self, job: Job, threads: int) -> SearchConfig:
        return replace(read_by(self.config, job.method), threads=threads)


def perform(bench: Bench, job: Job, key: str, folder: Path, threads: int) -> dict[str, Any]:
    """Do `job`, with checkpoints and `progress.json` in `folder`; where these are of `key`, go on from them.

    Returns what the journal keeps. Raises ConfigError where this process runs another state of edgenas than
    the one that sent the job, and what search and training raise.
    """
    if code_identity() != bench.code:
        raise ConfigError(
            f"another state of edgenas is installed on {platform.node()}, or it was changed meanwhile",
            hint="the same one everywhere; then the same command again",
        )
    from pipeline.search.meter import Meter

    progress = Progress(folder / "progress.json", key)
    with Meter(progress.passes) as meter:

        def on_step(step: dict[str, Any]) -> None:
            progress.update(int(step["done"]), int(step["total"]), str(step["phase"]), meter.passes)

        found = search(
            bench.space, bench.search_data(), bench.cost, bench.budgets_of(job), bench.config_of(job, threads),
            seed=job.seed, checkpoint=folder / f"search-{key}.pt", on_step=on_step,
        )  # fmt: skip
    progress.searched(meter.passes)
    accuracy = _judge(bench, job, found, folder / f"train-{key}.pt", threads, progress)
    return {
        "job": asdict(job),
        "key": key,
        "result": found.to_json(),
        "accuracy": accuracy,
        "passes": progress.passes,
        "cpu_seconds": round(progress.cpu_seconds, 2),
        "seconds": round(progress.seconds, 2),
        "threads": threads,
        "host": platform.node(),
    }


def _judge(
    bench: Bench, job: Job, found: SearchResult, checkpoint: Path, threads: int, progress: Progress
) -> float | None:
    """The winner's accuracy on the test split, by a recipe that is the same for every method."""
    if found.architecture is None:
        return None
    if bench.train is not None:
        from pipeline.train import train_qat

        config = replace(bench.train, threads=threads)

        def on_step(step: Any) -> None:
            progress.update(step.step, step.total_steps, "training")

        trained = train_qat(
            found.architecture, bench.data, config, seed=job.seed, checkpoint=checkpoint, on_step=on_step
        )
        return trained.fake_quant_accuracy
    if not bench.judge_steps:
        return None
    from pipeline.search.retrain import held_out_accuracy

    accuracies = [
        held_out_accuracy(
            bench.space, bench.data, found.architecture, steps=bench.judge_steps, threads=threads,
            seed=job.seed + _NEXT_JUDGE * judged, device=bench.config.device,
        )
        for judged in range(bench.judge_seeds)
    ]  # fmt: skip
    return float(np.mean(accuracies))


class Progress:
    """`progress.json` of a running job: how far it is and what its search has cost, interruptions included."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        known = read(path)
        same = known.get("key") == key
        self.passes = int(known["passes"]) if same else 0
        self._cpu_before = float(known["cpu_seconds"]) if same else 0.0
        self._cpu_start = time.process_time()
        self._started = time.monotonic() - (float(known.get("seconds", 0.0)) if same else 0.0)
        self._cpu_search: float | None = None
        self._written = -_PROGRESS_EVERY_S

    @property
    def cpu_seconds(self) -> float:
        """Of the search alone."""
        if self._cpu_search is not None:
            return self._cpu_search
        return self._cpu_before + time.process_time() - self._cpu_start

    @property
    def seconds(self) -> float:
        """Of the whole job."""
        return time.monotonic() - self._started

    def searched(self, passes: int) -> None:
        """The search is over: what follows costs the same for every method and is not counted."""
        self.passes, self._cpu_search = passes, self.cpu_seconds
        self._write(1, 1, "judging")

    def update(self, done: int, total: int, phase: str, passes: int | None = None) -> None:
        """Called after every step; writes now and then."""
        self.passes = self.passes if passes is None else passes
        if time.monotonic() - self._written >= _PROGRESS_EVERY_S:
            self._write(done, total, phase)

    def _write(self, done: int, total: int, phase: str) -> None:
        state = {"key": self._key, "done": done, "total": total, "phase": phase, "passes": self.passes}
        write_text(
            self._path, json.dumps({**state, "cpu_seconds": self.cpu_seconds, "seconds": self.seconds})
        )
        self._written = time.monotonic()


def read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none or it is torn."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
