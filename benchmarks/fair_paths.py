"""Freely drawn paths for supernet_ranking.py, in rounds in which every operator of a block is trained equally often.

Strict fairness after "FairNAS" (Chu et al. 2021): in a round each block has each of its operators exactly once and a
skip in a fixed number of paths. Sizes are spread besides, since independent choices make networks of middling size
only: a path that is narrow in one block tends to be so in all, and its skips are more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.search.candidates import ExactPath, Judge
from pipeline.space.search_space import SearchSpace

# Skips of a block in a round, for each of its other operators.
_SKIPS = 0.5
# Standard deviation of what the blocks of a path have in common, that of a block's own part being 1.
_COMMON = 1.5


def round_length(space: SearchSpace) -> int:
    """Paths of a round: one for each operator of a block, and those that skip it."""
    others = sum(op != "skip" for op in space.ops)
    return others + ("skip" in space.ops) * max(1, round(_SKIPS * others))


def fair_round(space: SearchSpace, rng: np.random.Generator) -> list[list[tuple[int, int]]]:
    """`round_length` paths in random order. Widths are equally spaced ranks among those that do not skip the block,
    so all are equally probable."""
    others = [i for i, op in enumerate(space.ops) if op != "skip"]
    skip = [i for i, op in enumerate(space.ops) if op == "skip"]
    count = round_length(space)
    size = _COMMON * rng.normal(size=count)
    paths: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for _ in space.strides:
        small_first, narrow_first = (np.argsort(size + rng.normal(size=count)).tolist() for _ in range(2))
        skipping = small_first[: count - len(others)]
        ops, offset, place = rng.permutation(others), rng.random(), 0
        for j in narrow_first:
            if j in skipping:
                paths[j].append((skip[0], 0))
            else:
                width = int((place + offset) * len(space.channels) / len(others))
                paths[j].append((int(ops[place]), width))
                place += 1
    return paths


def fair_path(judge: Judge, rng: Callable[[int], np.random.Generator], step: int, slack: float) -> ExactPath:
    """The path of weight step `step`; `rng(n)` makes the generator of round n.

    Where it exceeds the budgets times `slack`, all its blocks become narrower, one place after the other, until it
    does not or is as narrow as can be: operators stay, so the round stays fair.
    """
    space = judge.tables.space
    number, place = divmod(step, round_length(space))
    path = fair_round(space, rng(number))[place]
    for fewer in range(len(space.channels)):
        found = judge.canonical([(op, max(0, width - fewer)) for op, width in path])
        if judge.roughly_within(found, slack):
            break
    return found
