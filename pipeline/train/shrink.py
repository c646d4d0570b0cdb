"""Which channels go: those that matter least for what their removal saves, until every limit holds. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BudgetError, ConfigError
from pipeline.space.architecture import operator_parameters
from pipeline.space.budgets import Budgets, Cost
from pipeline.space.graph import OpGraph
from pipeline.space.widths import Group, groups, resize

Judge = Callable[[OpGraph, int], Cost]  # of a graph and its number of parameters
Values = Mapping[str, float]
LIMITED = ("latency_ms", "sram_bytes", "flash_bytes", "parameters", "macs")
_LITTLE = 1e-3  # what saving all multiply-accumulates is worth where no limit is any nearer (peaks of SRAM)


def values_of(graph: OpGraph, judge: Judge) -> dict[str, float]:
    """All that pruning can limit, and the number of operators that are vetoed."""
    parameters = sum(operator_parameters(node.op) for node in graph.nodes)
    cost = judge(graph, parameters)
    found = {name: float(getattr(cost, name)) for name in LIMITED[:-1]}
    return {**found, "macs": float(graph.macs), "vetoed": float(cost.vetoed)}


def tighter(one: Budgets, other: Budgets) -> Budgets:
    """Of each budget the lower one."""
    both = {name: (getattr(one, name), getattr(other, name)) for name in (f.name for f in fields(Budgets))}
    return Budgets(
        **{name: min((v for v in pair if v is not None), default=None) for name, pair in both.items()}
    )


def limits_of(budgets: Budgets, fraction: float, start: Values) -> dict[str, float]:
    """Limits by name, a `fraction` of the multiply-accumulates taken away among them."""
    named = {name: getattr(budgets, name) for name in LIMITED[:-1]}
    if fraction:
        named["macs"] = start["macs"] * (1.0 - fraction)
    return {name: float(limit) for name, limit in named.items() if limit is not None}


def goals(start: Values, limits: Values, done: float) -> dict[str, float]:
    """Limits of a round: from what there was to what there shall be, in equal ratios; `done` in (0, 1]."""
    return {
        name: limit if start[name] <= limit or done >= 1 else start[name] * (limit / start[name]) ** done
        for name, limit in limits.items()
    }


def broken(values: Values, limits: Values) -> list[str]:
    return [name for name, limit in limits.items() if values[name] > limit]


@dataclass(frozen=True, slots=True)
class Shrink:
    """Choices about the graph of an unpruned architecture, in widths of its groups."""

    graph: OpGraph
    judge: Judge
    multiple: int

    @property
    def groups(self) -> tuple[Group, ...]:
        return groups(self.graph)

    def values(self, widths: Sequence[int]) -> dict[str, float]:
        return values_of(resize(self.graph, widths), self.judge)

    def narrower(self, width: int) -> int:
        """The next smaller multiple; the width itself where there is none."""
        below = (width - 1) // self.multiple * self.multiple
        return below if below >= self.multiple else width

    def check(self, limits: Values) -> None:
        """Raises ConfigError where nothing can go, BudgetError where even the narrowest graph breaks a limit."""
        widths = [group.channels for group in self.groups]
        least = [min(width, self.multiple) for width in widths]
        if least == widths:
            raise ConfigError(
                f"nothing can be pruned: no layer has more than {self.multiple} channels",
                hint="lower train.prune.multiple, or leave the limits of [train.prune] out",
            )
        smallest = self.values(least)
        over = broken(smallest, limits)
        if over:
            named = ", ".join(f"{name} {_text(smallest[name])} of {_text(limits[name])}" for name in over)
            raise BudgetError(
                f"pruning cannot reach its limits: the smallest reachable is {named}",
                hint="loosen [train.prune]; each layer keeps at least `multiple` channels",
            )

    def choose(
        self, scores: Sequence[NDArray[np.float64]], limits: Values, vetoed: float
    ) -> list[NDArray[np.int64]]:
        """Channels that stay, by group, of a network whose channels have the importance `scores`.

        Takes `multiple` channels at a time where importance lost per limit neared is least. Raises BudgetError
        where nothing is left to take.
        """
        order = [np.argsort(score, kind="stable") for score in scores]
        widths = [len(score) for score in scores]
        now = self.values(widths)
        while broken(now, limits):
            options = []
            for i, (width, score) in enumerate(zip(widths, scores, strict=True)):
                less = self.narrower(width)
                if less == width:
                    continue
                gone = len(score) - width
                lost = float(score[order[i][gone : gone + width - less]].sum())
                after = self.values([*widths[:i], less, *widths[i + 1 :]])
                if after["vetoed"] <= vetoed:
                    gain = _gain(now, after, limits)
                    options.append((gain <= 0, lost / gain if gain > 0 else -gain, i, less, after))
            if not options:
                over = ", ".join(
                    f"{name} {_text(now[name])} of {_text(limits[name])}" for name in broken(now, limits)
                )
                raise BudgetError(f"pruning is at its end with {over}", hint="loosen [train.prune]")
            _, _, i, less, now = min(options, key=lambda option: option[:3])
            widths[i] = less
        return [np.sort(o[len(o) - width :]) for o, width in zip(order, widths, strict=True)]


def _gain(now: Values, after: Values, limits: Values) -> float:
    """How much nearer the broken limits come, in shares of them."""
    nearer = sum((now[name] - max(after[name], limits[name])) / limits[name] for name in broken(now, limits))
    return nearer + _LITTLE * (now["macs"] - after["macs"]) / max(now["macs"], 1.0)


def _text(value: float) -> str:
    return f"{value:,.2f}" if value != round(value) else f"{value:,.0f}"
