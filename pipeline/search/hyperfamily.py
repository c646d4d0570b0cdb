"""From a trained hypernetwork to the families of its boards: conditions, sweeps, exact checks, fronts. No torch here
but to switch gradients off: spaces of blocks and of cells differ in their judge and in what emits paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from pipeline.search.candidates import Judge
from pipeline.search.conditions import CONDITIONED, Condition, Ranges, draw_complexity, leaning
from pipeline.search.costs import CostTables, Floats
from pipeline.search.energy import with_energy
from pipeline.search.hypervolume import family
from pipeline.search.pathjudge import PathJudge
from pipeline.search.result import Candidate, Front
from pipeline.search.targets import Target, board_features
from pipeline.space.budgets import Budgets

# Attempts per wanted member before a sweep takes what it has.
_ATTEMPTS = 4

P = TypeVar("P", bound=Hashable)


class FamilyJudge(PathJudge, Protocol):
    """A judge that also serves other budgets."""

    @property
    def tables(self) -> Any:
        """With `space` (which has `ops`) and `latency_ms`."""

    def within(self, budgets: Budgets) -> Any: ...


J = TypeVar("J", bound=FamilyJudge)


class Emitter(Protocol):
    """A hypernetwork with what makes paths of its logits."""

    def ask(self, condition: Condition) -> None: ...
    def add_board(self, tables: Any, ranges: Ranges, features: Floats) -> int: ...
    def repaired(self, judge: Any, rng: np.random.Generator | None) -> Any:
        """The most probable path, or with `rng` a sample, repaired to the budgets of `judge` if it can be."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedBoard(Generic[J]):
    """A target as the search sees it: its judge, the ranges of its conditions, its features."""

    target: Target
    judge: J
    ranges: Ranges
    features: Floats


def serve(target: Target, tables: CostTables, seed: int) -> ServedBoard[Judge]:
    """A board for a space of blocks."""
    target = replace(target, budgets=with_energy(target.budgets, target.cost, tables.space))
    judge = Judge(tables, target.cost, target.budgets)
    return ServedBoard(target, judge, Ranges.of(judge, seed), board_features(tables, target.clock_hz))


def draw_condition(boards: Sequence[ServedBoard[J]], rng: np.random.Generator) -> Condition:
    """Any board, S uniform on the simplex, budgets from that board's ranges."""
    complexity = draw_complexity(len(boards[0].judge.tables.space.ops), rng)
    board = int(rng.integers(len(boards)))
    return Condition(complexity, boards[board].ranges.draw(rng), board)


def digest(boards: Sequence[ServedBoard[J]]) -> str:
    """Changes with whatever of the boards beside the run's changes the outcome."""
    found = hashlib.sha256()
    for board in boards[1:]:
        found.update(repr((board.target.name, asdict(board.target.budgets), board.ranges)).encode())
        found.update(board.features.tobytes() + board.judge.tables.latency_ms.tobytes())
    return found.hexdigest()


def conditions(board: ServedBoard[J], place: int, count: int) -> list[Condition]:
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


def around_centre(operators: int, budgets: Budgets, place: int) -> list[Condition]:
    """`budgets` with S uniform, then leaning to one operator after another."""
    asked = [leaning(operators, to) for to in (None, *range(operators))]
    return [Condition(complexity, budgets, place) for complexity in asked]


def sweep(
    emitter: Emitter,
    board: ServedBoard[J],
    asked: Sequence[Condition],
    wanted: int,
    rng: np.random.Generator,
) -> tuple[list[Any], Any]:
    """Up to `wanted` feasible paths over the conditions, and the least infeasible one seen.

    For each condition the most probable path, later samples; repaired to the condition's budgets, every
    second one grown into them. Whatever breaks a budget of the board is dropped, and of its condition, unless nothing
    else is left.
    """
    found: dict[Any, None] = {}
    beside: dict[Any, None] = {}  # meet the board's budgets alone
    nearest: Any = None
    for attempt in range(_ATTEMPTS * max(wanted, len(asked))):
        if len(found) >= wanted:
            break
        condition = asked[attempt % len(asked)]
        judge = board.judge.within(condition.budgets)
        with torch.no_grad():
            emitter.ask(condition)
            path = emitter.repaired(judge, rng if attempt >= len(asked) else None)
        if attempt % 2 and judge.feasible(path):
            path = judge.grown(path, rng)
        if judge.feasible(path) and board.judge.feasible(path):
            found[path] = None
        elif board.judge.feasible(path):
            beside[path] = None
        elif nearest is None or board.judge.violation(path) < board.judge.violation(nearest):
            nearest = path
    found = found or dict.fromkeys(list(beside)[:wanted])
    return list(found), nearest if nearest is not None else next(iter(found))


def spread(scored: Mapping[P, float], judge: FamilyJudge, count: int) -> list[P]:
    """The one with the highest score of each of `count` equal groups by latency, slowest group first."""
    ordered: list[P] = sorted(scored, key=lambda p: (judge.exact(p).latency_ms, p), reverse=True)
    if not ordered:
        return []
    groups = np.array_split(np.arange(len(ordered)), min(count, len(ordered)))
    return [max((ordered[int(i)] for i in group), key=lambda p: scored[p]) for group in groups]


def members(
    board: ServedBoard[J],
    scored: Mapping[P, float],
    own: Mapping[P, float],
    steps: int,
    bonus: Callable[[P], float] = lambda _: 0.0,
) -> list[Candidate]:
    """Every path that this board can run, best first: by accuracies after `steps` alone plus `bonus`, then by shared
    ones."""
    ranked = sorted(scored, key=lambda p: (own[p] + bonus(p) if p in own else -1.0, scored[p]), reverse=True)
    return [
        Candidate(
            board.judge.architecture(path),
            board.judge.exact(path),
            scored[path],
            own.get(path),
            steps if path in own else 0,
            board=board.target.name,
        )
        for path in ranked
        if board.judge.feasible(path)
    ]


def front_of(board: str, candidates: Sequence[Candidate], reason: str = "") -> Front:
    """Accuracy against latency of one board's candidates; `reason` says why there are none."""
    own = [c for c in candidates if c.board == board]
    return Front(board, tuple(family(own)), "" if own else reason)
