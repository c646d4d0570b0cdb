"""What a search guided by a proxy found, held against the real budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pipeline.search.candidates import ExactPath, Judge, repair
from pipeline.search.effort import training_passes
from pipeline.search.methods import Task
from pipeline.search.result import Candidate, SearchResult
from pipeline.search.selection import capacity_bonus


def project(
    result: SearchResult,
    task: Task,
    score: Callable[[ExactPath], float],
    train: Callable[[Sequence[ExactPath]], dict[ExactPath, float]],
) -> SearchResult:
    """Candidates that break a budget of `task` are repaired or dropped; the best of what is left wins.

    Repaired ones have lost the accuracies they had: shared weights look at each (`score`), and where finalists were
    among them, the places in the final are filled up in the order of the search and train alone (`train`), so that
    none wins untrained.
    """
    judge, space, config = Judge(task.tables, task.cost, task.budgets), task.space, task.config
    even = np.zeros((len(space.strides), len(space.ops))), np.zeros((len(space.strides), len(space.channels)))
    found = [(judge.path(candidate.architecture), candidate) for candidate in result.candidates]
    kept = {path: replace(c, cost=judge.exact(path)) for path, c in found if judge.feasible(path)}
    broken = sum(path not in kept for path, _ in found)
    repaired = 0
    order: dict[ExactPath, None] = {}
    for path, _ in found:
        mended = path if path in kept else repair(judge, path, *even)
        if not judge.feasible(mended):
            continue
        if mended not in kept:
            kept[mended] = Candidate(judge.architecture(mended), judge.exact(mended), score(mended))
            repaired += 1
        order[mended] = None

    def final(path: ExactPath) -> bool:
        c = kept[path]
        return c.proxy_accuracy is not None and c.proxy_steps == config.proxy_steps

    places = config.finalists - sum(map(final, order))
    entered = [path for path in order if not final(path)][: max(0, places)]
    for path, accuracy in train(entered).items():
        kept[path] = replace(kept[path], proxy_accuracy=accuracy, proxy_steps=config.proxy_steps)
    bonus = capacity_bonus(judge, config.sharing.capacity)

    def merit(path: ExactPath) -> tuple[float, float, float]:
        c = kept[path]
        own = c.proxy_accuracy if final(path) else None
        longest, short = (a + bonus(path) if a is not None else -1.0 for a in (own, c.short_accuracy))
        return longest, short, c.shared_accuracy or 0.0

    candidates = [kept[path] for path in sorted(order, key=merit, reverse=True)]
    images = len(task.data.x_val)
    passes = repaired * min(config.ranking_images, images)
    passes += len(entered) * (training_passes(config, config.proxy_steps) + images)
    note = f"{broken} of {len(found)} candidates broke a budget that multiply-accumulates do not see"
    if passes:
        note += f"; {repaired} were repaired and {len(entered)} trained alone for it: {passes:,} images more"
    relaxed = result.relaxed
    if relaxed is not None:
        relaxed = replace(relaxed, cost=judge.exact(judge.path(relaxed.architecture)))
    best = candidates[0] if candidates else None
    return replace(
        result, architecture=best.architecture if best else None, cost=best.cost if best else None,
        feasible=best is not None, candidates=candidates, notes=[*result.notes, note], relaxed=relaxed,
        reason=result.reason if best or result.reason else "nothing the proxy found could be repaired",
    )  # fmt: skip
