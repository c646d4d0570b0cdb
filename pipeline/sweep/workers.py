"""Where jobs run: processes of this machine, or actors of a Ray cluster. One process a job, either way.

A process of its own means that a job that crashes, or that the system kills for its memory, is one failure
with a reason and takes no other with it.

Ray serves as plain actors rather than through Ray Tune: the grid is known beforehand, no search may be stopped
early (the methods are compared at equal cost), and results, journal and checkpoints belong to the sweep's own
folder, so that a sweep begun on one machine can go on with Ray and the other way round.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from pipeline.errors import ConfigError, EdgeNasError, ToolError
from pipeline.fleet import disconnect
from pipeline.storage import write_bytes, write_text
from pipeline.sweep.bench import Bench, Job, perform, read

_OUTCOME = "outcome.json"
_LEAVE_S = 5.0  # for a remote job that is interrupted to hand over its checkpoint
_FETCH_S = 10.0  # between two looks at a remote job's checkpoint: so much work can be lost with its host


class Lost(Exception):
    """The machine that ran a job is gone; the job can go on elsewhere."""


class Running(Protocol):
    """A job under way. Its folder has its checkpoint and `progress.json`."""

    def done(self) -> bool: ...

    def outcome(self) -> dict[str, Any]:
        """What `perform` returned, or {"error": why not}. Raises Lost."""

    def stop(self) -> None: ...


class Workers(Protocol):
    def start(self, job: Job, key: str, folder: Path) -> Running: ...

    def close(self) -> None: ...


def attempt(bench: Bench, job: Job, key: str, folder: Path, threads: int) -> dict[str, Any]:
    """`perform`, with every error as {"error": reason, "detail": traceback where it is not the user's}."""
    try:
        return perform(bench, job, key, folder, threads)
    except EdgeNasError as error:
        return {"error": error.message}
    except MemoryError:
        return {"error": "not enough memory"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "detail": traceback.format_exc()}


class LocalWorkers:
    """Processes of this machine; `threads` each. They take its GPUs in turn, where the settings leave open which."""

    def __init__(self, bench: Bench, threads: int) -> None:
        self._bench, self._threads = bench, threads
        self._runs: dict[int, _LocalRun] = {}  # the last one in each place
        # not forked: torch's and BLAS' threads do not survive a fork
        self._context = multiprocessing.get_context("spawn")

    def start(self, job: Job, key: str, folder: Path) -> Running:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _OUTCOME).unlink(missing_ok=True)
        # the lowest place that nobody is in: as many places as searches at a time
        place = next(i for i in count() if i not in self._runs or self._runs[i].done())
        process = self._context.Process(
            target=_child,
            args=(self._bench, job, key, folder, self._threads, place),
            name=job.name,
            daemon=True,
        )
        with _uninterrupted():
            process.start()
        self._runs[place] = _LocalRun(process, folder)
        return self._runs[place]

    def close(self) -> None:
        pass


class _LocalRun:
    def __init__(self, process: BaseProcess, folder: Path) -> None:
        self._process, self._folder = process, folder

    def done(self) -> bool:
        return not self._process.is_alive()

    def outcome(self) -> dict[str, Any]:
        self._process.join()
        found = read(self._folder / _OUTCOME)
        if found:
            return found
        code = self._process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        hint = "; was memory short?" if code == -signal.SIGKILL else ""
        return {"error": f"its process ended with {name}{hint}"}

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds back SIGINT and SIGTERM: a child that was sent half of its job would end with a traceback.

    The child starts with both blocked, until it decides about them itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals interrupt the main thread alone
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    held: list[tuple[int, FrameType | None]] = []
    # other threads may still take the signal, so a mask alone does not hold it back
    handlers = [signal.signal(number, lambda *which: held.append(which)) for number in numbers]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for which, handler in zip(numbers, handlers, strict=True):
            signal.signal(which, handler)
    for number, _ in held:
        signal.raise_signal(number)


def _child(bench: Bench, job: Job, key: str, folder: Path, threads: int, place: int) -> None:
    # Ctrl-C reaches every process of the terminal; the sweep itself decides and then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    write_text(folder / _OUTCOME, json.dumps(attempt(in_turn(bench, place), job, key, folder, threads)))


def in_turn(bench: Bench, place: int) -> Bench:
    """`bench` with the GPU that is the turn of `place`; one of several that all took the first would have them idle."""
    from pipeline.search.device import turn  # torch is loaded where it works

    train = bench.train and replace(bench.train, device=turn(bench.train.device, place))
    return replace(bench, config=replace(bench.config, device=turn(bench.config.device, place)), train=train)


