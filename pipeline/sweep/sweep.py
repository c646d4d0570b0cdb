"""Sweep: all jobs of a grid, so many at a time, each journalled in a file of its own when it is done."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.fleet import connect
from pipeline.progress import Reporter
from pipeline.storage import write_text
from pipeline.sweep.bench import Bench, Job, read
from pipeline.sweep.workers import LocalWorkers, Lost, RayWorkers, Running, Workers

_POLL_S = 0.2
_TRIES = 3  # of a job whose machine is lost


def shares(
    jobs: int, processors: int, workers: int | None, threads: int | None, *, elsewhere: str | None
) -> tuple[int, int]:
    """(searches at a time, threads of each), those that are given as they are: one search a processor, and the
    processors divided among them. The cluster at `elsewhere` knows how many fit there: all are offered to it."""
    if elsewhere not in (None, "local"):
        return workers or jobs, threads or 1
    at_once = max(1, min(workers or processors, jobs))
    return at_once, threads or max(1, processors // at_once)


class Sweep:
    """`folder` gets `results/NAME.json` for each finished job and `failures/NAME.json` for each that failed.

    What has a result with the same settings is not done again; what was interrupted goes on from its
    checkpoint in `jobs/NAME/`; what failed is tried again by the next call.
    """

    def __init__(self, bench: Bench, jobs: Sequence[Job], folder: Path, reporter: Reporter) -> None:
        self.bench, self.jobs, self.folder, self.reporter = bench, list(jobs), folder, reporter
        data_key = bench.data_key()
        self._keys = {job: bench.key(job, data_key) for job in jobs}

    def entry(self, job: Job) -> dict[str, Any] | None:
        """The journal's entry of a finished job; None where there is none with these settings."""
        found = read(self._file("results", job))
        return found if found.get("key") == self._keys[job] else None

    def failure(self, job: Job) -> str | None:
        """Why a job has no result; None where it has one or was not tried."""
        found = read(self._file("failures", job))
        return str(found["error"]) if found.get("key") == self._keys[job] else None

    def run(self, workers: int | None = None, threads: int | None = None, ray: str | None = None) -> None:
        """Do what is not done yet, `workers` at a time with `threads` torch threads each; `shares` where left out.

        ray: None for processes of this machine, else as for `fleet.connect`. Raises ConfigError where another
        sweep is at work in the folder, ToolError where Ray fails.
        """
        workers, threads = shares(len(self.jobs), os.cpu_count() or 1, workers, threads, elsewhere=ray)
        with self._alone():
            left = [job for job in self.jobs if self.entry(job) is None]
            self.reporter.say(
                f"{len(self.jobs)} searches, {len(self.jobs) - len(left)} done before; "
                f"{workers} at a time, {threads} threads each"
            )
            if left:
                self._run(left, workers, threads, ray)

    def _run(self, left: list[Job], workers: int, threads: int, ray: str | None) -> None:
        place: Workers
        if ray is None:
            place = LocalWorkers(self.bench, threads)
        else:
            connected = connect(ray, None, workers * threads, self._store_bytes())
            place = RayWorkers(self.bench, threads, workers, connected)
        active: dict[Job, Running] = {}
        try:
            with self.reporter.bar("sweep, %", 100) as bar:
                waiting, tries = deque(left), dict.fromkeys(left, 0)
                while waiting or active:
                    while waiting and len(active) < workers:
                        job = waiting.popleft()
                        tries[job] += 1
                        active[job] = place.start(job, self._keys[job], self._jobs_folder(job))
                    time.sleep(_POLL_S)
                    for job in [job for job, run in active.items() if run.done()]:
                        if not self._finish(job, active.pop(job), last=tries[job] >= _TRIES):
                            waiting.append(job)
                    finished = len(left) - len(waiting) - len(active)
                    shares = [self._share(job) for job in active]
                    bar.update(
                        int(100 * (finished + sum(shares)) / len(left)), f"{finished} of {len(left)} searches"
                    )
        finally:
            for run in active.values():
                run.stop()
            place.close()

    def _store_bytes(self) -> int:
        """Room in Ray's local store for the data set, twice."""
        return max(10**8, 2 * self.bench.data_bytes())

    def _finish(self, job: Job, run: Running, *, last: bool) -> bool:
        """Journal an outcome; False where the job is to be done again."""
        try:
            outcome = run.outcome()
        except Lost as lost:
            if not last:
                self.reporter.warn(f"{job.name}: its machine was lost, once more from its checkpoint")
                return False
            outcome = {"error": f"its machine was lost {_TRIES} times: {lost}"}
        failed = "error" in outcome
        document = {"job": job.name, "key": self._keys[job], **outcome} if failed else outcome
        write_text(self._file("failures" if failed else "results", job), json.dumps(document) + "\n")
        if failed:
            self.reporter.warn(f"{job.name}: {outcome['error']}")
            return True
        self._file("failures", job).unlink(missing_ok=True)
        shutil.rmtree(self._jobs_folder(job), ignore_errors=True)
        found = outcome["result"]
        what = f"{found['cost']['latency_ms']:.2f} ms" if found["feasible"] else found["reason"]
        accuracy = f", {100 * outcome['accuracy']:.2f} %" if outcome["accuracy"] is not None else ""
        self.reporter.say(f"  {job.name}: {what}{accuracy} [{outcome['seconds']:.0f} s]")
        return True

    def _share(self, job: Job) -> float:
        state = read(self._jobs_folder(job) / "progress.json")
        return min(1.0, state["done"] / max(1, state["total"])) if state else 0.0

    def _file(self, kind: str, job: Job) -> Path:
        return self.folder / kind / f"{job.name}.json"

    def _jobs_folder(self, job: Job) -> Path:
        return self.folder / "jobs" / job.name

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(
                f"{self.folder} cannot be used: {error.strerror}", hint="choose another --out"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise ConfigError(
                f"another sweep is at work in {self.folder}", hint="wait for it, or choose another --out"
            ) from error
        try:
            yield
        finally:
            os.close(lock)
