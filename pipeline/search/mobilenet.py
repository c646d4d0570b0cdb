"""A fixed family: MobileNetV2's proportions at many width multipliers, the best that the budgets allow."""

from __future__ import annotations

import numpy as np

from pipeline.errors import ConfigError
from pipeline.search.candidates import ExactPath, Judge
from pipeline.search.methods import Task, register
from pipeline.search.result import SearchResult
from pipeline.search.selection import explain_failure
from pipeline.search.standalone import Standalone
from pipeline.space.blocks import EXPANSION

# Output channels of its seven stages (Sandler et al. 2018, table 2).
STAGES = (16, 24, 32, 64, 96, 160, 320)
_MULTIPLIERS = np.geomspace(0.03, 4.0, 57)


@register("mobilenetv2")
def mobilenetv2(task: Task) -> SearchResult:
    """Trains the largest feasible members from scratch, as many as random search may; the best one wins."""
    runs = Standalone(task)
    members = family(runs.judge)
    if runs.impossible:
        return runs.result(runs.impossible)
    fit = [path for path in members if runs.judge.feasible(path)]
    if not fit:
        nearest = min(members, key=runs.judge.violation)
        return runs.result(f"MobileNetV2 family: {explain_failure(runs.judge, nearest)}")
    fit.sort(key=lambda path: (runs.judge.exact(path).parameters, path), reverse=True)
    runs.accuracies(fit[: runs.wanted])
    return runs.result()


def family(judge: Judge) -> list[ExactPath]:
    """Every distinct member that the space can express: one expansion throughout, widths in proportion.

    Widths are the space's nearest ones to multiplier times the stage's. Raises ConfigError for a space
    without inverted residuals.
    """
    space = judge.tables.space
    ops = [i for i, op in enumerate(space.ops) if op in EXPANSION]
    if not ops:
        raise ConfigError(
            "the search space has no inverted residuals, of which the MobileNetV2 family consists",
            hint=f"add one of {', '.join(EXPANSION)} to space.ops or choose another search.method",
        )
    blocks = len(space.strides)
    stages = [STAGES[round(i * (len(STAGES) - 1) / max(1, blocks - 1))] for i in range(blocks)]
    channels = np.array(space.channels)
    out: dict[ExactPath, None] = {}
    for op in ops:
        for multiplier in _MULTIPLIERS:
            widths = [int(np.abs(channels - multiplier * stage).argmin()) for stage in stages]
            out[tuple((op, width) for width in widths)] = None
    return list(out)
