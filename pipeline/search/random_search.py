"""Random search: the baseline that every method must beat at the same cost."""

from __future__ import annotations

from pipeline.search.methods import Task, register
from pipeline.search.result import SearchResult
from pipeline.search.selection import explain_failure
from pipeline.search.standalone import Standalone


@register("random")
def random_search(task: Task) -> SearchResult:
    """Uniformly drawn feasible architectures, each trained alone from scratch for `proxy_steps`."""
    runs = Standalone(task)
    if runs.impossible:
        return runs.result(runs.impossible)
    found, nearest = runs.draw(runs.wanted)
    if not found:
        return runs.result(explain_failure(runs.judge, nearest))
    runs.accuracies(found)
    return runs.result()
