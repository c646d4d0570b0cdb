"""Hypernetwork search: one training run, then a family of architectures by sweeping complexity and budgets.

The single-level loss, on training images only, is CE + kappa * sum over operators of (k S_m) LAT_m(gamma) / T,
where T is the largest latency of the condition's range, plus the squared relative excess over the condition's
budgets. For uniform S the second term is the paper's kappa * Latency.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.search.candidates import ExactPath, Judge, anchor_path, grow, repair
from pipeline.search.edgenas import _ARCHITECTURE, _STARTS, EdgeNas
from pipeline.search.hypernetwork import CONDITIONED, Condition, Conditioned, Ranges
from pipeline.search.methods import Task, register
from pipeline.search.relaxation import Expected
from pipeline.search.result import SearchResult
from pipeline.search.selection import explain_failure
from pipeline.search.trainer import Validation, draw_batch
from pipeline.space.budgets import Budgets

_CONDITION = 120


class HyperSearch(EdgeNas):
    """EdgeNAS' supernet, checkpoint and contests around a hypernetwork."""

    relaxation: Conditioned

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        config = task.config
        self.anchor = anchor_path(self.judge)
        self.ranges = Ranges.of(self.judge, task.seed)
        self.relaxation = Conditioned(
            task.tables, self.ranges, hidden=config.hyper.hidden, seed=task.seed + 1
        )
        self.architecture = torch.optim.Adam(
            self.relaxation.parameters(), lr=config.hyper.lr, betas=(0.5, 0.98)
        )

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
        config = self.task.config
        done = max(0, step - config.warmup_steps) / max(1, config.steps - 1)
        return config.temperature_start + (config.temperature_end - config.temperature_start) * done

    def _freedom(self) -> float:
        """Conditions want different architectures, so in the end nothing holds a path to the anchor."""
        config = self.task.config
        return (self.step + 1) / (config.warmup_steps + config.steps)

    def _centre(self) -> ExactPath:
        return self.anchor

    def _condition(self) -> Condition:
        """This step's: S uniform on the simplex, budgets from their ranges."""
        rng = self.task.rng(_CONDITION, self.step)
        complexity = tuple(float(s) for s in rng.dirichlet(np.ones(len(self.task.space.ops))))
        return Condition(complexity, self.ranges.draw(rng))

    def _weight_step(self, temperature: float, lr: float) -> float:
        self.relaxation.ask(self._condition())
        return super()._weight_step(temperature, lr)

    def _architecture_step(self, temperature: float) -> dict[str, float]:
        task, relaxation = self.task, self.relaxation
        rng = task.rng(_ARCHITECTURE, self.step)
        condition = self._condition()
        relaxation.ask(condition)
        batch = draw_batch(task.data.x_train, task.data.y_train, task.config.validation_batch_size, rng)
        self.architecture.zero_grad(set_to_none=True)
        gradient = self._score_gradient if task.config.gradient == "score" else self._straight_through
        surrogate, loss, accuracy = gradient(temperature, rng, batch)
        gamma = relaxation.gamma(temperature, rng)
        expected = relaxation.expected_from(*gamma)
        by_operator = relaxation.latency_by_operator(*gamma)
        weights = torch.tensor(condition.complexity) * len(condition.complexity)
        complexity = task.config.hyper.kappa * (weights * by_operator).sum() / self.ranges.high[0]
        excess = task.config.hyper.condition_weight * excess_over(expected, condition.budgets)
        # Without it every condition has settled on one architecture before the conditions are told apart.
        openness = task.config.hyper.entropy_weight * temperature * relaxation.undecided()
        (surrogate + complexity + excess - openness).backward()
        self.architecture.step()
        return {
            "path_loss": loss,
            "path_accuracy": accuracy,
            "latency_ms": expected.latency_ms.item(),
            "sram_bytes": expected.sram_bytes.item(),
            "flash_bytes": expected.flash_bytes.item(),
            "parameters": expected.parameters.item(),
            "asked_latency_ms": float(condition.budgets.latency_ms or 0.0),
            "temperature": temperature,
            "entropy": relaxation.entropy(temperature),
        }

    # -- the family ----------------------------------------------------------------------------------------

    def _select(self) -> SearchResult:
        task, config = self.task, self.task.config
        done = config.warmup_steps + config.steps
        members, nearest = self.sweep(config.candidates)
        if not members:
            return self._result(None, explain_failure(self.judge, nearest))
        validation = Validation.of(task.data, config.ranking_images, task.seed)
        for path in members:
            if path in self.selection.scored:
                continue
            self.selection.scored[path] = validation.accuracy(self.net, path)
            if self.checkpoint.due():
                self._save()
            task.report("ranking", done + len(self.selection.scored), self.total)
        self._save()
        everything = Validation.of(task.data, len(task.data.x_val), task.seed)
        entered = spread(self.selection.scored, self.judge, config.semifinalists)
        self._contest("family", entered, self.selection.proxied, self.member_steps, 0, everything)
        result = self._result(self.selection.ranked()[0], "")
        trained = [
            replace(c, proxy_steps=self.member_steps) if c.proxy_accuracy is not None else c
            for c in result.candidates
        ]
        return replace(result, candidates=trained)

    def sweep(self, wanted: int) -> tuple[list[ExactPath], ExactPath]:
        """Up to `wanted` feasible paths over the conditions, and the least infeasible one seen.

        For each condition the most probable path, later samples; repaired to the condition's budgets, every
        second one grown into them. Whatever breaks a budget of its condition is dropped.
        """
        task, rng = self.task, self.task.rng(_STARTS)
        found: dict[ExactPath, None] = {}
        nearest: ExactPath | None = None
        conditions = self.conditions(task.config.hyper.family)
        for attempt in range(4 * max(wanted, len(conditions))):
            if len(found) >= wanted:
                break
            condition = conditions[attempt % len(conditions)]
            first = attempt < len(conditions)
            with torch.no_grad():
                self.relaxation.ask(condition)
                drawn = self.relaxation.argmax() if first else self.relaxation.sample(1.0, rng)[0]
            judge = Judge(task.tables, task.cost, condition.budgets, self.judge._known)
            path = repair(judge, judge.canonical(drawn), *self.relaxation.log_probabilities())
            if attempt % 2 and judge.feasible(path):
                path = grow(judge, path, rng)
            if judge.feasible(path) and self.judge.feasible(path):
                found[path] = None
            elif nearest is None or self.judge.violation(path) < self.judge.violation(nearest):
                nearest = path
        return list(found), nearest if nearest is not None else next(iter(found))

    def conditions(self, count: int) -> list[Condition]:
        """Latencies from the run's budget down, with S uniform, then leaning to one operator after another."""
        ops = len(self.task.space.ops)
        out = []
        for i in range(count):
            share = 1.0 - i / max(1, count - 1)
            uniform = np.full(ops, 1.0 / ops)
            if i % 2:
                uniform = 0.5 * uniform
                uniform[i // 2 % ops] += 0.5
            budgets = self.ranges.at((share, 1.0, 1.0))
            # The run's own limits where the range ends below them.
            exact = {n: getattr(self.task.budgets, n) for n in CONDITIONED[1:]}
            latency = self.task.budgets.latency_ms if i == 0 else budgets.latency_ms
            condition = replace(budgets, latency_ms=latency or budgets.latency_ms)
            condition = replace(condition, **{n: v for n, v in exact.items() if v is not None})
            out.append(Condition(tuple(float(s) for s in uniform), condition))
        return out


def excess_over(expected: Expected, budgets: Budgets) -> Tensor:
    """Sum of max(0, expected / limit - 1)^2 over the budgets that are set."""
    total = torch.zeros(())
    for name in (*CONDITIONED, "parameters"):
        limit = getattr(budgets, name)
        if limit is not None:
            over = torch.clamp(getattr(expected, name) / limit - 1.0, min=0.0)
            total = total + over * over
    return total


def spread(scored: dict[ExactPath, float], judge: Judge, count: int) -> list[ExactPath]:
    """The most accurate of each of `count` equal groups by latency, slowest group first."""
    ordered = sorted(scored, key=lambda p: (judge.exact(p).latency_ms, p), reverse=True)
    groups = np.array_split(np.arange(len(ordered)), min(count, len(ordered)))
    return [max((ordered[int(i)] for i in group), key=lambda p: scored[p]) for group in groups]


@register("hypernetwork")
def hypernetwork(task: Task) -> SearchResult:
    """One training run, a family of architectures; the result's is the most accurate within the budgets."""
    return HyperSearch(task).run()
