"""Finding architectures that truly meet the budgets: cheapest ones, repair of near misses, mutation.

Everything here walks over paths: one (operator index, width index) per block, width 0 for a skip.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.search.costs import CostModel, CostTables, Floats, exact_cost
from pipeline.space.architecture import Architecture, lower
from pipeline.space.budgets import Budgets, Cost

ExactPath = tuple[tuple[int, int], ...]

_ROUNDING = 1.0 + 1e-6  # between the tables' sums and the exact ones

UNITS = {
    "latency_ms": ("ms", "latency"),
    "sram_bytes": ("bytes", "SRAM"),
    "flash_bytes": ("bytes", "flash"),
    "parameters": ("", "parameters"),
    "energy_mj": ("mJ", "energy"),
    "expected_latency_ms": ("ms", "latency to the first early exit"),
}
# Of the latency that [search.exits] wants in the mean: an inference takes at least as long as the first exit.
EXPECTED = "expected_latency_ms"


VETOED = "no architecture found without a veto"  # in a reason that no budget is to blame for


def way_out(reason: str, otherwise: str) -> str:
    """The hint where a search found nothing for `reason`; `otherwise`: where a budget was too tight."""
    if VETOED in reason:  # a family's begins with its name
        return "loosen [vetoes], or give the space operators and widths that they allow"
    return otherwise


def describe_excess(name: str, value: float, limit: float) -> str:
    """E.g. `latency 61.20 ms of 50 ms (+22.4 %)`."""
    unit, label = UNITS[name]
    number = f"{value:.4g}" if name == "energy_mj" else f"{value:.2f}" if unit == "ms" else f"{value:,.0f}"
    unit = f" {unit}" if unit else ""
    return f"{label} {number}{unit} of {limit:,g}{unit} (+{(value / limit - 1) * 100:.1f} %)"


@dataclass(slots=True)
class Judge:
    """Exact costs of paths against the budgets; remembers what it has computed.

    `expected_ms` is the expected latency that paths are wanted to reach with their early exits: one whose first exit
    already comes later can not, whatever it learns. Of the allowed exits a path then counts with the first one
    alone, and must fit with it: which it keeps its training says, and any choice of them is held against the budgets.
    """

    tables: CostTables
    cost: CostModel
    budgets: Budgets
    expected_ms: float | None = None
    _known: dict[ExactPath, Cost] = field(default_factory=dict)
    _macs: dict[ExactPath, int] = field(default_factory=dict)
    _networks: dict[ExactPath, Hashable] = field(default_factory=dict)
    _first_exit: dict[ExactPath, float] = field(default_factory=dict)

    def within(self, budgets: Budgets) -> Judge:
        """A judge by other budgets that shares what is known of costs."""
        return replace(self, budgets=budgets)

    def architecture(self, path: ExactPath) -> Architecture:
        space = self.tables.space
        built = space.build([(space.ops[op], space.channels[width]) for op, width in path])
        return built if self.expected_ms is None else replace(built, exits=built.exits[:1])

    def path(self, architecture: Architecture) -> ExactPath:
        """Inverse of `architecture`."""
        space = self.tables.space
        return tuple(
            (space.ops.index(b.op), space.channels.index(b.channels) if b.op != "skip" else 0)
            for b in architecture.blocks
        )

    def canonical(self, path: list[tuple[int, int]] | ExactPath) -> ExactPath:
        """The path with the width of every skip, which has no effect, set to 0."""
        ops = self.tables.space.ops
        return tuple((op, 0 if ops[op] == "skip" else width) for op, width in path)

    def exact(self, path: ExactPath) -> Cost:
        if path not in self._known:
            self._known[path] = exact_cost(self.cost, self.architecture(path))
        return self._known[path]

    def with_exits(self, path: ExactPath, kept: Sequence[int]) -> tuple[Architecture, Cost]:
        """`path` with those of the allowed exits that are at positions `kept`, and what that costs at worst."""
        allowed = self.tables.space.exits
        architecture = replace(self.architecture(path), exits=tuple(allowed[i] for i in kept))
        return architecture, exact_cost(self.cost, architecture)

    def violation(self, path: ExactPath) -> float:
        """Sum of the relative excesses (0 = meets every budget), by the exact planner and the LUT."""
        return sum(self.violations(path).values())

    def violations(self, path: ExactPath) -> dict[str, float]:
        """Relative excess of each limit that is broken, by its name (see `value` and `limit`)."""
        found = self.budgets.violations(self.exact(path))
        if self.expected_ms is not None and self.value(path, EXPECTED) > self.expected_ms:
            found[EXPECTED] = self.value(path, EXPECTED) / self.expected_ms - 1.0
        return found

    def value(self, path: ExactPath, name: str) -> float:
        """What `path` costs of the limit `name`."""
        if name != EXPECTED:
            return float(getattr(self.exact(path), name))
        if path not in self._first_exit:
            graph = lower(self.architecture(path))
            self._first_exit[path] = self.cost.exit_latencies_ms(graph)[0]
        return self._first_exit[path]

    def limit(self, name: str) -> float:
        """What there is of it."""
        return float(self.expected_ms or 0.0) if name == EXPECTED else float(getattr(self.budgets, name))

    def feasible(self, path: ExactPath) -> bool:
        return not self.violations(path)

    def macs(self, path: ExactPath) -> int:
        """Multiply-accumulates of one inference: of all cheap figures the best sign of accuracy."""
        if path not in self._macs:
            self._macs[path] = lower(self.architecture(path)).macs
        return self._macs[path]

    def network(self, path: ExactPath) -> Hashable:
        """Equal for paths that stand for one network, whichever allowed exits it keeps: where a skip of stride 1
        stands, for example, does not matter between two exits."""
        if path not in self._networks:
            graph = lower(replace(self.architecture(path), exits=self.tables.space.exits))
            self._networks[path] = (tuple(node.op for node in graph.nodes), graph.outputs)
        return self._networks[path]

    def distinct(self, paths: Iterable[ExactPath]) -> list[ExactPath]:
        """The first path of each network."""
        found: dict[Hashable, ExactPath] = {}
        for path in paths:
            found.setdefault(self.network(path), path)
        return list(found.values())

    def log_probability(self, path: ExactPath, log_ops: Floats, log_widths: Floats) -> float:
        """Of `path`, by the logarithms of each block's chances; a skip has no width."""
        skip = {i for i, op in enumerate(self.tables.space.ops) if op == "skip"}
        return float(
            sum(log_ops[b, o] + (0.0 if o in skip else log_widths[b, w]) for b, (o, w) in enumerate(path))
        )

    def vetoes(self, path: ExactPath) -> list[str]:
        """Why it cannot be deployed, whatever the budgets."""
        veto = getattr(self.cost, "veto", lambda _: "")
        reasons = [veto(node.op) for node in lower(self.architecture(path)).nodes]
        return list(dict.fromkeys(filter(None, reasons)))

    def roughly_within(self, path: list[tuple[int, int]] | ExactPath, slack: float) -> bool:
        """Quick look by the tables alone: latency and parameters at most `slack` times their limits."""
        latency, weights = self.budgets.latency_ms, self.budgets.parameters
        if latency is not None and self.tables.path_latency_ms(path) > slack * latency:
            return False
        return weights is None or self.tables.path_parameters(path) <= slack * weights

    def grown(self, path: ExactPath, rng: np.random.Generator) -> ExactPath:
        return grow(self, path, rng)

    def neighbours(self, path: ExactPath) -> list[ExactPath]:
        """Every path that differs in one block."""
        space = self.tables.space
        out = []
        for block in range(len(path)):
            for op, name in enumerate(space.ops):
                for width in range(1 if name == "skip" else len(space.channels)):
                    if (op, width) != path[block]:
                        out.append((*path[:block], (op, width), *path[block + 1 :]))
        return out


