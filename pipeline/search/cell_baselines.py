"""Baselines in cell spaces: random search and regularized evolution, each at the cost of one hypernetwork search."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from pipeline.search.cell_costs import EdgePath
from pipeline.search.cell_search import SAMPLES, CellSearch
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.effort import affordable_cell_trainings, cell_alone_passes
from pipeline.search.result import SearchResult
from pipeline.search.standalone import course

_DRAWS = 50  # for each architecture wanted
_CHILD = 203  # random stream
_ATTEMPTS, _PARENTS = 20, 5


@dataclass(eq=False)
class CellBaseline(CellSearch):
    """Architectures trained alone from scratch for `proxy_steps`, as many as the hypernetwork's search pays for.

    `asked` are those of this process in the order of the search: what a checkpoint has of them is not trained again.
    """

    asked: dict[EdgePath, float] = field(default_factory=dict)

    @property
    def wanted(self) -> int:
        return affordable_cell_trainings(self.config, len(self.space.ops), len(self.data.x_val))

    def accuracy(self, path: EdgePath) -> float:
        """On the validation split; trained at most once."""
        if path not in self.own:
            steps, fresh = self.config.proxy_steps, CellSupernet(self.space, self.seed).to(self.device)
            before, total = len(self.asked) * steps, self.wanted * steps
            self.own[path] = self._alone(fresh, path, steps, before, total)
            self._save()
            self._training(path).discard()
        self.asked[path] = self.own[path]
        return self.own[path]

    def mend(self, path: EdgePath) -> EdgePath:
        """Repaired with no preference among operators; it may still be infeasible."""
        return self.judge.repair(path, np.zeros((self.space.positions, len(self.space.ops))))

    def draw(self, wanted: int) -> tuple[list[EdgePath], EdgePath]:
        """Distinct feasible paths, uniform but for repairs, and the least infeasible one seen."""
        rng = np.random.default_rng([self.seed, SAMPLES])
        found: dict[EdgePath, None] = {}
        nearest: EdgePath = ()
        for _ in range(_DRAWS * wanted):
            path = self.mend(self.space.random_path(rng))
            if self.judge.feasible(path):
                found[path] = None
            elif not nearest or self.judge.violation(path) < self.judge.violation(nearest):
                nearest = path
            if len(found) >= wanted:
                break
        return list(found), nearest

    def best(self) -> SearchResult:
        """Of all that were asked for."""
        self.history = course(self.asked.values(), cell_alone_passes(self.config, len(self.data.x_val)))
        return self._result("")


class CellRandom(CellBaseline):
    def _search(self) -> SearchResult:
        self._restore()
        found, nearest = self.draw(self.wanted)
        for path in found:
            self.accuracy(path)
        return self.best() if found else self._result(self.judge.explain(nearest))


class CellEvolution(CellBaseline):
    """As in spaces of blocks (evolution.py); a mutation gives one edge another operator."""

    def _search(self) -> SearchResult:
        self._restore()
        size = max(1, min(self.config.population, -(-self.wanted // 2)))
        found, nearest = self.draw(size)
        if not found:
            return self._result(self.judge.explain(nearest))
        population: deque[EdgePath] = deque(found, maxlen=size)
        for path in found:
            self.accuracy(path)
        while len(self.asked) < self.wanted:
            # The stream depends only on how many are trained, so a resumed search goes the same way.
            rng = np.random.default_rng([self.seed, _CHILD, len(self.asked)])
            parents = (self._winner(population, rng) for _ in range(_PARENTS))
            child = next(filter(None, (self._child(parent, rng) for parent in parents)), None)
            if child is None:
                break  # small spaces run out of new feasible neighbours
            self.accuracy(child)
            population.append(child)
        return self.best()

    def _winner(self, population: deque[EdgePath], rng: np.random.Generator) -> EdgePath:
        size = min(self.config.tournament, len(population))
        entered = rng.choice(len(population), size=size, replace=False)
        return max((population[int(i)] for i in entered), key=self.asked.__getitem__)

    def _child(self, parent: EdgePath, rng: np.random.Generator) -> EdgePath | None:
        """A new feasible mutation of `parent`; None where neither rejection nor repair finds one."""
        path = parent
        for _ in range(_ATTEMPTS):
            path = self.mutated(parent, rng)
            if path not in self.asked and self.judge.feasible(path):
                return path
        path = self.mend(path)
        return path if path not in self.asked and self.judge.feasible(path) else None

    def mutated(self, path: EdgePath, rng: np.random.Generator) -> EdgePath:
        """Another operator on one edge; `path` itself where there is only one operator."""
        edge = int(rng.integers(len(path)))
        others = [op for op in range(len(self.space.ops)) if op != path[edge]]
        if not others:
            return path
        return (*path[:edge], others[int(rng.integers(len(others)))], *path[edge + 1 :])
