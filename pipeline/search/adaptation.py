"""`adapt`: the edge stage as a function, like `search`. No torch until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.search.adaptconfig import AdaptConfig
from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostModel
from pipeline.search.data import SearchData, check_data
from pipeline.search.methods import OnStep, Task
from pipeline.search.targets import one_board
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace

if TYPE_CHECKING:
    from pipeline.search.edge import Adapted, Cloud


def adapt(
    space: SearchSpace,
    data: SearchData,
    cost: CostModel,
    budgets: Budgets,
    config: SearchConfig,
    options: AdaptConfig,
    cloud: Cloud,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> Adapted:
    """Adapt what `cloud` found to `data` and `budgets`; the other arguments are those of `search`.

    `config` are the cloud search's settings. An impossible budget is no error: the result says which. Raises
    ConfigError for a cloud of another space, a share too small for a step, and a checkpoint of another adaptation;
    DataError for data that do not fit the space.
    """
    from pipeline.search.device import computing
    from pipeline.search.edge import EdgeStage

    check_data(data, space)
    with computing(config):
        task = Task.prepare(space, data, one_board(cost, budgets), config, seed, checkpoint, on_step)
        return EdgeStage(task, options, cloud).run()
