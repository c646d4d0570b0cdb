"""sweep.json: what a sweep found, method by method."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline import __version__
from pipeline.search.effort import search_passes
from pipeline.search.hypervolume import front, hypervolume, interval
from pipeline.search.result import SearchResult
from pipeline.space.cells import CellSpace
from pipeline.sweep.bench import Job
from pipeline.sweep.sweep import Sweep

_ROOM = 1.1  # the reference of the hypervolume is this much slower than the loosest limit


def summarize(sweep: Sweep, name: str, board: str) -> dict[str, Any]:
    """The document of what is finished so far; the page shows nothing else.

    Points are each search's winner. Hypervolumes are in ms times accuracy, per seed, over the seeds whose
    searches all ended (one that found nothing adds nothing); means carry 95 % bootstrap intervals over seeds.
    """
    bench = sweep.bench
    points, failures = [], []
    for job in sweep.jobs:
        entry, failure = sweep.entry(job), sweep.failure(job)
        if entry is not None and entry["result"]["feasible"]:
            points.append(_point(job, entry))
        elif entry is not None:
            failures.append({**asdict(job), "kind": "infeasible", "reason": entry["result"]["reason"]})
        elif failure is not None:
            failures.append({**asdict(job), "kind": "failed", "reason": failure})
        else:
            failures.append({**asdict(job), "kind": "not done", "reason": "interrupted or not begun"})
    methods = list(dict.fromkeys(job.method for job in sweep.jobs))
    limits = sorted({job.latency_ms for job in sweep.jobs})
    reference = (_ROOM * limits[-1], 1.0 / bench.space.classes)
    known = [p for p in points if p["accuracy"] is not None]  # the others were repaired after all training
    volumes = {method: _volumes(sweep, method, known, reference) for method in methods}
    effort = _effort(sweep, methods)
    return {
        "kind": "sweep",
        "name": name,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "edgenas": __version__,
        "board": board,
        "cost": bench.cost_identity,
        "latency_provenance": bench.latency_provenance,
        "space_size": bench.space.count(),
        "budgets": {k: v for k, v in asdict(bench.budgets).items() if v is not None and k != "latency_ms"},
        "methods": methods,
        "seeds": list(dict.fromkeys(job.seed for job in sweep.jobs)),
        "latency_ms": limits,
        "searches": len(sweep.jobs),
        "finished": len(sweep.jobs) - sum(f["kind"] != "infeasible" for f in failures),
        "accuracy": _recipe(sweep),
        "points": points,
        "fronts": {
            method: front((p["latency_ms"], p["accuracy"]) for p in known if p["method"] == method)
            for method in methods
        },
        "hypervolume": {
            "reference": reference,
            "methods": {m: _with_interval(volumes[m]) for m in methods},
            "compared_with": methods[0],
            "differences": {m: _difference(volumes[m], volumes[methods[0]]) for m in methods[1:]},
        },
        "best": [_best(limit, methods, known) for limit in limits],
        "effort": {"planned_for": _planned_for(sweep), "planned_passes": _planned(sweep), "methods": effort},
        "failures": failures,
        "settings": asdict(bench.config),
    }


def _point(job: Job, entry: dict[str, Any]) -> dict[str, Any]:
    result = SearchResult.from_json(entry["result"])
    assert result.cost is not None and result.architecture is not None
    winner = next((c for c in result.candidates if c.architecture == result.architecture), None)
    own = winner.proxy_accuracy if winner else None
    accuracy = entry["accuracy"] if entry["accuracy"] is not None else own
    return {
        "method": job.method,
        "seed": job.seed,
        "limit_ms": job.latency_ms,
        **asdict(result.cost),
        "accuracy": accuracy,
        "search_accuracy": own,
        "architecture": result.architecture.to_json(),
        "described": result.architecture.describe(),
        **{name: entry[name] for name in ("passes", "cpu_seconds", "seconds", "threads", "host")},
    }


def _recipe(sweep: Sweep) -> dict[str, Any]:
    """How the points' accuracies came about."""
    bench = sweep.bench
    if bench.train is not None:
        epochs = f"{bench.train.float_epochs} + {bench.train.qat_epochs} quantization-aware epochs"
        what, split = f"fully trained ({epochs}), fake-quantized", "test"
    elif bench.judge_steps:
        times = f", the mean of {bench.judge_seeds} trainings" if bench.judge_seeds > 1 else ""
        more = f" of {len(bench.data.x_train):,} images" if bench.search_images else ""
        what = f"trained from scratch for {bench.judge_steps} steps{more}, the same for all{times}"
        split = "test"
    else:
        what, split = "as each search itself saw it: methods do not compare", "validation"
    images = len(bench.data.x_test if split == "test" else bench.data.x_val)
    return {"what": what, "split": split, "images": images, "provenance": "measured"}