def _end_with_parent() -> None:
    """A sweep that was killed outright must not leave searches behind that write into its folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _Remote:
    """What runs on a machine of the cluster, in a folder of its own; others may look at its files meanwhile."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="edgenas-sweep-"))

    def run(self, bench: Bench, job: Job, key: str, files: dict[str, bytes], threads: int) -> dict[str, Any]:
        try:
            for name, content in files.items():
                write_bytes(self._folder / name, content)
            return attempt(bench, job, key, self._folder, threads)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def leave(self, known: dict[str, float]) -> dict[str, tuple[float, bytes]]:
        """`changed`, for the last time: the folder goes, which Ray would leave behind. To be killed next."""
        found = self.changed(known)
        shutil.rmtree(self._folder, ignore_errors=True)
        return found

    def changed(self, known: dict[str, float]) -> dict[str, tuple[float, bytes]]:
        """Time and content of each file that is newer than `known` says."""
        found = {}
        for path in self._folder.glob("*"):
            # a file may be replaced while we look: the next look sees the new one
            with suppress(OSError):
                time_s = path.stat().st_mtime
                if path.suffix in (".pt", ".json") and time_s > known.get(path.name, 0.0):
                    found[path.name] = (time_s, path.read_bytes())
        return found


class RayWorkers:
    """Actors of a Ray cluster, `threads` processors each, `workers` at a time, which share its GPUs where the settings
    say CUDA. Hosts need edgenas, but no data set and no table."""

    def __init__(self, bench: Bench, threads: int, workers: int, ray: Any) -> None:
        self._ray, self._threads = ray, threads
        hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        largest = max((host.get("CPU", 0) for host in hosts), default=0)
        if largest < threads:
            raise ConfigError(
                f"no host of the cluster has {threads} processors, the largest has {largest:g}",
                hint="fewer --threads",
            )
        self._gpus = 0.0
        if (
            bench.config.device == "cuda"
        ):  # Ray may hide what is not claimed, and else all would take the first
            there = sum(host.get("GPU", 0) for host in hosts)
            if not there:
                raise ConfigError("the cluster has no GPU that Ray knows of", hint='search.device = "cpu"')
            at_once = min(workers, sum(int(host.get("CPU", 0) // threads) for host in hosts))
            self._gpus = min(1.0, math.floor(1000 * there / at_once) / 1000)
        self._bench = ray.put(bench)  # once for all jobs, shared by those of one host

    def start(self, job: Job, key: str, folder: Path) -> Running:
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "num_cpus": self._threads, "num_gpus": self._gpus, "max_concurrency": 2, "max_restarts": 0
        }  # fmt: skip
        actor = self._ray.remote(_Remote).options(**options).remote()
        files = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix in (".pt", ".json")}
        reference = actor.run.remote(self._bench, job, key, files, self._threads)
        return _RayRun(self._ray, actor, reference, folder)

    def close(self) -> None:
        disconnect(self._ray)


class _RayRun:
    def __init__(self, ray: Any, actor: Any, reference: Any, folder: Path) -> None:
        self._ray, self._actor, self._reference, self._folder = ray, actor, reference, folder
        self._known: dict[str, float] = {}
        self._asked: Any = None
        self._asked_at = time.monotonic()

    def done(self) -> bool:
        if self._ray.wait([self._reference], timeout=0)[0]:
            return True
        self._fetch()
        return False

    def _fetch(self) -> None:
        """Bring the checkpoint home now and then, so that a lost host costs little."""
        if self._asked is None and time.monotonic() - self._asked_at >= _FETCH_S:
            self._asked, self._asked_at = self._actor.changed.remote(dict(self._known)), time.monotonic()
        if self._asked is not None and self._ray.wait([self._asked], timeout=0)[0]:
            with suppress(self._ray.exceptions.RayError):
                self._keep(self._ray.get(self._asked))
            self._asked = None

    def _keep(self, files: dict[str, tuple[float, bytes]]) -> None:
        for name, (time_s, content) in files.items():
            write_bytes(self._folder / name, content)
            self._known[name] = time_s

    def outcome(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._ray.get(self._reference)
        except self._ray.exceptions.RayActorError as error:
            raise Lost(str(error).splitlines()[0]) from error
        except self._ray.exceptions.RayError as error:
            raise ToolError(
                f"Ray failed: {error}", hint="do its hosts have this version of edgenas?"
            ) from error
        finally:
            self._kill()
        return found

    def stop(self) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._keep(self._ray.get(self._actor.leave.remote(dict(self._known)), timeout=_LEAVE_S))
        self._kill()

    def _kill(self) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)
