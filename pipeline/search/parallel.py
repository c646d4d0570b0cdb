"""Several architectures trained at the same time, in threads of one process.

Each has weights, batches and random stream of its own, so what comes out is the same for any number of workers
(in the last bits of floating point it depends on the threads that each has).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

from pipeline.search.config import SearchConfig
from pipeline.search.device import precision

P = TypeVar("P")  # a path, of any space
T = TypeVar("T")  # what a training shows: a validation accuracy, or more


class _Cancelled(Exception):
    """Another training failed or was interrupted."""


def train_all(
    paths: Sequence[P],
    train: Callable[[P, Callable[[int], None]], T],
    config: SearchConfig,
    device: torch.device,
    *,
    on_step: Callable[[int], None],
    on_done: Callable[[P, T], None],
) -> None:
    """Train every path, `config.workers` at once; `on_step` gets the steps of all together.

    `train` trains one, calls its argument after each step and returns what it showed.

    `on_done` runs in the calling thread as each finishes. The first exception (`on_step` may raise one) stops
    the other trainings at their next step and is passed on.
    """
    lock, stop, steps = threading.Lock(), threading.Event(), 0

    def stepper() -> Callable[[int], None]:
        """Of one training, which may go on from where an interrupted one was."""
        before = 0

        def step(done: int) -> None:
            nonlocal steps, before
            if stop.is_set():
                raise _Cancelled
            with lock:
                steps, before = steps + done - before, done
                on_step(steps)

        return step

    if config.workers == 1 or len(paths) < 2:
        for path in paths:
            on_done(path, train(path, stepper()))
        return

    def work(path: P) -> T:
        with precision(device, config.mixed_precision):  # a context belongs to its thread
            return train(path, stepper())

    workers = min(config.workers, len(paths))
    threads = max(1, config.torch_threads // workers)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        running = {pool.submit(work, path): path for path in paths}
        try:
            for future in as_completed(running):
                on_done(running[future], future.result())
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
