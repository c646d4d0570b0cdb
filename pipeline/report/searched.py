"""The search's part of report.json: its course, its candidates, and how well each stage predicted the next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.figures import Provenance
from pipeline.latency.cost import CostModel
from pipeline.search.hypervolume import accuracy
from pipeline.search.ranking import agreements, ranks
from pipeline.search.result import Candidate, Front, SearchResult
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets

_SHAPE = ("parameters", "macs")  # proxies that every candidate has anyway


@dataclass(frozen=True, slots=True)
class Served:
    """A further board that a search served: the budgets that its candidates meet, and its latencies' provenance."""

    board: str
    budgets: dict[str, float]
    provenance: Provenance

    @classmethod
    def of(cls, cost: CostModel, budgets: Budgets, result: SearchResult) -> Served:
        """Its latencies are as good as the least known operator of its candidates."""
        board = cost.board.name
        graphs = [lower(c.architecture) for c in _on(result, board)]
        estimated = any(cost.predict(graph).unmeasured for graph in graphs)
        return cls(board, _set(budgets), "estimated" if estimated else "modelled")


def search_section(
    result: SearchResult,
    *,
    seconds: float,
    space_size: int,
    budgets: Budgets | None = None,
    others: Sequence[Served] = (),
) -> dict[str, Any]:
    """`points` are the candidates of the run's board with their costs there and accuracies on the validation split,
    `budgets` what they were held to, which is less than the run's where these must hold under load too;
    `others` has those of the further boards, each with its limits. `ranks` are the agreement of every two stages
    over the architectures that went through both, each counted once however many boards can run it. `relaxed` is
    the most probable architecture as it came from the search, which may break a limit."""
    fronts = {front.board: front for front in result.fronts}
    board = result.fronts[0].board if result.fronts else ""
    points = _points(result, board, fronts.get(board))
    for point, candidate in zip(points, _on(result, board), strict=True):
        point["chosen"] = candidate.architecture == result.architecture
    return {
        "method": result.method,
        "seed": result.seed,
        "seconds": seconds,
        "space_size": space_size,
        "history": result.history,
        "board": board,
        "budgets": _set(budgets or Budgets()),
        "candidates": len(points),
        "points": points,
        "others": [_other(result, served, fronts.get(served.board)) for served in others],
        "relaxed": _costs(result.relaxed) if result.relaxed else None,
        "notes": list(result.notes),
        "ranks": [a.to_json() for a in agreements(stages(distinct(result.candidates)))],
    }


def _set(budgets: Budgets) -> dict[str, float]:
    return {name: value for name, value in asdict(budgets).items() if value is not None}


def _on(result: SearchResult, board: str) -> list[Candidate]:
    return [c for c in result.candidates if c.board == board]


def _points(result: SearchResult, board: str, front: Front | None) -> list[dict[str, Any]]:
    members = front.members if front else ()
    return [
        {
            **_costs(c),
            "proxy_steps": c.proxy_steps,
            "chosen": False,
            "member": c in members,
            "exits": _exits(c),
        }
        for c in _on(result, board)
    ]


def _exits(candidate: Candidate) -> dict[str, Any] | None:
    """What the search found of a candidate's early exits; None where it looked for none."""
    if not candidate.exits:
        return None
    return {**candidate.exits, "architecture": candidate.architecture.describe()}


def _other(result: SearchResult, served: Served, front: Front | None) -> dict[str, Any]:
    return {
        "board": served.board,
        "budgets": dict(served.budgets),
        "provenance": served.provenance,
        "reason": front.reason if front else "",
        "points": _points(result, served.board, front),
    }


def _costs(candidate: Candidate) -> dict[str, Any]:
    cost = candidate.cost
    return {
        "latency_ms": cost.latency_ms,
        "sram_bytes": cost.sram_bytes,
        "flash_bytes": cost.flash_bytes,
        "parameters": cost.parameters,
        "energy_mj": cost.energy_mj,
        "accuracy": accuracy(candidate),
    }


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Each architecture once, in order: what several boards can run has the same accuracies on all of them."""
    return list({c.architecture: c for c in reversed(list(candidates))}.values())[::-1]


def stages(candidates: Sequence[Candidate]) -> dict[str, list[float | None]]:
    """Each candidate's score in each stage, cheapest first; None where it did not get that far.

    Of the proxies first each alone, then where several made a cut their mean rank over the candidates that have
    them all.
    """
    found: dict[str, list[float | None]] = {
        "parameters": [float(c.cost.parameters) for c in candidates],
        "MACs": [float(lower(c.architecture).macs) for c in candidates],
    }
    names = list(dict.fromkeys(name for c in candidates for name in c.proxies))
    for name in names:
        if name not in _SHAPE:
            found[f"{name}, untrained"] = [c.proxies.get(name) for c in candidates]
    if len(names) > 1:
        whole = [c for c in candidates if len(c.proxies) == len(names)]
        mean = np.mean([ranks([c.proxies[name] for c in whole]) for name in names], axis=0)
        placed = {id(c): float(rank) for c, rank in zip(whole, mean, strict=True)}
        found[f"first cut ({', '.join(names)}: mean rank)"] = [placed.get(id(c)) for c in candidates]
    if any(c.shared_accuracy is not None for c in candidates):
        found["shared weights"] = [c.shared_accuracy for c in candidates]
    own = [{c.short_steps: c.short_accuracy, c.proxy_steps: c.proxy_accuracy} for c in candidates]
    for steps in sorted({steps for each in own for steps in each if steps}):
        found[f"{steps} steps of its own"] = [each.get(steps) for each in own]
    return found
