"""Random search: the baseline that every method must beat with the same number of training steps."""

from __future__ import annotations

import numpy as np

from pipeline.search.candidates import ExactPath, Judge, impossible_budgets, repair
from pipeline.search.checkpoint import Checkpoint, fingerprint
from pipeline.search.methods import Task, register
from pipeline.search.result import SearchResult
from pipeline.search.selection import Selection, explain_failure
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, train_path

_STARTS, _TRAINING = 100, 101
_ATTEMPTS = 50


@register("random")
def random_search(task: Task) -> SearchResult:
    """Uniformly drawn feasible architectures, each trained alone from scratch for `proxy_steps`.

    As many as EdgeNAS's weight steps (warm-up, alternation, contests) pay for; at least one.
    """
    config, judge = task.config, Judge(task.tables, task.cost, task.budgets)
    reason = impossible_budgets(judge)
    if reason:
        return _result(task, judge, Selection(), reason)
    weight_steps = config.warmup_steps + config.steps + config.finalists * config.proxy_steps
    weight_steps += config.semifinalists * config.semifinal_steps
    wanted = max(1, weight_steps // max(1, config.proxy_steps))
    found, nearest = _draw(task, judge, wanted)
    if not found:
        return _result(task, judge, Selection(), explain_failure(judge, nearest))
    identity = fingerprint(task.tables, task.data, task.budgets, config, task.seed)
    checkpoint = Checkpoint(task.checkpoint, identity, config.checkpoint_seconds)
    state = checkpoint.load()
    selection = Selection.from_state(state) if state is not None else Selection()
    validation = Validation.of(task.data, len(task.data.x_val), task.seed)
    total = len(found) * config.proxy_steps
    for place, path in enumerate(found):
        if path in selection.scored:
            continue
        net = Supernet(task.space, task.seed)
        start = place * config.proxy_steps
        train_path(
            net,
            path,
            task.data,
            steps=config.proxy_steps,
            batch_size=config.batch_size,
            lr=config.weight_lr,
            rng=task.rng(_TRAINING),
            on_step=lambda step, start=start: task.report("random", start + step, total),  # type: ignore[misc]
        )
        selection.scored[path] = selection.proxied[path] = validation.accuracy(net, path)
        checkpoint.save(selection.state())
    return _result(task, judge, selection, "")


def _draw(task: Task, judge: Judge, wanted: int) -> tuple[list[ExactPath], ExactPath]:
    """Distinct feasible paths (near misses repaired), and the least infeasible one seen."""
    space, rng = task.space, task.rng(_STARTS)
    even_ops = np.zeros((len(space.strides), len(space.ops)))
    even_widths = np.zeros((len(space.strides), len(space.channels)))
    found: dict[ExactPath, None] = {}
    nearest: ExactPath | None = None
    for _ in range(wanted * _ATTEMPTS):
        drawn = space.random(rng)
        path = repair(judge, judge.path(drawn), even_ops, even_widths)
        if judge.feasible(path):
            found[path] = None
        elif nearest is None or judge.violation(path) < judge.violation(nearest):
            nearest = path
        if len(found) >= wanted:
            break
    return list(found), nearest if nearest is not None else next(iter(found))


def _result(task: Task, judge: Judge, selection: Selection, reason: str) -> SearchResult:
    candidates = selection.candidates(judge, task.config)
    best = candidates[0] if candidates else None
    return SearchResult(
        architecture=best.architecture if best else None,
        cost=best.cost if best else None,
        feasible=best is not None,
        reason=reason,
        method="random",
        seed=task.seed,
        candidates=candidates,
    )
