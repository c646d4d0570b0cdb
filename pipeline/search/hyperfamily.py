"""From a trained hypernetwork to the families of its boards: sweeps over conditions, exact checks, fronts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.search.candidates import ExactPath, Judge, grow, repair
from pipeline.search.conditions import CONDITIONED, Condition, Ranges, leaning
from pipeline.search.costs import CostTables, Floats
from pipeline.search.energy import with_energy
from pipeline.search.hypernetwork import Conditioned
from pipeline.search.hypervolume import family
from pipeline.search.result import Candidate, Front
from pipeline.search.selection import Selection
from pipeline.search.targets import Target, board_features
from pipeline.space.budgets import Budgets

# Attempts per wanted member before a sweep takes what it has.
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class ServedBoard:
    """A target as the search sees it: its judge, the ranges of its conditions, its features."""

    target: Target
    judge: Judge
    ranges: Ranges
    features: Floats

    @classmethod
    def of(cls, target: Target, tables: CostTables, seed: int) -> ServedBoard:
        target = replace(target, budgets=with_energy(target.budgets, target.cost, tables.space))
        judge = Judge(tables, target.cost, target.budgets)
        return cls(target, judge, Ranges.of(judge, seed), board_features(tables, target.clock_hz))

    def within(self, budgets: Budgets) -> Judge:
        """A judge by other budgets that shares what is known of costs."""
        return Judge(self.judge.tables, self.target.cost, budgets, self.judge._known)


def conditions(board: ServedBoard, place: int, count: int) -> list[Condition]:
    """Latencies from the board's budget down, with S uniform, then leaning to one operator after another."""
    ops, own = len(board.judge.tables.space.ops), board.target.budgets
    out = []
    for i in range(count):
        budgets = board.ranges.at((1.0 - i / max(1, count - 1), 1.0, 1.0))
        # The board's own limits where the range ends below them.
        exact = {name: getattr(own, name) for name in CONDITIONED[0 if i == 0 else 1 :]}
        budgets = replace(budgets, **{name: v for name, v in exact.items() if v is not None})
        out.append(Condition(leaning(ops, i // 2 % ops if i % 2 else None), budgets, place))
    return out


def sweep(
    relaxation: Conditioned,
    board: ServedBoard,
    asked: Sequence[Condition],
    wanted: int,
    rng: np.random.Generator,
) -> tuple[list[ExactPath], ExactPath]:
    """Up to `wanted` feasible paths over the conditions, and the least infeasible one seen.

    For each condition the most probable path, later samples; repaired to the condition's budgets, every
    second one grown into them. Whatever breaks a budget of its condition or of the board is dropped.
    """
    found: dict[ExactPath, None] = {}
    nearest: ExactPath | None = None
    for attempt in range(_ATTEMPTS * max(wanted, len(asked))):
        if len(found) >= wanted:
            break
        condition = asked[attempt % len(asked)]
        with torch.no_grad():
            relaxation.ask(condition)
            drawn = relaxation.argmax() if attempt < len(asked) else relaxation.sample(1.0, rng)[0]
        judge = board.within(condition.budgets)
        path = repair(judge, judge.canonical(drawn), *relaxation.log_probabilities())
        if attempt % 2 and judge.feasible(path):
            path = grow(judge, path, rng)
        if judge.feasible(path) and board.judge.feasible(path):
            found[path] = None
        elif nearest is None or board.judge.violation(path) < board.judge.violation(nearest):
            nearest = path
    return list(found), nearest if nearest is not None else next(iter(found))


def spread(scored: dict[ExactPath, float], judge: Judge, count: int) -> list[ExactPath]:
    """The most accurate of each of `count` equal groups by latency, slowest group first."""
    ordered = sorted(scored, key=lambda p: (judge.exact(p).latency_ms, p), reverse=True)
    if not ordered:
        return []
    groups = np.array_split(np.arange(len(ordered)), min(count, len(ordered)))
    return [max((ordered[int(i)] for i in group), key=lambda p: scored[p]) for group in groups]


def members(board: ServedBoard, selection: Selection, steps: int) -> list[Candidate]:
    """Every scored path that this board can run, best first; `steps` is how long the proxied ones trained."""
    out = []
    for path in selection.ranked():
        if board.judge.feasible(path):
            own = selection.proxied.get(path)
            out.append(
                Candidate(
                    board.judge.architecture(path),
                    board.judge.exact(path),
                    selection.scored[path],
                    own,
                    steps if own is not None else 0,
                    board=board.target.name,
                )
            )
    return out


def front_of(board: str, candidates: Sequence[Candidate], reason: str = "") -> Front:
    """Accuracy against latency of one board's candidates; `reason` says why there are none."""
    own = [c for c in candidates if c.board == board]
    return Front(board, tuple(family(own)), "" if own else reason)
