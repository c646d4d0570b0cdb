"""Hypernetwork search: one training run, then a family of architectures for several boards.

The single-level loss, on training images only, is

    CE + kappa LAT / T + simplex_weight sum_m (k S_m) share_m + budgets - entropy_weight t H

with LAT expected under H_a(S, budgets, board), T the board's longest, share_m operator m's mean chance over the
blocks, H the choices' entropy. For uniform S the third term is a constant and the first two are the paper's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from pipeline.search.candidates import ExactPath, anchor_path, impossible_budgets
from pipeline.search.conditions import CONDITIONED, Condition, draw_complexity, leaning
from pipeline.search.costs import CostTables, build_tables
from pipeline.search.edgenas import _ARCHITECTURE, _STARTS, EdgeNas
from pipeline.search.hyperfamily import ServedBoard, conditions, front_of, members, spread, sweep
from pipeline.search.hypernetwork import Conditioned
from pipeline.search.methods import Task, register
from pipeline.search.relaxation import Expected
from pipeline.search.request import Request, not_trained
from pipeline.search.result import SearchResult
from pipeline.search.selection import Selection, explain_failure
from pipeline.search.trainer import Validation, draw_batch
from pipeline.space.budgets import Budgets

# Random streams of conditions: this, and those after it for further draws of a step.
_CONDITION = 120


class HyperSearch(EdgeNas):
    """EdgeNAS' supernet, checkpoint and contests around a hypernetwork."""

    relaxation: Conditioned

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        hyper = task.config.hyper
        self.anchor = anchor_path(self.judge)
        self.boards = [
            ServedBoard.of(target, self._tables(place), task.seed)
            for place, target in enumerate(task.targets)
        ]
        self.relaxation = Conditioned(
            [board.judge.tables for board in self.boards],
            [board.ranges for board in self.boards],
            [board.features for board in self.boards],
            hidden=hyper.hidden,
            seed=task.seed + 1,
        )
        self.architecture = torch.optim.Adam(self.relaxation.parameters(), lr=hyper.lr, betas=(0.5, 0.98))
        self.checkpoint.identity["boards"] = _digest(self.boards)

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
        rng = self.task.rng(_CONDITION + draw, self.step)
        complexity = draw_complexity(len(self.task.space.ops), rng)
        board = int(rng.integers(len(self.boards)))
        return Condition(complexity, self.boards[board].ranges.draw(rng), board)

    def _weight_step(self, temperature: float, lr: float) -> float:
        condition = self.condition()
        self.relaxation.ask(condition)
        # Paths are redrawn by the limits of the condition's board.
        self.judge = self.boards[condition.board].judge
        try:
            return super()._weight_step(temperature, lr)
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
        regularizer = self._regularizer(condition, expected, temperature)
        for draw in range(1, hyper.conditions):
            other = self.condition(draw)
            relaxation.ask(other)
            regularizer = regularizer + self._regularizer(
                other, relaxation.expected(temperature), temperature
            )
        (surrogate + regularizer / hyper.conditions).backward()
        self.architecture.step()
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

    def _regularizer(self, condition: Condition, expected: Expected, temperature: float) -> Tensor:
        """All of the loss but the cross entropy."""
        hyper, relaxation = self.task.config.hyper, self.relaxation
        latency = hyper.kappa * expected.latency_ms / self.boards[condition.board].ranges.high[0]
        penalties = torch.tensor(condition.complexity) * len(condition.complexity)
        simplex = hyper.simplex_weight * (penalties * relaxation.shares()).sum()
        excess = hyper.condition_weight * excess_over(expected, condition.budgets)
        unused = hyper.spend_weight * unused_latency(expected, condition.budgets)
        # Without it every condition has settled on one architecture before the conditions are told apart.
        openness = hyper.entropy_weight * temperature * relaxation.undecided() / len(self.task.space.strides)
        return latency + simplex + excess + unused - openness

    def _tables(self, place: int) -> CostTables:
        task = self.task
        return build_tables(task.space, task.targets[place].cost) if place else task.tables

    # -- the family ----------------------------------------------------------------------------------------

    def _select(self) -> SearchResult:
        """Sweep every board, rank all members, train some of each board's alone.

        A path that was found for one board is a member on every board whose budgets it meets.
        """
        config, boards = self.task.config, self.boards
        reasons, found = [], []
        for place, board in enumerate(boards):
            asked = conditions(board, place, config.hyper.family)
            wanted = max(1, config.candidates // len(boards))
            paths, nearest = sweep(self.relaxation, board, asked, wanted, self.task.rng(_STARTS, place))
            reasons.append("" if paths else explain_failure(board.judge, nearest))
            found.append(paths)
        if not found[0]:
            return self._result(None, reasons[0])
        self._rank([path for paths in found for path in paths])
        each = max(1, config.semifinalists // len(boards))
        entered: dict[ExactPath, None] = {}
        for board in boards:
            fit = {p: a for p, a in self.selection.scored.items() if board.judge.feasible(p)}
            entered.update(dict.fromkeys(spread(fit, board.judge, each)))
        self._train_alone(list(entered), self.member_steps)
        return self._family_result(boards, reasons, self.member_steps)

    def _rank(self, paths: Sequence[ExactPath]) -> None:
        """Accuracies with shared weights."""
        task, config = self.task, self.task.config
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

    def _family_result(
        self, boards: Sequence[ServedBoard], reasons: Sequence[str], steps: int
    ) -> SearchResult:
        """The winner is the first board's; `reasons` say why a board has no member."""
        found = [c for board in boards for c in members(board, self.selection, steps)]
        fronts = [front_of(b.target.name, found, why) for b, why in zip(boards, reasons, strict=True)]
        winner = next((c for c in found if c.board == boards[0].target.name), None)
        return SearchResult(
            architecture=winner.architecture if winner else None,
            cost=winner.cost if winner else None,
            feasible=winner is not None,
            reason="" if winner else reasons[0],
            method=self.task.config.method,
            seed=self.task.seed,
            history=self.history,
            candidates=found,
            fronts=fronts,
        )

    def ask(self, request: Request) -> SearchResult:
        """Members for any limits, S or board from what is trained; the result's is the best of them.

        A board that was not trained for is told by its features. Raises ConfigError where training is not done.
        """
        task, target = self.task, request.target
        if self.checkpoint.load() is None:
            raise not_trained()
        self._restore()
        if self.step < task.config.warmup_steps + task.config.steps:
            raise not_trained()
        place = next((i for i, b in enumerate(self.boards) if b.target.name == target.name), None)
        if place is None:
            # Ranges as a training with the limits of the run's board would have given it.
            like = ServedBoard.of(
                replace(target, budgets=task.budgets), build_tables(task.space, target.cost), task.seed
            )
            place = self.relaxation.add_board(like.judge.tables, like.ranges, like.features)
        else:
            like = self.boards[place]
        board = replace(like, target=target, judge=like.within(target.budgets))
        impossible = impossible_budgets(board.judge)
        self.selection, self.history = Selection(), []
        self.checkpoint.path = None
        if impossible:
            return self._family_result([board], [impossible], 0)
        ops = len(task.space.ops)
        asked = [Condition(request.complexity or leaning(ops, None), target.budgets, place)]
        if request.complexity is None:
            asked += [Condition(leaning(ops, op), target.budgets, place) for op in range(ops)]
        paths, nearest = sweep(self.relaxation, board, asked, request.members, task.rng(_STARTS, place))
        if not paths:
            return self._family_result([board], [explain_failure(board.judge, nearest)], 0)
        self._rank(paths)
        if request.train_steps:
            best = self.selection.ranked()[: request.trained]
            self._train_alone(best, request.train_steps)
        return self._family_result([board], [""], request.train_steps)


def _digest(boards: Sequence[ServedBoard]) -> str:
    """Changes with whatever of the boards beside the run's changes the outcome."""
    digest = hashlib.sha256()
    for board in boards[1:]:
        digest.update(repr((board.target.name, asdict(board.target.budgets), board.ranges)).encode())
        digest.update(board.features.tobytes() + board.judge.tables.latency_ms.tobytes())
    return digest.hexdigest()


def excess_over(expected: Expected, budgets: Budgets) -> Tensor:
    """Sum of max(0, log(expected / limit))^2 over the budgets that are set.

    The logarithm, since conditions ask for as little as a hundredth of what an undecided architecture costs: with
    the relative excess those steps' gradients are thousands of times all others, and Adam's scale is theirs.
    """
    total = torch.zeros(())
    for name in (*CONDITIONED, "parameters"):
        limit = getattr(budgets, name)
        if limit is not None:
            over = torch.clamp((getattr(expected, name) / limit).log(), min=0.0)
            total = total + over * over
    return total


def unused_latency(expected: Expected, budgets: Budgets) -> Tensor:
    """max(0, log(limit / expected))^2 of latency: with few steps the cross entropy favours small architectures,
    and nothing else would tell a generous deadline from a tight one."""
    if budgets.latency_ms is None:
        return torch.zeros(())
    under = torch.clamp((budgets.latency_ms / expected.latency_ms).log(), min=0.0)
    return under * under


@register("hypernetwork")
def hypernetwork(task: Task) -> SearchResult:
    """One training run, a family of architectures; the result's is the most accurate within the budgets."""
    return HyperSearch(task).run()
