"""Architecture search under hard budgets.

Importing this package, its results and settings needs no torch; running a search does.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostModel
from pipeline.search.data import SearchData, check_data
from pipeline.search.methods import OnStep, Task, find, names
from pipeline.search.result import Candidate, SearchResult
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace

__all__ = ["Candidate", "SearchConfig", "SearchResult", "names", "search"]


def search(
    space: SearchSpace,
    data: SearchData,
    cost: CostModel,
    budgets: Budgets,
    config: SearchConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> SearchResult:
    """Find the most accurate architecture of `space` that meets every budget.

    `data` has uint8 NHWC images and labels (x_train, y_train, x_val, y_val; the test split is never looked
    at), `cost` is the board's cost model. The outcome depends on the arguments and `seed` alone (and, in the
    last bits of floating point, on the thread count). `checkpoint` names a file that is rewritten every
    `config.checkpoint_seconds`; a search with the same arguments continues from it exactly, one with others
    starts afresh. `on_step` gets {"phase", "done", "total", ...} after every step.

    Raises ConfigError for an unknown method, a device that is not there, a checkpoint of another search and a
    search that diverges (its last good checkpoint is kept), DataError for data that does not fit the space or
    of which one split lacks a class, LutError where `cost` knows nothing of an operator of the space. An
    impossible budget is no error: the result says which (`feasible` false, `reason`).
    """
    import torch

    from pipeline.search.device import precision

    method = find(config.method)
    check_data(data, space)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.torch_threads)
    try:
        task = Task.prepare(space, data, cost, budgets, config, seed, checkpoint, on_step)
        with precision(task.device, config.mixed_precision):
            return method(task)
    finally:
        torch.set_num_threads(threads)
