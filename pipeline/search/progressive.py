"""Progressive evaluation: from a trained supernet and a distribution to one architecture, look by dearer look.

Architectures within the budgets are drawn; cheap proxies cut them down, shared weights look at what is left, short
trainings of their own follow in rounds, each round on grown mutations of the best so far, then longer ones decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.search.candidates import ExactPath, Judge, grow
from pipeline.search.methods import Task
from pipeline.search.proxies import shortlist
from pipeline.search.relaxation import Relaxation
from pipeline.search.selection import (
    Selection,
    capacity_bonus,
    children,
    explain_failure,
    first_cut_size,
    first_round,
    places,
    starting_paths,
    uniform_paths,
)
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, draw_batch

# Random streams (see Task.rng); those that have been there before keep their numbers.
_STARTS, _MUTATION, _LOOK = 2, 3, 5

SEMIFINAL, FINAL = "semifinal", "final"  # phases of the contests


# (phase, paths, where their accuracies go, steps of each, steps that follow, validation images)
Contest = Callable[[str, list[ExactPath], dict[ExactPath, float], int, int, Validation], None]


@dataclass(slots=True, eq=False)
class Progressive:
    """What follows the supernet's training; `run` goes from wherever `selection` is to the best architecture.

    `contest` trains paths alone; `save` writes the checkpoint, when it is `due`; `done` and `total` are the steps
    before this and of the whole search.
    """

    task: Task
    judge: Judge
    net: Supernet
    relaxation: Relaxation
    selection: Selection[ExactPath]
    contest: Contest
    save: Callable[[], None]
    due: Callable[[], bool]
    done: int
    total: int

    def run(self) -> tuple[ExactPath | None, str]:
        """The best architecture, or why there is none."""
        config, selection = self.task.config, self.selection
        if not selection.cut:
            reason = self._first_cut()
            if reason:
                return None, reason
        ranking = Validation.of(self.task.data, config.ranking_images, self.task.seed)
        self._look(selection.cut, ranking)
        bonus = capacity_bonus(self.judge, config.sharing.capacity, selection.exits)
        everything = Validation.of(self.task.data, len(self.task.data.x_val), self.task.seed)
        follows = config.semifinalists * config.semifinal_steps + config.finalists * config.proxy_steps
        for number, count in enumerate(places(config)):
            if number == len(selection.rounds):
                selection.rounds.append(self._enter(number, count, bonus))
                self.save()
            entered = selection.rounds[number]
            self._look(entered, ranking, self.total - follows if number else 0)
            follows -= count * config.semifinal_steps
            self.contest(SEMIFINAL, entered, selection.tried, config.semifinal_steps, follows, everything)
        # A resumed final has those first that are done, whatever it said of them.
        ranked = [*selection.proxied, *(path for path in selection.ranked(bonus) if path in selection.tried)]
        best = list(dict.fromkeys(ranked))[: config.finalists]
        self.contest(FINAL, best, selection.proxied, config.proxy_steps, 0, everything)
        return selection.ranked(bonus)[0], ""

    def _first_cut(self) -> str:
        """Draw the pool and keep what the proxies rank best; says why where nothing fits.

        Half of the draws follow the distribution, half are uniform: after few alternations it is near its start.
        Each comes as drawn and grown into what the budgets leave.
        """
        task, config, judge = self.task, self.task.config, self.judge
        wanted = first_cut_size(config)
        draws = max(2, config.selection.pool * wanted // 2)
        rng = task.rng(_STARTS)
        likely, nearest = starting_paths(judge, self.relaxation, config.temperature_end, draws // 2, rng)
        if not likely:
            return explain_failure(judge, nearest)
        drawn = judge.distinct([*likely, *uniform_paths(judge, draws - draws // 2, rng)])
        pool = judge.distinct([*drawn, *(grow(judge, path, rng) for path in drawn)])
        if not config.selection.proxies:
            # Nothing ranks them, and the cheapest ones, drawn early, must not fill the first round.
            pool = [pool[0], *(pool[1 + int(i)] for i in rng.permutation(len(pool) - 1))]
        cut = self._shortlist(pool, wanted)
        # The search's own answer is looked at in any case.
        self.selection.cut = cut if likely[0] in cut else [*cut[: wanted - 1], likely[0]]
        self.save()
        return ""

    def _shortlist(self, paths: Sequence[ExactPath], wanted: int) -> list[ExactPath]:
        """The best by the proxies, in the untrained supernet: what it has learnt favours paths that it saw often."""
        task = self.task
        untrained = Supernet(task.space, task.seed, task.config.sharing.identity).to(task.device)
        batch = draw_batch(task.data.x_train, task.data.y_train, task.config.batch_size, task.rng(_LOOK))
        names, record = task.config.selection.proxies, self.selection.looks
        return shortlist(paths, wanted, names, untrained, batch, record)

    def _look(self, paths: Sequence[ExactPath], validation: Validation, reached: int = 0) -> None:
        """Accuracy with shared weights of those that have none yet; progress has `reached` so many steps already."""
        for path in paths:
            if path not in self.selection.scored:
                self.selection.scored[path] = validation.accuracy(self.net, path)
                if self.due():
                    self.save()
                done = max(reached, self.done + len(self.selection.scored))
                self.task.report("ranking", done, self.total)

    def _enter(self, number: int, count: int, bonus: Callable[[ExactPath], float]) -> list[ExactPath]:
        """Who trains in this round of the semifinal."""
        task, selection = self.task, self.selection
        if number == 0:
            return first_round(selection, selection.cut, count, shared=task.config.selection.shared)
        rng = task.rng(_MUTATION, number)
        drawn = children(selection, self.judge, count * task.config.selection.pool, bonus, rng)
        entered = self._shortlist(drawn, count)
        # Small spaces run out of new neighbours: those of the first cut that have not trained take their places.
        others = [path for path in selection.cut if path not in selection.tried and path not in entered]
        return [*entered, *others[: count - len(entered)]]
