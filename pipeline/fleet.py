"""Fleet: several boards at work at once, on this machine or, with Ray, on several hosts.

A worker holds one target exclusively. Local workers are threads (what takes time is the target); with Ray each
is an actor that claims one unit of the resource `board:<name>`, which the hosts that have such boards offer
(`ray start --resources='{"board:nucleo-l4r5zi": 2}'`).
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.closing import Closing
from pipeline.errors import ConfigError, EdgeNasError, ToolError

_CONNECT_S = 5.0
_LONGEST_PLACE = 30  # characters: the sockets in Ray's folder may have paths of 107 in all
_folder: tempfile.TemporaryDirectory[str] | None = None  # of the local Ray that is running


@dataclass(frozen=True, slots=True)
class Targets:
    """Which targets work. `ports`: one real board each; else `count` emulators. `ray`: see `Fleet`."""

    ports: tuple[str, ...] = ()
    count: int = 1
    ray: str | None = None

    @property
    def each(self) -> tuple[str | None, ...]:
        """The port of each target; None for an emulator."""
        return self.ports or (None,) * self.count


class Worker(Protocol):
    """An object with one method at a time at work."""

    def submit(self, method: str, *args: Any) -> Future[Any]:
        """Calls `method` of the worker's object; its result or EdgeNasError arrives in the future."""

    def close(self) -> None: ...


class ThreadWorker:
    """`factory()` makes the object in the worker's own thread, which then makes all calls."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fleet")
        self._object: Future[Any] = self._pool.submit(factory)

    def submit(self, method: str, *args: Any) -> Future[Any]:
        return self._pool.submit(lambda: getattr(self._object.result(), method)(*args))

    def close(self) -> None:
        with suppress(EdgeNasError):  # a factory that failed has been heard of in its first call
            self._pool.submit(lambda: self._object.result().close()).result()
        self._pool.shutdown()


class _Actor:
    """What runs on the host that has the board. Errors are returned: Ray would wrap them beyond recognition."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory, self._object = factory, None

    def call(self, method: str, args: tuple[Any, ...]) -> tuple[Any, EdgeNasError | None]:
        try:
            if self._object is None:
                self._object = self._factory()
            return getattr(self._object, method)(*args), None
        except EdgeNasError as error:
            return None, error

    def close(self) -> None:
        if self._object is not None:
            self._object.close()


class RayWorker:
    """An actor somewhere in the cluster; raises ToolError in the future where its host is lost."""

    def __init__(self, ray: Any, factory: Callable[[], Any], resource: str) -> None:
        self._ray = ray
        self._actor = ray.remote(_Actor).options(num_cpus=1, resources={resource: 1}).remote(factory)

    def submit(self, method: str, *args: Any) -> Future[Any]:
        outcome: Future[Any] = Future()
        outcome.set_running_or_notify_cancel()

        def arrived(answer: Future[Any]) -> None:
            try:
                value, error = answer.result()
            except Exception as lost:
                error = ToolError(f"a worker was lost: {lost}", hint="is its host still in the cluster?")
                value = None
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(value)

        self._actor.call.remote(method, args).future().add_done_callback(arrived)
        return outcome

    def close(self) -> None:
        with suppress(Exception):
            self._ray.get(self._actor.close.remote(), timeout=30)
        self._ray.kill(self._actor)


class Fleet(Closing):
    """`count` workers, each with an object of `factory(index)`; a context manager that lets them all go.

    `ray`: None for this machine's threads, "local" for a Ray of this machine alone, else a cluster's address.
    `board`: name of the resource that a Ray worker claims. Raises ToolError (Ray is not installed or not
    reachable) and ConfigError (the cluster offers fewer such boards).
    """

    def __init__(
        self, factory: Callable[[int], Callable[[], Any]], count: int, *, board: str, ray: str | None = None
    ) -> None:
        self._ray: Any = None
        if ray is None:
            self.workers: list[Worker] = [ThreadWorker(factory(i)) for i in range(count)]
            return
        self._ray = connect(ray, f"board:{board}", count)
        self.workers = [RayWorker(self._ray, factory(i), f"board:{board}") for i in range(count)]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        if self._ray is not None:
            disconnect(self._ray)


def _require_listener(address: str) -> None:
    """Ray itself would try for minutes, and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto": the address is in Ray's own files
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ToolError(
            f"no Ray cluster at {address}: {error}", hint="start one: ray start --head, on one host"
        ) from error


def connect(address: str, resource: str | None, count: int, store_bytes: int = 10**8) -> Any:
    """Ray itself, connected to `address` ("local": one of this machine alone, with `count` processors).

    store_bytes: memory that a local one keeps for what its workers share. resource: what `count` workers
    will claim one each of; None where processors will do. Raises ToolError (not installed, no cluster there)
    and ConfigError (the cluster offers less).
    """
    try:
        import ray
    except ImportError as error:
        raise ToolError("Ray is not installed", hint="pip install 'edgenas[ray]'") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        # "local", or Ray would join a cluster that it finds here, which takes none of these settings
        ray.init(
            address="local", num_cpus=count, resources={resource: count} if resource else None,
            include_dashboard=False, object_store_memory=store_bytes, _temp_dir=_own_folder(), **quiet,
        )  # fmt: skip
        return ray
    _require_listener(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ToolError(
            f"no Ray cluster at {address}: {error}", hint="ray start --head on one host"
        ) from error
    offered = count if resource is None else int(ray.cluster_resources().get(resource, 0))
    if offered < count:
        disconnect(ray)
        raise ConfigError(
            f"the cluster offers {offered} of '{resource}', {count} were asked for",
            hint=f"on the host that has the boards: ray start --resources='{{\"{resource}\": {count}}}'",
        )
    return ray


def disconnect(ray: Any) -> None:
    """Let go of what `connect` returned. A local Ray ends, and its files with it: Ray itself would leave them."""
    global _folder
    ray.shutdown()
    if _folder is not None:
        _folder.cleanup()
        _folder = None


def _own_folder() -> str:
    """For the files of a local Ray; removed by `disconnect`, or where this process ends without it."""
    global _folder
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(place) > _LONGEST_PLACE:
        place = "/tmp"
    _folder = tempfile.TemporaryDirectory(prefix="edgenas-ray-", dir=place, ignore_cleanup_errors=True)
    return _folder.name