def cheapest_path(judge: Judge, table: Floats, head: Floats, *, bottleneck: bool = False) -> ExactPath:
    """The path with the least sum (or least maximum, for `bottleneck`) of table entries: exact, by
    dynamic programming over the width that arrives at each block."""
    space = judge.tables.space
    best: dict[int, tuple[float, ExactPath]] = {space.stem_channels: (0.0, ())}
    for block in range(len(space.strides)):
        following: dict[int, tuple[float, ExactPath]] = {}
        for arriving, (so_far, path) in best.items():
            state = space.widths.index(arriving)
            for op, name in enumerate(space.ops):
                for width in range(1 if name == "skip" else len(space.channels)):
                    entry = float(table[block, state, op, width])
                    total = max(so_far, entry) if bottleneck else so_far + entry
                    leaving = arriving if name == "skip" else space.channels[width]
                    if leaving not in following or total < following[leaving][0]:
                        following[leaving] = (total, (*path, (op, width)))
        best = following
    if bottleneck:
        return min(best.values(), key=lambda item: item[0])[1]
    return min(best.items(), key=lambda item: item[1][0] + head[space.widths.index(item[0])])[1][1]


def cheapest_paths(judge: Judge) -> dict[str, ExactPath]:
    """For each limited budget the architecture that needs least of it (SRAM: by working set)."""
    tables, budgets = judge.tables, judge.budgets
    found: dict[str, ExactPath] = {}
    if budgets.latency_ms is not None:
        found["latency_ms"] = cheapest_path(judge, tables.latency_ms, tables.latency_head)
    if budgets.energy_mj is not None:  # goes with latency
        found["energy_mj"] = cheapest_path(judge, tables.latency_ms, tables.latency_head)
    if budgets.sram_bytes is not None:
        zeros = np.zeros_like(tables.latency_head)
        found["sram_bytes"] = cheapest_path(judge, tables.working_set, zeros, bottleneck=True)
    for name in ("flash_bytes", "parameters"):
        if getattr(budgets, name) is not None:
            found[name] = cheapest_path(judge, tables.weights, tables.weights_head)
    if judge.expected_ms is not None:
        until = tables.latency_ms.copy()
        until[tables.space.exits[0] + 1 :] = 0.0
        found[EXPECTED] = cheapest_path(judge, until, np.zeros_like(tables.latency_head))
    return found


