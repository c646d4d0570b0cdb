"""Hypernetwork search: one training run, then a family of architectures for several boards.

The single-level loss, on training images only, is

    CE + kappa LAT / T + simplex_weight sum_m (k S_m) share_m + budgets - entropy_weight t H

with LAT expected under H_a(S, budgets, board), T the board's longest, share_m operator m's mean chance over the
blocks, H the choices' entropy. For uniform S the third term is a constant and the first two are the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.search.candidates import ExactPath, Judge, anchor_path, impossible_budgets
from pipeline.search.conditions import Condition
from pipeline.search.costs import CostTables, build_tables
from pipeline.search.edgenas import _ARCHITECTURE, _STARTS, EdgeNas
from pipeline.search.familysearch import FamilySearch
from pipeline.search.hyperfamily import ServedBoard, digest, draw_condition, serve
from pipeline.search.hyperloss import regularizer
from pipeline.search.hypernetwork import Conditioned
from pipeline.search.membercontest import MemberContest
from pipeline.search.methods import Task, register
from pipeline.search.request import not_trained
from pipeline.search.result import SearchResult
from pipeline.search.selection import Selection, capacity_bonus, explain_failure
from pipeline.search.targets import Target
from pipeline.search.trainer import Validation, draw_batch

# Random streams of conditions: this, and those after it for further draws of a step.
_CONDITION = 120


class HyperSearch(FamilySearch[Judge], MemberContest):
    """EdgeNAS' supernet, checkpoint and contests around a hypernetwork."""

    relaxation: Conditioned

    def __init__(self, task: Task) -> None:
        EdgeNas.__init__(self, task)
        self.config, self.seed = task.config, task.seed
        hyper = task.config.hyper
        self.anchor = anchor_path(self.judge)
        self.boards = [
            serve(target, self._tables(place), task.seed) for place, target in enumerate(task.targets)
        ]
        self.relaxation = Conditioned(
            [board.judge.tables for board in self.boards],
            [board.ranges for board in self.boards],
            [board.features for board in self.boards],
            hidden=hyper.hidden,
            seed=task.seed + 1,
        )
        self.architecture = torch.optim.Adam(self.relaxation.parameters(), lr=hyper.lr, betas=(0.5, 0.98))
        self.checkpoint.identity["boards"] = digest(self.boards)

    @property
    def member_steps(self) -> int:
        """Steps of each member's own training: together as many as EdgeNAS' two contests have."""
        config = self.task.config
        return config.semifinal_steps + config.finalists * config.proxy_steps // config.semifinalists

    @property
    def total(self) -> int:
        config = self.task.config
        search = config.warmup_steps + config.steps + config.candidates
        return search + config.semifinalists * self.member_steps

    def _temperature(self, step: int) -> float:
        """Linear annealing over the steps with architecture gradients."""
        config, hyper = self.task.config, self.task.config.hyper
        done = max(0, step - config.warmup_steps) / max(1, config.steps - 1)
        return hyper.temperature_start + (hyper.temperature_end - hyper.temperature_start) * done

    def _freedom(self) -> float:
        """Conditions want different architectures, so in the end nothing holds a path to the anchor."""
        config = self.task.config
        return (self.step + 1) / (config.warmup_steps + config.steps)

    def _centre(self) -> ExactPath:
        return self.anchor

    def condition(self, draw: int = 0) -> Condition:
        """Of this step: any board, S uniform on the simplex, budgets from that board's ranges."""
        return draw_condition(self.boards, self.task.rng(_CONDITION + draw, self.step))

    def _weight_step(self, temperature: float, lr: float) -> float:
        condition = self.condition()
        self.relaxation.ask(condition)
        # Paths are redrawn by the limits of the condition's board.
        self.judge = self.boards[condition.board].judge
        try:
            return EdgeNas._weight_step(self, temperature, lr)
        finally:
            self.judge = self.boards[0].judge

    def _architecture_step(self, temperature: float) -> dict[str, float]:
        task, relaxation, hyper = self.task, self.relaxation, self.task.config.hyper
        rng = task.rng(_ARCHITECTURE, self.step)
        condition = self.condition()
        relaxation.ask(condition)
        batch = draw_batch(task.data.x_train, task.data.y_train, task.config.validation_batch_size, rng)
        self.architecture.zero_grad(set_to_none=True)
        gradient = self._score_gradient if task.config.gradient == "score" else self._straight_through
        surrogate, loss, accuracy = gradient(temperature, rng, batch)
        expected = relaxation.expected(temperature)
        asked_for = self._regularizer(condition, temperature)
        for draw in range(1, hyper.conditions):
            other = self.condition(draw)
            relaxation.ask(other)
            asked_for = asked_for + self._regularizer(other, temperature)
        self._follow(surrogate + asked_for / hyper.conditions, batch[0], "search.hyper.lr")
        return {
            "path_loss": loss,
            "path_accuracy": accuracy,
            "latency_ms": expected.latency_ms.item(),
            "sram_bytes": expected.sram_bytes.item(),
            "flash_bytes": expected.flash_bytes.item(),
            "parameters": expected.parameters.item(),
            "asked_latency_ms": float(condition.budgets.latency_ms or 0.0),
            "board": condition.board,
            "temperature": temperature,
            "entropy": relaxation.entropy(temperature),
        }

    def _regularizer(self, condition: Condition, temperature: float) -> Tensor:
        relaxation, longest = self.relaxation, self.boards[condition.board].ranges.high[0]
        expected = relaxation.expected(temperature)
        return regularizer(self.config.hyper, condition, relaxation, expected, longest, temperature)

    def _tables(self, place: int) -> CostTables:
        task = self.task
        return build_tables(task.space, task.targets[place].cost) if place else task.tables

    # -- the family ----------------------------------------------------------------------------------------

    @property
    def emitter(self) -> Conditioned:
        return self.relaxation

    def serve(self, target: Target) -> ServedBoard[Judge]:
        return serve(target, build_tables(self.task.space, target.cost), self.seed)

    def accuracies(self) -> tuple[dict[ExactPath, float], dict[ExactPath, float]]:
        return self.selection.scored, self.selection.proxied

    def bonus(self, path: ExactPath) -> float:
        return capacity_bonus(self.judge, self.config.sharing.capacity)(path)

    def _select(self) -> SearchResult:
        return self.families()

    def _rank(self, paths: Sequence[ExactPath]) -> None:
        """Accuracies with shared weights."""
        task, config = self.task, self.config
        validation = Validation.of(task.data, config.ranking_images, task.seed)
        for path in paths:
            if path not in self.selection.scored:
                self.selection.scored[path] = validation.accuracy(self.net, path)
                if self.checkpoint.due():
                    self._save()
                done = config.warmup_steps + config.steps + len(self.selection.scored)
                task.report("ranking", done, self.total)
        self._save()

    def _train_alone(self, paths: list[ExactPath], steps: int) -> None:
        everything = Validation.of(self.task.data, len(self.task.data.x_val), self.task.seed)
        self._contest("family", paths, self.selection.proxied, steps, 0, everything)

    def _take_trained(self) -> None:
        if self.checkpoint.load() is None:
            raise not_trained()
        self._restore()
        if self.step < self.config.warmup_steps + self.config.steps:
            raise not_trained()
        self.selection, self.history = Selection(), []
        self.checkpoint.path = None

    def _sweep_rng(self, place: int) -> np.random.Generator:
        return self.task.rng(_STARTS, place)

    def _impossible(self, judge: Judge) -> str:
        return impossible_budgets(judge)

    def _explain(self, judge: Judge, nearest: ExactPath) -> str:
        return explain_failure(judge, nearest)

    def _without(self, reason: str) -> SearchResult:
        return self._result(None, reason)


@register("hypernetwork")
def hypernetwork(task: Task) -> SearchResult:
    """One training run, a family of architectures; the result's is the most accurate within the budgets."""
    return HyperSearch(task).run()
