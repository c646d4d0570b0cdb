"""Pruning for a board: its table guides, and what the table lacks is measured before the result counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data import DataSet
from pipeline.latency.cost import CostModel
from pipeline.profiler.profile import obtain
from pipeline.progress import Reporter
from pipeline.runfile import RunFile
from pipeline.space.architecture import Architecture
from pipeline.space.budgets import Budgets, Cost
from pipeline.space.graph import OpGraph
from pipeline.stages import training_bar

if TYPE_CHECKING:
    from pipeline.train.prune import Pruned


def prune(
    run: RunFile,
    architecture: Architecture,
    data: DataSet,
    cost: CostModel,
    held: Budgets,
    folder: Path,
    tables: Path,
    reporter: Reporter,
    start: list[Any] | None = None,
) -> Pruned:
    """Train, prune by `run.train.prune`, train on and quantize; checkpoints in `folder`, measurements in `tables`.

    `held`: the budgets that the search kept, which the pruned network keeps too.
    While channels go, operators that the table lacks are interpolated in it. A network that meets the limits so
    is accepted by a table that has all its operators: an emulated board measures them, a real one estimates.
    Raises as `prune_and_train` and `obtain` do.
    """

    from pipeline.train.prune import prune_and_train

    def confirm(graph: OpGraph, parameters: int) -> Cost:
        ops = [node.op for node in graph.nodes]
        whole = obtain(run.board, ops, folder=tables, reporter=reporter)
        return CostModel(run.board, whole, run.vetoes, cost.sound).evaluate(graph, parameters)

    folder.mkdir(parents=True, exist_ok=True)
    with training_bar(reporter) as on_step:
        pruned = prune_and_train(
            architecture, data, run.train, cost.evaluate, confirm=confirm, cost_key=cost.lut.key, held=held,
            seed=run.seed, folder=folder, on_step=on_step, start=start,
        )  # fmt: skip
    outside = cost.lut.missing(sorted({node.op for node in pruned.result.network.graph.nodes}))
    how = "measured" if run.board.emulator is not None else "estimated"
    pruned.record["table"] = {"outside": len(outside), "how": how, "operators": [op.key for op in outside]}
    before, after = pruned.record["before"], pruned.record["after"]
    reporter.say(
        f"  pruned: {before['latency_ms']:.2f} to {after['latency_ms']:.2f} ms, "
        f"{before['parameters']:,.0f} to {after['parameters']:,.0f} parameters, float accuracy on the validation "
        f"split {100 * before['val_accuracy']:.2f} to {100 * after['val_accuracy']:.2f} %"
    )
    return pruned
