"""HW-DARTS: one supernet, a sweep of the multiplier between accuracy and latency.

After "Hardware-Aware Neural Architecture Search via Differentiable Latency Prediction for Edge Deployment":
the architecture's loss is CE + lambda * LAT(alpha) / T, LAT being differentiable in the architecture
parameters alpha. The supernet's weights are trained once, around the anchor; then each lambda moves an alpha
of its own, from the same start, over the frozen weights. Budgets play no part in the loss: what an alpha says
is repaired to meet them, and only the exact planner decides.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from pipeline.search.candidates import ExactPath, repair
from pipeline.search.config import SearchConfig
from pipeline.search.edgenas import _ARCHITECTURE, _STARTS
from pipeline.search.lambdasweep import LambdaSweep, members
from pipeline.search.membercontest import MemberContest
from pipeline.search.methods import Task, register
from pipeline.search.result import SearchResult
from pipeline.search.selection import (
    _log_probabilities,
    capacity_bonus,
    explain_failure,
    starting_paths,
)
from pipeline.search.trainer import Validation, cosine, draw_batch


class HwDarts(MemberContest, LambdaSweep):
    """EdgeNAS' supernet, estimator, checkpoint and contest around a sweep of the multiplier."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._start = copy.deepcopy((self.relaxation.state_dict(), self.architecture.state_dict()))
        self.found: list[list[ExactPath]] = []
        self.nearest: ExactPath | None = None
        with torch.no_grad():
            reference = self.relaxation.expected(task.config.temperature_start).latency_ms.item()
        # The unit of lambda: the deadline, or without one what the undecided architecture takes.
        self.unit_ms = task.budgets.latency_ms or reference

    @property
    def settings(self) -> SearchConfig:
        return self.task.config

    @property
    def member_steps(self) -> int:
        """Steps of each member's own training: all together as many as EdgeNAS' two contests have."""
        config = self.task.config
        together = config.semifinalists * config.semifinal_steps + config.finalists * config.proxy_steps
        return max(1, together // len(config.hwdarts.lambdas))

    @property
    def total(self) -> int:
        config = self.task.config
        members = len(config.hwdarts.lambdas) * (self.steps_each + self.member_steps)
        return self.weight_steps + members + config.candidates

    def _train(self) -> None:
        self._sweep()

    def _weights_learn(self) -> float:
        config = self.task.config
        return self._weight_step(
            config.temperature_start, cosine(config.weight_lr, self.step, self.weight_steps)
        )

    def _due(self) -> bool:
        return self.checkpoint.due()

    def _tell(self, phase: str, record: dict[str, float]) -> None:
        self.task.report(phase, self.step, self.total, record)

    def _restart(self) -> None:
        relaxation, architecture = copy.deepcopy(self._start)
        self.relaxation.load_state_dict(relaxation)
        self.architecture.load_state_dict(architecture)

    def _lambda_step(self, weight: float, done: int) -> dict[str, float]:
        """One step on alpha. Every lambda sees the same batches and draws, so that they compare."""
        task, config = self.task, self.task.config
        temperature = self._annealed(done)
        rng = task.rng(_ARCHITECTURE, done)
        batch = draw_batch(task.data.x_val, task.data.y_val, config.validation_batch_size, rng)
        self.architecture.zero_grad(set_to_none=True)
        gradient = self._score_gradient if config.gradient == "score" else self._straight_through
        surrogate, loss, accuracy = gradient(temperature, rng, batch)
        expected = self.relaxation.expected(temperature)
        asked = weight / self.unit_ms * expected.latency_ms
        self._follow(surrogate + asked, batch[0], "search.architecture_lr")
        entropy = self.relaxation.entropy(temperature)
        return self._record(weight, loss, accuracy, expected, temperature, entropy)

    def _paths(self, index: int) -> list[ExactPath]:
        """What the alpha gives: its most probable path, repaired, then samples; none breaks a budget."""
        config = self.task.config
        share = max(1, config.candidates // len(config.hwdarts.lambdas))
        with torch.no_grad():
            logs = _log_probabilities(self.relaxation, config.temperature_end)
            first = repair(self.judge, self.judge.canonical(self.relaxation.argmax()), *logs)
            # The other paths of `starting_paths` include the cheapest ones and some grown into the budgets.
            others, nearest = starting_paths(
                self.judge, self.relaxation, config.temperature_end, share, self.task.rng(_STARTS, index)
            )
        if self.nearest is None or self.judge.violation(nearest) < self.judge.violation(self.nearest):
            self.nearest = nearest
        paths = [first] if self.judge.feasible(first) else []
        return paths + [path for path in others if path != first]

    def _freedom(self) -> float:
        """While the weights are trained, the share of blocks that leave the anchor grows to all: afterwards
        each lambda goes its own way, and the weights must serve them all."""
        if self.step < self.weight_steps:
            return (self.step + 1) / self.weight_steps
        return self.task.config.freedom

    # -- selection -----------------------------------------------------------------------------------------

    def _select(self) -> SearchResult:
        """Rank every path with shared weights; train one a lambda alone; the most accurate, size counted, wins."""
        task, config = self.task, self.task.config
        if not any(self.found):
            assert self.nearest is not None
            return self._result(None, explain_failure(self.judge, self.nearest))
        validation = Validation.of(task.data, config.ranking_images, task.seed)
        done = self.weight_steps + len(config.hwdarts.lambdas) * self.steps_each
        for path in dict.fromkeys(path for paths in self.found for path in paths):
            if path in self.selection.scored:
                continue
            self.selection.scored[path] = validation.accuracy(self.net, path)
            if self.checkpoint.due():
                self._save()
            task.report(
                "ranking", min(done + len(self.selection.scored), done + config.candidates), self.total
            )
        self._save()
        everything = Validation.of(task.data, len(task.data.x_val), task.seed)
        entered = members(self.found, self.selection.scored, self.judge)
        self._contest("front", entered, self.selection.proxied, self.member_steps, 0, everything)
        capacity = config.sharing.capacity
        bonus = capacity_bonus(self.judge, capacity, self.selection.exits)
        result = self._result(self.selection.ranked(bonus)[0], "", capacity)
        trained = [
            replace(c, proxy_steps=self.member_steps) if c.proxy_accuracy is not None else c
            for c in result.candidates
        ]
        # There is one relaxed choice a lambda, none of them the search's.
        return replace(result, candidates=trained, relaxed=None)

    # -- checkpoint ----------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        found = [[[list(choice) for choice in path] for path in paths] for paths in self.found]
        nearest = [list(choice) for choice in self.nearest] if self.nearest is not None else None
        return super()._state() | {"found": found, "nearest": nearest}

    def _take_up(self, state: dict[str, Any]) -> None:
        super()._take_up(state)
        self.found = [[_path(path) for path in paths] for paths in state["found"]]
        self.nearest = _path(state["nearest"]) if state["nearest"] is not None else None


def _path(raw: list[list[int]]) -> ExactPath:
    return tuple((op, width) for op, width in raw)


@register("hwdarts")
def hwdarts(task: Task) -> SearchResult:
    """One supernet, one architecture a multiplier; the result's is the most accurate, its candidates the front."""
    return HwDarts(task).run()
