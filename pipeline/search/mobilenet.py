"""A fixed family: MobileNetV2's proportions at every width multiplier and depth, the best that the budgets allow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise, product

from pipeline.errors import ConfigError
from pipeline.search.candidates import ExactPath, Judge
from pipeline.search.methods import Task, register
from pipeline.search.result import SearchResult
from pipeline.search.selection import explain_failure
from pipeline.search.standalone import Standalone
from pipeline.space.architecture import parameters
from pipeline.space.blocks import EXPANSION

# Output channels of its seven stages (Sandler et al. 2018, table 2).
STAGES = (16, 24, 32, 64, 96, 160, 320)
# The first block of that table expands nothing (t = 1). This one has its shape, but a ReLU6 at its end.
UNEXPANDED = "dw3"


@register("mobilenetv2")
def mobilenetv2(task: Task) -> SearchResult:
    """Trains the largest feasible members from scratch, as many as random search may; the best one wins."""
    runs = Standalone(task)
    judge, members = runs.judge, family(runs.judge)
    if runs.impossible:
        return runs.result(runs.impossible)
    fit = largest(judge, members, runs.wanted)
    if not fit:
        nearest = min(members, key=judge.violation)
        return runs.result(f"MobileNetV2 family: {explain_failure(judge, nearest)}")
    runs.accuracies(fit)
    return runs.result()


def largest(judge: Judge, members: Sequence[ExactPath], wanted: int) -> list[ExactPath]:
    """Up to `wanted` feasible members: of each expansion and depth the widest, then what is next; large ones first.

    Size is parameters times multiply-accumulates. Where depth varies, neither alone will do: at a latency limit all
    have about as many multiply-accumulates, also a wide one of a single block, and at a limit of parameters about as
    many of these; then the other figure tells them apart.
    """

    def size(path: ExactPath) -> tuple[int, ExactPath]:
        return parameters(judge.architecture(path)) * judge.macs(path), path

    fit: dict[tuple[int, ...], ExactPath] = {}  # by operators, which tell expansion and depth
    narrower: list[ExactPath] = []
    for path in sorted(members, key=size, reverse=True):
        shape = tuple(op for op, _ in path)
        if shape in fit:
            narrower.append(path)
        elif len(fit) < wanted and judge.feasible(path):
            fit[shape] = path
    rest = islice(filter(judge.feasible, narrower), wanted - len(fit))
    return [*fit.values(), *rest]


def family(judge: Judge) -> list[ExactPath]:
    """Every distinct member that the space can express.

    Four figures give one: the expansion, whether the first block has it too or none (where the space has
    `UNEXPANDED`), the width multiplier and the depth (where the space has skips). Raises ConfigError for a space
    without inverted residuals.
    """
    space = judge.tables.space
    ops = [i for i, op in enumerate(space.ops) if op in EXPANSION]
    if not ops:
        raise ConfigError(
            "the search space has no inverted residuals, of which the MobileNetV2 family consists",
            hint=f"add one of {', '.join(EXPANSION)} to space.ops or choose another search.method",
        )
    unexpanded = [space.ops.index(UNEXPANDED)] if UNEXPANDED in space.ops else []
    every = tuple(range(len(space.strides)))
    out: dict[ExactPath, None] = {}
    for kept in depths(space.strides) if "skip" in space.ops else [every]:
        rest = {block: (space.ops.index("skip"), 0) for block in every if block not in kept}
        for op, widths in product(ops, widenings(len(kept), space.channels)):
            for first in (op, *unexpanded):
                chosen = zip((first, *[op] * (len(kept) - 1)), widths, strict=True)
                path = rest | dict(zip(kept, chosen, strict=True))
                out[tuple(path[block] for block in every)] = None
    return list(out)


def depths(strides: Sequence[int]) -> list[tuple[int, ...]]:
    """The blocks that stay, for every depth from the whole space's down to a single block.

    A stage begins with the first block and with every stride of 2. The depth multiplier keeps that part of each stage,
    rounded up, so later repeats go first. From one block a stage on whole stages go, early ones first: they have the
    largest tensors and the fewest weights. What goes becomes a skip, a pooling where its stride is 2, so the
    resolutions stay.
    """
    starts = [i for i, stride in enumerate(strides) if i == 0 or stride == 2]
    lengths = [end - start for start, end in pairwise([*starts, len(strides)])]
    # Multipliers at which some stage loses a block, as exact fractions part / whole.
    multipliers = {(part, whole) for whole in lengths for part in range(1, whole + 1)}
    found = {
        tuple(
            start + i
            for start, length in zip(starts, lengths, strict=True)
            for i in range(-(-part * length // whole))
        )
        for part, whole in multipliers
    }
    found |= {tuple(starts[dropped:]) for dropped in range(len(starts))}
    return sorted(found, key=len, reverse=True)


def widenings(blocks: int, channels: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of widths, as indices of `channels` (increasing), that a width multiplier gives `blocks`.

    Each is the nearest one to multiplier times the width of the stage that lies as deep in MobileNetV2.
    """
    stages = [STAGES[round(i * (len(STAGES) - 1) / max(1, blocks - 1))] for i in range(blocks)]
    # A width changes where its stage's passes the middle between two channels.
    middles = [(low + high) / 2 for low, high in pairwise(channels)]
    steps = sorted({middle / stage for middle in middles for stage in stages})
    between = [(low + high) / 2 for low, high in pairwise([0.0, *steps])] + [2 * (steps or [1.0])[-1]]
    return [tuple(sum(m * stage > middle for middle in middles) for stage in stages) for m in between]
