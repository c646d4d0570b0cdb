"""Regularized evolution (Real et al. 2019): tournaments in a population whose oldest member dies."""

from __future__ import annotations

from collections import deque

import numpy as np

from pipeline.search.candidates import ExactPath
from pipeline.search.methods import Task, register
from pipeline.search.result import SearchResult
from pipeline.search.selection import explain_failure
from pipeline.search.standalone import Standalone

_CHILD = 110
_ATTEMPTS = 20
_PARENTS = 5


@register("evolution")
def evolution(task: Task) -> SearchResult:
    """As many trainings from scratch as random search has; at most half of them start the population.

    Each child is the winner of a tournament with one operator or one width changed. Children that break a
    budget are rejected; where only such are found, the last one is repaired.
    """
    runs, config = Standalone(task), task.config
    if runs.impossible:
        return runs.result(runs.impossible)
    size = max(1, min(config.population, -(-runs.wanted // 2)))
    found, nearest = runs.draw(size)
    if not found:
        return runs.result(explain_failure(runs.judge, nearest))
    population: deque[ExactPath] = deque(maxlen=size)
    runs.accuracies(found)
    population.extend(found)
    while len(runs.selection.proxied) < runs.wanted:
        # The stream depends only on how many are trained, so a resumed search goes the same way.
        rng = task.rng(_CHILD, len(runs.selection.proxied))
        child = None
        for _ in range(_PARENTS):
            child = _child(runs, _winner(runs, population, config.tournament, rng), rng)
            if child is not None:
                break
        if child is None:
            break  # small spaces run out of new feasible neighbours
        runs.accuracy(child)
        population.append(child)
    return runs.result()


def _winner(
    runs: Standalone, population: deque[ExactPath], tournament: int, rng: np.random.Generator
) -> ExactPath:
    entered = rng.choice(len(population), size=min(tournament, len(population)), replace=False)
    return max((population[int(i)] for i in entered), key=runs.merit)


def _child(runs: Standalone, parent: ExactPath, rng: np.random.Generator) -> ExactPath | None:
    """A new feasible mutation of `parent`; None where neither rejection nor repair finds one."""
    path = parent
    for _ in range(_ATTEMPTS):
        path = mutate_one(runs, parent, rng)
        if runs.fresh(path):
            return path
    path = runs.mend(path)
    return path if runs.fresh(path) else None


def mutate_one(runs: Standalone, path: ExactPath, rng: np.random.Generator) -> ExactPath:
    """One block gets another operator or another width, with equal chance where it has a choice of both."""
    space = runs.task.space
    block = int(rng.integers(len(path)))
    op, width = path[block]
    skips = space.ops[op] == "skip"
    widths = [w for w in range(len(space.channels)) if w != width and not skips]
    ops = [o for o in range(len(space.ops)) if o != op]
    if widths and (not ops or rng.integers(2)):
        width = widths[int(rng.integers(len(widths)))]
    elif ops:
        op = ops[int(rng.integers(len(ops)))]
        # A skip has no width to keep.
        width = int(rng.integers(len(space.channels))) if skips else width
    return runs.judge.canonical((*path[:block], (op, width), *path[block + 1 :]))