def impossible_budgets(judge: Judge) -> str:
    """Names each budget that even the space's cheapest architecture breaks; empty when there is none."""
    parts: dict[str, str] = {}
    excess: dict[str, float] = {}
    for name, path in cheapest_paths(judge).items():
        limit = judge.limit(name)
        # The tables know neither code size nor fragmentation, so exact steps improve on their answer.
        path = _descend(judge, path, name)
        value = judge.value(path, name)
        if value > limit:
            parts[name] = (
                f"{describe_excess(name, value, limit)} for the smallest architecture, "
                f"{judge.architecture(path).describe()}"
            )
            excess[name] = value / limit - 1.0
    told = "; ".join(parts[name] for name in own_budgets(excess))
    return f"no architecture of the search space meets the budgets: {told}" if told else ""


def own_budgets(violations: dict[str, float]) -> list[str]:
    """Names of broken budgets, without the latency limit where that is the energy budget's (search/energy.py)."""
    energy = violations.get("energy_mj")
    return [
        n for n in violations if not (n == "latency_ms" and energy is not None and energy >= violations[n])
    ]


def _descend(judge: Judge, path: ExactPath, name: str) -> ExactPath:
    """Steepest descent of one exact cost over single-block changes, until it fits or nothing improves."""
    limit = judge.limit(name)
    while judge.value(path, name) > limit:
        best = min(judge.neighbours(path), key=lambda p: judge.value(p, name), default=path)
        if judge.value(best, name) >= judge.value(path, name):
            break
        path = best
    return path


