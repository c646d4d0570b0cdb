"""From a trained supernet and a distribution to one architecture that meets every budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.search.candidates import (
    ExactPath,
    Judge,
    cheapest_paths,
    describe_excess,
    grow,
    mutate,
    own_budgets,
    repair,
)
from pipeline.search.config import SearchConfig
from pipeline.search.costs import Floats
from pipeline.search.data import SearchData
from pipeline.search.relaxation import Relaxation
from pipeline.search.result import Candidate
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, train_path

PARENTS = 8
# Attempts per wanted candidate before the pool is taken as it is (small spaces run out of new ones).
ATTEMPTS = 12


@dataclass(slots=True)
class Selection:
    """Feasible paths with their accuracies; its state is what a checkpoint stores."""

    scored: dict[ExactPath, float] = field(default_factory=dict)
    tried: dict[ExactPath, float] = field(default_factory=dict)
    proxied: dict[ExactPath, float] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        return {
            name: [([list(choice) for choice in path], value) for path, value in getattr(self, name).items()]
            for name in ("scored", "tried", "proxied")
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Selection:
        def read(rows: list[Any]) -> dict[ExactPath, float]:
            return {tuple((op, width) for op, width in path): value for path, value in rows}

        return cls(read(state["scored"]), read(state["tried"]), read(state["proxied"]))

    def ranked(self, bonus: Callable[[ExactPath], float] = lambda _: 0.0) -> list[ExactPath]:
        """Finalists first, then semifinalists, each by its own accuracy plus `bonus`; the others by the shared one."""

        def merit(path: ExactPath) -> tuple[float, float, float]:
            final, short = (
                known[path] + bonus(path) if path in known else -1.0 for known in (self.proxied, self.tried)
            )
            return final, short, self.scored[path]

        return sorted(self.scored, key=merit, reverse=True)

    def candidates(
        self, judge: Judge, config: SearchConfig, bonus: Callable[[ExactPath], float] = lambda _: 0.0
    ) -> list[Candidate]:
        out = []
        for path in self.ranked(bonus):
            short, short_steps = self.tried.get(path), config.semifinal_steps if path in self.tried else 0
            own, steps = short, short_steps
            if path in self.proxied:
                own, steps = self.proxied[path], config.proxy_steps
            architecture, cost = judge.architecture(path), judge.exact(path)
            out.append(Candidate(architecture, cost, self.scored[path], own, steps, short, short_steps))
        return out


def starting_paths(
    judge: Judge, relaxation: Relaxation, temperature: float, wanted: int, rng: np.random.Generator
) -> tuple[list[ExactPath], ExactPath]:
    """Up to `wanted` distinct feasible paths, and the least infeasible one seen.

    First the argmax, then the cheapest architectures, then samples; those that miss a budget are repaired,
    and every second sample is grown into what the budgets leave.
    """
    log_ops, log_widths = _log_probabilities(relaxation, temperature)
    first = judge.canonical(relaxation.argmax())
    nearest = first
    found: dict[ExactPath, None] = {}
    cheapest = list(cheapest_paths(judge).values())
    for attempt in range(wanted * ATTEMPTS):
        if len(found) >= wanted:
            break
        if attempt == 0:
            path = first
        elif attempt <= len(cheapest):
            path = cheapest[attempt - 1]
        else:
            path = judge.canonical(relaxation.sample(temperature, rng)[0])
        path = repair(judge, path, log_ops, log_widths)
        if attempt > len(cheapest) and attempt % 2 and judge.feasible(path):
            path = grow(judge, path, rng)
        if judge.feasible(path):
            found[path] = None
        elif judge.violation(path) < judge.violation(nearest) or judge.feasible(nearest):
            nearest = path
    return list(found), nearest


def _log_probabilities(relaxation: Relaxation, temperature: float) -> tuple[Floats, Floats]:
    ops, widths = relaxation.probabilities(temperature)
    return _log(ops), _log(widths)


def _log(probabilities: Tensor) -> Floats:
    logs: Floats = probabilities.detach().double().clamp_min(1e-12).log().numpy()
    return logs


def explore(
    selection: Selection,
    starts: list[ExactPath],
    judge: Judge,
    score: Callable[[ExactPath], float],
    config: SearchConfig,
    rng_of: Callable[[int], np.random.Generator],
    on_scored: Callable[[], None],
) -> None:
    """Score the starts, then feasible mutations of the best so far, until `config.candidates` are scored."""
    for path in starts:
        if path not in selection.scored and len(selection.scored) < config.candidates:
            selection.scored[path] = score(path)
            on_scored()
    while len(selection.scored) < config.candidates:
        # The generator depends only on how many are scored, so a resumed search goes the same way.
        rng = rng_of(len(selection.scored))
        parents = sorted(selection.scored, key=lambda p: selection.scored[p], reverse=True)[:PARENTS]
        child = None
        for _ in range(ATTEMPTS * PARENTS):
            path = mutate(judge, parents[int(rng.integers(len(parents)))], rng)
            if path not in selection.scored and judge.feasible(path):
                child = path
                break
        if child is None:
            return
        selection.scored[child] = score(child)
        on_scored()


def semifinalists(selection: Selection, judge: Judge, count: int) -> list[ExactPath]:
    """Half of the places to the best by shared weights, half to those with the most multiply-accumulates.

    After searches as short as these, shared weights say little of an architecture's own accuracy (Kendall 0.06 over
    30 of them), multiply-accumulates more (0.56): benchmarks/rank_correlation.py.
    """
    ranked = sorted(selection.scored, key=lambda p: selection.scored[p], reverse=True)
    chosen = ranked[: (count + 1) // 2]
    for path in sorted(ranked, key=judge.macs, reverse=True):
        if len(chosen) >= count:
            break
        if path not in chosen:
            chosen.append(path)
    return chosen


def capacity_bonus(judge: Judge, capacity: float) -> Callable[[ExactPath], float]:
    """What is added to a contest's accuracy to predict the order after a full training, which favours large ones.

    `capacity` times the binary logarithm of the multiply-accumulates; benchmarks/results/rank_correlation.md says
    what it does to the rank correlation.
    """
    return lambda path: capacity * math.log2(judge.macs(path)) if capacity else 0.0


def own_accuracy(
    net: Supernet,
    path: ExactPath,
    data: SearchData,
    validation: Validation,
    config: SearchConfig,
    *,
    steps: int,
    rng: np.random.Generator,
    on_step: Callable[[int], None],
) -> float:
    """Validation accuracy of `path` after `steps` of training of its own, from the shared weights."""
    own = copy.deepcopy(net)
    train_path(
        own,
        path,
        data,
        steps=steps,
        batch_size=config.batch_size,
        lr=config.weight_lr,
        rng=rng,
        on_step=on_step,
    )
    return validation.accuracy(own, path)


def explain_failure(judge: Judge, nearest: ExactPath) -> str:
    """Why nothing feasible was found: the nearest miss and the budget it breaks most."""
    cost, budgets = judge.exact(nearest), judge.budgets
    violations = budgets.violations(cost)
    if violations.pop("vetoed", 0):
        return (
            f"no architecture found without a veto; the nearest: {judge.architecture(nearest).describe()}: "
            + ("; ".join(judge.vetoes(nearest)))
        )
    tightest = max(violations, key=lambda name: violations[name])
    others = [name for name in own_budgets(violations) if name != tightest]
    reason = (
        "no architecture found that meets every budget together; tightest: "
        + describe_excess(tightest, getattr(cost, tightest), getattr(budgets, tightest))
        + f" for the nearest, {judge.architecture(nearest).describe()}"
    )
    for name in others:
        reason += "; also " + describe_excess(name, getattr(cost, name), getattr(budgets, name))
    return reason
