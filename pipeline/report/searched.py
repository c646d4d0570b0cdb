"""The search's part of report.json: its course, its candidates, and how well each stage predicted the next."""

from __future__ import annotations

from typing import Any

from pipeline.search.hypervolume import accuracy
from pipeline.search.ranking import agreements
from pipeline.search.result import Candidate, SearchResult
from pipeline.space.architecture import lower


def search_section(result: SearchResult, *, seconds: float, space_size: int) -> dict[str, Any]:
    """`points` are the candidates with their costs and accuracies on the validation split; `ranks` the
    agreement of every two stages over the architectures that went through both. `relaxed` is the most probable
    architecture as it came from the search, which may break a limit."""
    return {
        "method": result.method,
        "seed": result.seed,
        "seconds": seconds,
        "space_size": space_size,
        "history": result.history,
        "candidates": len(result.candidates),
        "points": [_point(c, result) for c in result.candidates],
        "relaxed": _costs(result.relaxed) if result.relaxed else None,
        "notes": list(result.notes),
        "ranks": [a.to_json() for a in agreements(stages(result.candidates))],
    }


def _costs(candidate: Candidate) -> dict[str, Any]:
    cost = candidate.cost
    known = candidate.proxy_accuracy is not None or candidate.shared_accuracy is not None
    return {
        "latency_ms": cost.latency_ms,
        "sram_bytes": cost.sram_bytes,
        "flash_bytes": cost.flash_bytes,
        "parameters": cost.parameters,
        "energy_mj": cost.energy_mj,
        "accuracy": accuracy(candidate) if known else None,
    }


def _point(candidate: Candidate, result: SearchResult) -> dict[str, Any]:
    return {
        **_costs(candidate),
        "accuracy": accuracy(candidate),
        "proxy_steps": candidate.proxy_steps,
        "chosen": candidate.architecture == result.architecture,
    }


def stages(candidates: list[Candidate]) -> dict[str, list[float | None]]:
    """Each candidate's score in each stage, cheapest first; None where it did not get that far."""
    found: dict[str, list[float | None]] = {
        "parameters": [float(c.cost.parameters) for c in candidates],
        "MACs": [float(lower(c.architecture).macs) for c in candidates],
    }
    if any(c.shared_accuracy is not None for c in candidates):
        found["shared weights"] = [c.shared_accuracy for c in candidates]
    own = [{c.short_steps: c.short_accuracy, c.proxy_steps: c.proxy_accuracy} for c in candidates]
    for steps in sorted({steps for each in own for steps in each if steps}):
        found[f"{steps} steps of its own"] = [each.get(steps) for each in own]
    return found