def repair(judge: Judge, path: ExactPath, log_ops: Floats, log_widths: Floats) -> ExactPath:
    """Change one block at a time until every budget is met, giving up as little probability as possible.

    Each step takes the change with the most relief per lost log-probability. The path that comes back may
    still be infeasible, when no single change helps.
    """
    excess = _rough_violation(judge, path)
    # Tables and planner may disagree by a little, so the number of steps is bounded.
    for _ in range(8 * len(path)):
        if judge.feasible(path):
            break
        here = judge.log_probability(path, log_ops, log_widths)
        ranked = []
        for other in judge.neighbours(path):
            relief = excess - _rough_violation(judge, other)
            if relief > 1e-9:
                lost = here - judge.log_probability(other, log_ops, log_widths)
                ranked.append((relief / (0.1 + max(0.0, lost)), other))
        if ranked:
            path = max(ranked)[1]
        else:
            # The tables see no way on; the exact planner may.
            best = min(judge.neighbours(path), key=judge.violation, default=path)
            if judge.violation(best) >= judge.violation(path):
                break
            path = best
        excess = _rough_violation(judge, path)
    return path


def _rough_violation(judge: Judge, path: ExactPath) -> float:
    """Violation by the tables where they are exact; SRAM and flash count through their fitted lines."""
    tables, budgets = judge.tables, judge.budgets
    weights = tables.path_parameters(path)
    figures = {"latency_ms": tables.path_latency_ms(path), "parameters": weights}
    if budgets.flash_bytes is not None:
        figures["flash_bytes"] = tables.flash_fit[0] + tables.flash_fit[1] * weights
    if budgets.sram_bytes is not None:
        figures["sram_bytes"] = tables.sram_offset + tables.path_working_set(path)
    total = 0.0
    for name, value in figures.items():
        limit = getattr(budgets, name)
        if limit is not None:
            # A little relief beyond the limit counts too, so that fitted lines cannot stall the repair.
            total += max(0.0, value / limit - 0.97)
    if judge.expected_ms is not None:
        total += max(
            0.0, tables.path_latency_ms_until(path, tables.space.exits[0]) / judge.expected_ms - 0.97
        )
    return total


def grow(judge: Judge, path: ExactPath, rng: np.random.Generator, attempts: int = 40) -> ExactPath:
    """Spend what the budgets leave: accept random single-block changes that add multiply-accumulates and fit."""
    space, here = judge.tables.space, judge.macs(path)
    for _ in range(attempts):
        block = int(rng.integers(len(path)))
        choice = (int(rng.integers(len(space.ops))), int(rng.integers(len(space.channels))))
        other = judge.canonical((*path[:block], choice, *path[block + 1 :]))
        # The tables first: the exact planner takes a hundred times as long.
        if judge.roughly_within(other, _ROUNDING) and judge.macs(other) > here and judge.feasible(other):
            path, here = other, judge.macs(other)
    return path


def anchor_path(judge: Judge) -> ExactPath:
    """A plain, roomy path near the budgets: the first operator in its greatest width, repaired."""
    space = judge.tables.space
    ops = [op for op in range(len(space.ops)) if space.ops[op] != "skip"]
    even_ops = np.zeros((len(space.strides), len(space.ops)))
    even_widths = np.zeros((len(space.strides), len(space.channels)))
    # Same operator everywhere: a repair may narrow the path, not mix operators.
    first = ops[0] if ops else 0
    even_ops[:, [op for op in range(len(space.ops)) if op != first]] = -100.0
    path = judge.canonical([(first, len(space.channels) - 1)] * len(space.strides))
    return repair(judge, path, even_ops, even_widths)


def mutate(judge: Judge, path: ExactPath, rng: np.random.Generator) -> ExactPath:
    """Draw a new choice for one or two blocks."""
    space = judge.tables.space
    out = list(path)
    for block in rng.choice(len(path), size=min(len(path), int(rng.integers(1, 3))), replace=False):
        out[block] = (int(rng.integers(len(space.ops))), int(rng.integers(len(space.channels))))
    return judge.canonical(out)
