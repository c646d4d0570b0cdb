"""An architecture that the run file names: nothing is searched, and the budgets decide as ever."""

from __future__ import annotations

from pipeline.search.candidates import VETOED, ExactPath, Judge, describe_excess, own_budgets
from pipeline.search.methods import Task, register
from pipeline.search.result import Candidate, SearchResult


@register("given")
def given(task: Task) -> SearchResult:
    """`search.given` itself, if it meets every budget; no training, no accuracy.

    Raises ConfigError where it is no architecture of the space.
    """
    judge = Judge(task.tables, task.cost, task.budgets)
    path = judge.path(task.space.named(task.config.given))
    reason = _reason(judge, path)
    found = [] if reason else [Candidate(judge.architecture(path), judge.exact(path))]
    best = found[0] if found else None
    return SearchResult(
        architecture=best.architecture if best else None,
        cost=best.cost if best else None,
        feasible=best is not None,
        reason=reason,
        method=task.config.method,
        seed=task.seed,
        candidates=found,
        notes=["the architecture was given by the run file, not searched"],
    )


def _reason(judge: Judge, path: ExactPath) -> str:
    """Every budget and veto that the architecture breaks; empty where it breaks none."""
    cost, budgets = judge.exact(path), judge.budgets
    broken = budgets.violations(cost)
    if broken.pop("vetoed", 0):
        return f"{VETOED}; the given one: {'; '.join(judge.vetoes(path))}"
    own = own_budgets(broken)
    excesses = (describe_excess(name, getattr(cost, name), getattr(budgets, name)) for name in own)
    return f"the given one needs {'; '.join(excesses)}" if broken else ""