def _volumes(
    sweep: Sweep, method: str, points: Sequence[dict[str, Any]], reference: tuple[float, float]
) -> dict[int, float]:
    """Hypervolume of each seed whose searches all ended."""
    found = {}
    for seed in dict.fromkeys(job.seed for job in sweep.jobs):
        if all(sweep.entry(job) for job in sweep.jobs if (job.method, job.seed) == (method, seed)):
            own = [
                (p["latency_ms"], p["accuracy"]) for p in points if (p["method"], p["seed"]) == (method, seed)
            ]
            found[seed] = hypervolume(own, reference)
    return found


def _with_interval(values: dict[int, float]) -> dict[str, Any]:
    summary = asdict(interval(list(values.values()))) if values else {"mean": None, "low": None, "high": None}
    return {"seeds": {str(seed): value for seed, value in values.items()}, "n": len(values), **summary}


def _difference(values: dict[int, float], base: dict[int, float]) -> dict[str, Any]:
    """Seed by seed: what the seeds have in common (data order, first weights) cancels."""
    common = {seed: values[seed] - base[seed] for seed in values if seed in base}
    return _with_interval(common)


def _best(limit: float, methods: Sequence[str], points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each method's accuracy with one limit over the seeds, and the best winner of all."""
    there = [p for p in points if p["limit_ms"] == limit]
    rows = {}
    for method in methods:
        own = [p["accuracy"] for p in there if p["method"] == method]
        rows[method] = {"n": len(own), **(asdict(interval(own)) if own else {})}
    best = max(there, key=lambda p: p["accuracy"], default=None)
    if best is not None:
        text = best["described"]
        kept = ("method", "seed", "latency_ms", "sram_bytes", "flash_bytes", "parameters", "accuracy")
        best = {**{k: best[k] for k in kept}, "architecture": text}
    return {"limit_ms": limit, "methods": rows, "best": best}


def _planned(sweep: Sweep) -> int:
    """Passes of the search that sets what all may cost."""
    return search_passes(sweep.bench.config, sweep.bench.space, len(sweep.bench.data.x_val))


def _planned_for(sweep: Sweep) -> str:
    return "hypernetwork" if isinstance(sweep.bench.space, CellSpace) else "EdgeNAS"


def _effort(sweep: Sweep, methods: Sequence[str]) -> dict[str, Any]:
    """What the searches of each method cost, counted while they ran."""
    found = {}
    for method in methods:
        entries = [e for job in sweep.jobs if job.method == method and (e := sweep.entry(job)) is not None]
        # a search that saw at once that nothing fits cost nothing
        ran = [e for e in entries if e["result"]["feasible"]]
        if not ran:
            continue
        passes = [e["passes"] for e in ran]
        found[method] = {
            "n": len(ran),
            "passes": {"mean": sum(passes) / len(passes), "min": min(passes), "max": max(passes)},
            "share_of_planned": sum(passes) / len(passes) / _planned(sweep),
            "cpu_seconds": sum(e["cpu_seconds"] for e in ran) / len(ran),
        }
    return found
