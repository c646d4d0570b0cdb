"""`adapt`: the edge stage as a function, like `search`. No torch until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.search.adaptconfig import AdaptConfig, Spending
from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostModel
from pipeline.search.data import SearchData, check_data
from pipeline.search.effort import search_passes
from pipeline.search.energy import with_energy
from pipeline.search.methods import OnStep, Sitting
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

if TYPE_CHECKING:
    from pipeline.search.cloud import Cloud
    from pipeline.search.edge import Adapted
    from pipeline.search.edgespace import EdgeSpace


def adapt(
    space: SearchSpace | CellSpace,
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
    from pipeline.search.device import computing, resident
    from pipeline.search.edge import EdgeStage

    check_data(data, space)
    cloud_passes = search_passes(config, space, cloud.validation_images)
    with computing(config) as where:
        spending = Spending.plan(options, config, cloud_passes, len(data.x_val))
        task = Sitting(
            data=resident(data, where), config=config, seed=seed, checkpoint=checkpoint, on_step=on_step,
            device=where,
        )  # fmt: skip
        held = edge_space(space, cost, budgets, cloud, config, seed)
        return EdgeStage(task, held, options, spending, cloud.identity).run()


def edge_space(
    space: SearchSpace | CellSpace,
    cost: CostModel,
    budgets: Budgets,
    cloud: Cloud,
    config: SearchConfig,
    seed: int,
) -> EdgeSpace:
    """What `cloud` left of `space`, held against `budgets`. Raises ConfigError for a cloud of another space."""
    from pipeline.search.cell_edge import CellEdge
    from pipeline.search.edgespace import BlockEdge

    limits = with_energy(budgets, cost, space)
    if isinstance(space, CellSpace):
        return CellEdge(space, cost, limits, cloud, config, seed)
    return BlockEdge(space, cost, limits, cloud, config, seed)
