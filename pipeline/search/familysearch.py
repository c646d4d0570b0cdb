"""What follows a hypernetwork's training: the families of its boards, and requests long after. In any space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic

import numpy as np

from pipeline.search.conditions import Condition
from pipeline.search.config import SearchConfig
from pipeline.search.energy import with_energy
from pipeline.search.hyperfamily import (
    Emitter,
    J,
    ServedBoard,
    around_centre,
    conditions,
    front_of,
    members,
    spread,
    sweep,
)
from pipeline.search.request import Request
from pipeline.search.result import SearchResult
from pipeline.search.targets import Target


class FamilySearch(ABC, Generic[J]):
    """A search whose hypernetwork, once trained, is swept for `boards`, the run's first."""

    config: SearchConfig
    seed: int
    history: list[dict[str, float]]
    boards: list[ServedBoard[J]]

    @property
    @abstractmethod
    def emitter(self) -> Emitter: ...

    @property
    @abstractmethod
    def member_steps(self) -> int:
        """Steps of each member's own training."""

    @abstractmethod
    def serve(self, target: Target) -> ServedBoard[J]:
        """A board with ranges and features, as if it had been trained for."""

    @abstractmethod
    def accuracies(self) -> tuple[dict[Any, float], dict[Any, float]]:
        """Of paths: with shared weights, and after trainings of their own."""

    def promise(self, path: Any, shared: float) -> float:
        """By what members are chosen for trainings of their own: `shared`, the accuracy with shared weights."""
        return shared

    def bonus(self, path: Any) -> float:
        """What is added to its accuracy after a training of its own where the most accurate is wanted."""
        return 0.0

    @abstractmethod
    def _rank(self, paths: Sequence[Any]) -> None:
        """Accuracies with shared weights."""

    @abstractmethod
    def _train_alone(self, paths: list[Any], steps: int) -> None: ...

    @abstractmethod
    def _take_trained(self) -> None:
        """The weights of the finished search without its candidates; nothing is saved from here on.

        Raises ConfigError where the training is not done.
        """

    @abstractmethod
    def _sweep_rng(self, place: int) -> np.random.Generator: ...

    @abstractmethod
    def _impossible(self, judge: J) -> str: ...

    @abstractmethod
    def _explain(self, judge: J, nearest: Any) -> str: ...

    @abstractmethod
    def _without(self, reason: str) -> SearchResult:
        """The result where nothing meets the budgets of the run's board."""

    def families(self) -> SearchResult:
        """Sweep every board, rank all members, train some of each board's alone.

        A path that was found for one board is a member on every board whose budgets it meets. Of each group of equal
        latency the most promising is trained.
        """
        config, boards = self.config, self.boards
        reasons, found = [], []
        for place, board in enumerate(boards):
            asked = conditions(board, place, config.hyper.family)
            wanted = max(1, config.candidates // len(boards))
            paths, nearest = sweep(self.emitter, board, asked, wanted, self._sweep_rng(place))
            reasons.append("" if paths else self._explain(board.judge, nearest))
            found.append(paths)
        if not found[0]:
            return self._without(reasons[0])
        self._rank([path for paths in found for path in paths])
        scored, _ = self.accuracies()
        each = max(1, config.semifinalists // len(boards))
        entered: dict[Any, None] = {}
        for board in boards:
            fit = {p: self.promise(p, a) for p, a in scored.items() if board.judge.feasible(p)}
            entered.update(dict.fromkeys(spread(fit, board.judge, each)))
        self._train_alone(list(entered), self.member_steps)
        return self._family_result(boards, reasons, self.member_steps)

    def _family_result(
        self, boards: Sequence[ServedBoard[J]], reasons: Sequence[str], steps: int
    ) -> SearchResult:
        """The winner is the first board's; `reasons` say why a board has no member."""
        scored, own = self.accuracies()
        found = [c for board in boards for c in members(board, scored, own, steps, self.bonus)]
        fronts = [front_of(b.target.name, found, why) for b, why in zip(boards, reasons, strict=True)]
        winner = next((c for c in found if c.board == boards[0].target.name), None)
        return SearchResult(
            architecture=winner.architecture if winner else None,
            cost=winner.cost if winner else None,
            feasible=winner is not None,
            reason="" if winner else reasons[0],
            method=self.config.method,
            seed=self.seed,
            history=self.history,
            candidates=found,
            fronts=fronts,
        )

    def ask(self, request: Request) -> SearchResult:
        """Members for any limits, S or board from what is trained; the result's is the best of them.

        A board that was not trained for is told by its features, and so is one of a trained one's name with another
        clock or table (a board file that was copied and changed). Raises ConfigError where training is not done.
        """
        self._take_trained()
        target, space = request.target, self.boards[0].judge.tables.space
        target = replace(target, budgets=with_energy(target.budgets, target.cost, space))
        # Ranges as a training with the limits of the run's board would have given it.
        served = self.serve(replace(target, budgets=self.boards[0].target.budgets))
        place = next((i for i, b in enumerate(self.boards) if _same_board(b, served)), None)
        like = served if place is None else self.boards[place]
        if place is None:
            place = self.emitter.add_board(served.judge.tables, served.ranges, served.features)
        board = replace(like, target=target, judge=served.judge.within(target.budgets))
        impossible = self._impossible(board.judge)
        if impossible:
            return self._family_result([board], [impossible], 0)
        ops = len(space.ops)
        asked = around_centre(ops, target.budgets, place)
        if request.complexity is not None:
            asked = [Condition(request.complexity, target.budgets, place)]
        paths, nearest = sweep(self.emitter, board, asked, request.members, self._sweep_rng(place))
        if not paths:
            return self._family_result([board], [self._explain(board.judge, nearest)], 0)
        self._rank(paths)
        if request.train_steps:
            scored, _ = self.accuracies()
            best = sorted(scored, key=lambda p: self.promise(p, scored[p]), reverse=True)[: request.trained]
            self._train_alone(best, request.train_steps)
        return self._family_result([board], [""], request.train_steps)


def _same_board(trained: ServedBoard[J], served: ServedBoard[J]) -> bool:
    """Whether both are one board at one clock, by one table."""
    return trained.target.name == served.target.name and np.array_equal(trained.features, served.features)
