"""What the operators on a cell space's edges cost, and the judge over its paths. No torch here.

A path is an operator's index per edge, cell after cell (see pipeline.space.cells).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from pipeline.latency.predictor import LatencyPredictor
from pipeline.search.candidates import VETOED, describe_excess, own_budgets
from pipeline.search.costs import CostModel, Floats, exact_cost, fitted_line, live_bytes, operator_price
from pipeline.space.architecture import operator_parameters
from pipeline.space.budgets import Budgets, Cost
from pipeline.space.cells import CellArchitecture, CellSpace, edges

EdgePath = tuple[int, ...]

_ROUNDING = 1e-6  # between the tables' sums and the exact ones


@dataclass(frozen=True, slots=True, eq=False)
class CellTables:
    """Latency and parameters of every choice, [edge of all cells, operator], and of what is not chosen.

    Both are exact: what is not on an edge is the same in every architecture. `working_set` are the bytes alive
    while an edge's operator runs, where no other edge is an identity (0: nothing runs), `working_fixed` the most while
    anything else does. `sram = sram_offset + largest working set` and `flash = flash_fit[0] + flash_fit[1] *
    parameters` are fitted to exact evaluations. `predictor` and `front_end_ms` as in CostTables.
    """

    space: CellSpace
    latency_ms: Floats
    latency_fixed: float
    weights: Floats
    weights_fixed: float
    working_set: Floats
    working_fixed: float
    sram_offset: float
    flash_fit: tuple[float, float]
    predictor: LatencyPredictor | None = None
    front_end_ms: float = 0.0

    @classmethod
    def of(cls, space: CellSpace, cost: CostModel, *, seed: int = 0, samples: int = 12) -> CellTables:
        """Every choice is looked up once; `samples` random architectures fit the SRAM and flash lines."""
        per_cell = list(space.edge_operators())
        graph = space.build((0,) * space.positions).lower()
        price = operator_price(cost, [graph])
        latency = [[sum(map(price, ops)) for ops in choices] for choices in per_cell]
        weights = [[sum(map(operator_parameters, ops)) for ops in choices] for choices in per_cell]
        tables = (
            np.repeat(np.array(latency, float), space.edges, 0),
            np.repeat(np.array(weights, float), space.edges, 0),
        )
        whole = sum(price(n.op) for n in graph.nodes) + cost.overhead_ms
        counted = sum(operator_parameters(n.op) for n in graph.nodes)
        working, fixed = _working_sets(space)
        rng, rows = np.random.default_rng([seed, 0xCE11]), np.arange(space.positions)
        drawn = [space.random_path(rng) for _ in range(samples)]
        drawn += [(op,) * space.positions for op in range(len(space.ops))]
        exact = [exact_cost(cost, space.build(path)) for path in drawn]
        beyond = [
            e.sram_bytes - max(fixed, working[rows, p].max()) for p, e in zip(drawn, exact, strict=True)
        ]
        return cls(
            space, tables[0], whole - float(tables[0][:, 0].sum()),
            tables[1], counted - float(tables[1][:, 0].sum()),
            working, fixed, float(np.median(beyond)),
            fitted_line([e.parameters for e in exact], [e.flash_bytes for e in exact]),
            front_end_ms=getattr(cost, "front_end_ms", 0.0),
        )  # fmt: skip

    def path_latency_ms(self, path: EdgePath) -> float:
        return self.latency_fixed + float(self.latency_ms[np.arange(len(path)), path].sum())

    def latency_many(self, paths: ArrayLike) -> Floats:
        """`path_latency_ms` of many: `paths` (n, edges) of indices to (n,) ms."""
        index = np.asarray(paths, np.int64)
        total: Floats = self.latency_fixed + self.latency_ms[np.arange(index.shape[1]), index].sum(1)
        return total


def _working_sets(space: CellSpace) -> tuple[Floats, float]:
    """Bytes alive while the operator of an edge runs, [edge of all cells, operator], and the most while others do."""
    base = next((i for i, op in enumerate(space.ops) if op != "identity"), 0)
    found, fixed = np.zeros((space.positions, len(space.ops))), 0.0
    names = [
        f"cell{cell}/node{node}/edge{source}/"
        for cell in range(len(space.channels))
        for node, source in edges(space.nodes)
    ]
    for edge, name in enumerate(names):
        for op in range(len(space.ops)):
            path = tuple(op if e == edge else base for e in range(space.positions))
            graph = space.build(path).lower()
            alive = live_bytes(graph.nodes, graph.tensor_bytes[0])
            here = [n.name.startswith(name) for n in graph.nodes]
            found[edge, op] = max((size for size, own in zip(alive, here, strict=True) if own), default=0)
            if (edge, op) == (0, base):
                outside = [not n.name.startswith(tuple(names)) for n in graph.nodes]
                fixed = float(max(size for size, own in zip(alive, outside, strict=True) if own))
    return found, fixed


@dataclass(slots=True)
class CellJudge:
    """Exact costs of paths against the budgets; remembers what it has computed."""

    tables: CellTables
    cost: CostModel
    budgets: Budgets
    _known: dict[EdgePath, Cost] = field(default_factory=dict)
    _macs: dict[EdgePath, int] = field(default_factory=dict)

    def within(self, budgets: Budgets) -> CellJudge:
        """A judge by other budgets that shares what is known of costs."""
        return replace(self, budgets=budgets)

    def architecture(self, path: EdgePath) -> CellArchitecture:
        return self.tables.space.build(path)

    def exact(self, path: EdgePath) -> Cost:
        if path not in self._known:
            self._known[path] = exact_cost(self.cost, self.architecture(path))
        return self._known[path]

    def macs(self, path: EdgePath) -> int:
        """Multiply-accumulates of one inference."""
        if path not in self._macs:
            self._macs[path] = self.architecture(path).lower().macs
        return self._macs[path]

    def violation(self, path: EdgePath) -> float:
        """Sum of the relative excesses; 0 meets every budget."""
        return sum(self.budgets.violations(self.exact(path)).values())

    def feasible(self, path: EdgePath) -> bool:
        return not self.budgets.violations(self.exact(path))

    def roughly_within(self, path: EdgePath, slack: float) -> bool:
        """Quick look by the tables alone: latency and parameters at most `slack` times their limits."""
        rows = np.arange(len(path))
        figures = {
            "latency_ms": self.tables.path_latency_ms(path),
            "parameters": self.tables.weights_fixed + float(self.tables.weights[rows, path].sum()),
        }
        limits = {name: getattr(self.budgets, name) for name in figures}
        return all(limit is None or figures[name] <= slack * limit for name, limit in limits.items())

    def vetoes(self, path: EdgePath) -> list[str]:
        """Why it cannot be deployed, whatever the budgets."""
        veto = getattr(self.cost, "veto", lambda _: "")
        reasons = [veto(node.op) for node in self.architecture(path).lower().nodes]
        return list(dict.fromkeys(filter(None, reasons)))

    def neighbours(self, path: EdgePath) -> list[EdgePath]:
        """Every path that differs on one edge."""
        return [
            (*path[:edge], op, *path[edge + 1 :])
            for edge in range(len(path))
            for op in range(len(self.tables.space.ops))
            if op != path[edge]
        ]

    def repair(self, path: EdgePath, log_chances: Floats) -> EdgePath:
        """Replace one edge's operator at a time until every budget is met, or no replacement helps.

        Each step takes the most relief for the least lost log-probability. While the tables' latency or
        parameters are over, they rank the replacements; then the exact planner does.
        """
        for _ in range(4 * len(path)):
            if self.feasible(path):
                break
            here, ranked = self._relieved(path), []
            for other in self.neighbours(path):
                relief = (
                    (here - self._relieved(other))
                    if here > 0
                    else self.violation(path) - self.violation(other)
                )
                lost = sum(
                    log_chances[e, a] - log_chances[e, b]
                    for e, (a, b) in enumerate(zip(path, other, strict=True))
                )
                if relief > 1e-12:
                    ranked.append((relief / (0.1 + max(0.0, lost)), other))
            if not ranked:
                break
            path = max(ranked)[1]
        return path

    def grown(self, path: EdgePath, rng: np.random.Generator) -> EdgePath:
        """Spend what the budgets leave: accept random changes of one edge that add weights and fit."""
        weights, ops = self.tables.weights, len(self.tables.space.ops)
        for _ in range(4 * len(path)):
            edge, op = int(rng.integers(len(path))), int(rng.integers(ops))
            other = (*path[:edge], op, *path[edge + 1 :])
            # The tables first: the exact planner takes a hundred times as long.
            more = weights[edge, op] > weights[edge, path[edge]]
            if more and self._relieved(other) <= _ROUNDING and self.feasible(other):
                path = other
        return path

    def _relieved(self, path: EdgePath) -> float:
        """Excess of latency and parameters by the tables."""
        total, rows = 0.0, np.arange(len(path))
        if self.budgets.latency_ms is not None:
            total += max(0.0, self.tables.path_latency_ms(path) / self.budgets.latency_ms - 1.0)
        if self.budgets.parameters is not None:
            weights = self.tables.weights_fixed + float(self.tables.weights[rows, path].sum())
            total += max(0.0, weights / self.budgets.parameters - 1.0)
        return total

    def impossible(self) -> str:
        """Names each budget that the cheapest architecture breaks: one operator on every edge of a cell, then
        exact descent; empty where there is none."""
        parts: dict[str, str] = {}
        excess: dict[str, float] = {}
        space = self.tables.space
        starts = [(op,) * space.positions for op in range(len(space.ops))]
        starts.append(tuple(int(op) for op in self.tables.latency_ms.argmin(1)))
        for name in ("latency_ms", "sram_bytes", "flash_bytes", "parameters", "energy_mj"):
            limit = getattr(self.budgets, name)
            if limit is None:
                continue
            path = min(starts, key=lambda p: getattr(self.exact(p), name))
            while getattr(self.exact(path), name) > limit:
                best = min(self.neighbours(path), key=lambda p: getattr(self.exact(p), name), default=path)
                if getattr(self.exact(best), name) >= getattr(self.exact(path), name):
                    break
                path = best
            value = getattr(self.exact(path), name)
            if value > limit:
                parts[name] = (
                    f"{describe_excess(name, value, limit)} for {self.architecture(path).describe()}"
                )
                excess[name] = value / limit - 1.0
        told = "; ".join(parts[name] for name in own_budgets(excess))
        return f"no architecture of the search space meets the budgets: {told}" if told else ""

    def explain(self, nearest: EdgePath) -> str:
        """Why nothing feasible was found: the nearest miss, and the budget that it breaks most."""
        cost = self.exact(nearest)
        violations = self.budgets.violations(cost)
        where = self.architecture(nearest).describe()
        if violations.pop("vetoed", 0):
            return f"{VETOED}; the nearest: {where}: {'; '.join(self.vetoes(nearest))}"
        name = max(own_budgets(violations), key=lambda n: violations[n])
        excess = describe_excess(name, getattr(cost, name), getattr(self.budgets, name))
        return f"nothing found that meets every budget together; tightest: {excess} for the nearest, {where}"
