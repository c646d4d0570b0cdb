"""Architectures trained alone from scratch: what the baselines share, at the cost of one EdgeNAS search."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import accumulate

import numpy as np

from pipeline.search.candidates import ExactPath, impossible_budgets, repair
from pipeline.search.checkpoint import Checkpoint, fingerprint
from pipeline.search.effort import affordable_trainings, alone_passes
from pipeline.search.exitsearch import Trained, judge_of, train_alone
from pipeline.search.methods import Task
from pipeline.search.parallel import train_all
from pipeline.search.proxies import shortlist
from pipeline.search.result import SearchResult
from pipeline.search.selection import Selection, goal_missed
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, draw_batch

# Random streams (see Task.rng).
_STARTS, _TRAINING, _PROXIES = 100, 101, 102
_ATTEMPTS = 50


class Standalone:
    """Trains one path after another for `proxy_steps` on the same batches; finished ones are kept on disk.

    `wanted` is how many EdgeNAS' cost pays for. A resumed search asks for the same paths in the same order and
    gets those that were finished from the checkpoint.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.judge = judge_of(task)
        self.wanted = affordable_trainings(task.config, len(task.data.x_val))
        self.impossible = impossible_budgets(self.judge)
        self.selection = Selection[ExactPath]()
        identity = fingerprint(task.tables, task.data, task.budgets, task.config, task.seed)
        self._checkpoint = Checkpoint(task.checkpoint, identity, task.config.checkpoint_seconds)
        self._validation = Validation.of(task.data, len(task.data.x_val), task.seed)
        self._finished: dict[ExactPath, float] = {}
        state = None if self.impossible else self._checkpoint.load()
        if state is not None:
            known: Selection[ExactPath] = Selection.from_state(state)
            self._finished = known.proxied or known.scored  # where earlier versions kept them
            self.selection.exits = known.exits

    def accuracy(self, path: ExactPath) -> float:
        """Validation accuracy of `path` after its training; trained at most once."""
        return self.accuracies([path])[0]

    def merit(self, path: ExactPath) -> tuple[bool, float]:
        """What paths are compared by: whether it reaches the expected latency that is searched for, then accuracy."""
        accuracy = self.accuracy(path)
        return not self.selection.missed(path), accuracy

    def accuracies(self, paths: Sequence[ExactPath]) -> list[float]:
        """The same of several, trained side by side where the settings have `workers`."""
        task, config = self.task, self.task.config
        waiting = [path for path in dict.fromkeys(paths) if path not in self._finished]
        # What is known is asked for in the same order, so its steps count as they did.
        known = len(set(self.selection.proxied) | {path for path in paths if path in self._finished})
        start, total = known * config.proxy_steps, self.wanted * config.proxy_steps
        train_all(
            waiting, self._train, config, task.device,
            on_step=lambda step: task.report(config.method, start + step, total), on_done=self._keep,
        )  # fmt: skip
        for path in paths:
            self.selection.proxied[path] = self._finished[path]
        return [self._finished[path] for path in paths]

    def _keep(self, path: ExactPath, trained: Trained) -> None:
        self._finished[path] = trained.accuracy
        if trained.exits is not None:
            self.selection.exits[path] = trained.exits
        state = Selection(proxied=self._finished, exits=self.selection.exits).state()
        self._checkpoint.save(state)
        self._training(path).discard()

    def _training(self, path: ExactPath) -> Checkpoint:
        return self._checkpoint.of_training(str(path))

    def _train(self, path: ExactPath, on_step: Callable[[int], None]) -> Trained:
        task = self.task
        net = Supernet(task.space, task.seed).to(task.device)
        return train_alone(
            net, path, task, self.judge, self._validation, steps=task.config.proxy_steps,
            rng=task.rng(_TRAINING), on_step=on_step, checkpoint=self._training(path),
        )  # fmt: skip

    def draw(self, wanted: int) -> tuple[list[ExactPath], ExactPath]:
        """Feasible paths of different networks, uniform with near misses repaired, and the least infeasible one seen.

        With `[search.proxies]` these are the best of `pool` times as many by the named proxies.
        """
        chosen, config = self.task.config.proxies, self.task.config
        if not chosen.names:
            return self._draw(wanted)
        found, nearest = self._draw(wanted * chosen.pool)
        batch = draw_batch(
            self.task.data.x_train, self.task.data.y_train, config.batch_size, self.task.rng(_PROXIES)
        )
        net = Supernet(self.task.space, self.task.seed).to(self.task.device)
        return shortlist(found, wanted, chosen.names, net, batch, self.selection.looks), nearest

    def _draw(self, wanted: int) -> tuple[list[ExactPath], ExactPath]:
        space, rng = self.task.space, self.task.rng(_STARTS)
        found: dict[Hashable, ExactPath] = {}
        nearest: ExactPath | None = None
        for _ in range(wanted * _ATTEMPTS):
            path = self.mend(self.judge.path(space.random(rng)))
            if self.judge.feasible(path):
                found.setdefault(self.judge.network(path), path)
            elif nearest is None or self.judge.violation(path) < self.judge.violation(nearest):
                nearest = path
            if len(found) >= wanted:
                break
        paths = list(found.values())
        return paths, nearest if nearest is not None else paths[0]

    def fresh(self, path: ExactPath) -> bool:
        """Whether it is feasible and no path of the same network was trained."""
        judge = self.judge
        known = {judge.network(trained) for trained in self.selection.proxied}
        return judge.feasible(path) and judge.network(path) not in known

    def mend(self, path: ExactPath) -> ExactPath:
        """`path` repaired with no preference among choices; it may still be infeasible."""
        space = self.task.space
        even_ops = np.zeros((len(space.strides), len(space.ops)))
        return repair(self.judge, path, even_ops, np.zeros((len(space.strides), len(space.channels))))

    def result(self, reason: str = "") -> SearchResult:
        """The best of what was trained; `reason` where nothing was."""
        candidates = self.selection.candidates(self.judge, self.task.config)
        best = candidates[0] if candidates else None
        if best is not None and (
            missed := goal_missed(self.selection, self.judge, self.selection.ranked()[0])
        ):
            best, reason = None, missed
        each = alone_passes(self.task.config, len(self.task.data.x_val))
        return SearchResult(
            architecture=best.architecture if best else None,
            cost=best.cost if best else None,
            feasible=best is not None,
            reason=reason,
            method=self.task.config.method,
            seed=self.task.seed,
            history=course(self.selection.proxied.values(), each),
            candidates=candidates,
        )


def course(accuracies: Iterable[float], each: int) -> list[dict[str, float]]:
    """A baseline's history: the best so far against what it has cost, `each` training that many passes."""
    own = list(accuracies)
    return [
        {"step": n, "passes": n * each, "own_accuracy": accuracy, "best_accuracy": so_far}
        for n, (accuracy, so_far) in enumerate(zip(own, accumulate(own, max), strict=True), start=1)
    ]
