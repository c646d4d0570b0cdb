"""The paths of one weight step by the sandwich rule: a wide one, drawn ones, a narrow one.

After "Universally Slimmable Networks" and "BigNAS": the widest network learns the labels, the others its soft
outputs (`trainer.shared_step`). Here operators differ as well as widths and budgets bound what is searched, so the
ends are not two networks but as many as there are sequences of operators: each step takes those it drew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.search.candidates import ExactPath, Judge
from pipeline.search.relaxation import IndexPath


def widest(judge: Judge, path: IndexPath | ExactPath, slack: float, rng: np.random.Generator) -> ExactPath:
    """The operators of `path` in the greatest common width of all blocks that the budgets leave (times `slack`).

    A skip gives its place to another operator, each as likely. Where no width fits, it is the smallest.
    """
    space = judge.tables.space
    others = [i for i, op in enumerate(space.ops) if op != "skip"]
    ops = [others[int(rng.integers(len(others)))] if others and op not in others else op for op, _ in path]
    for width in reversed(range(len(space.channels))):
        found = judge.canonical([(op, width) for op in ops])
        if judge.roughly_within(list(found), slack):
            break
    return found


def narrowest(judge: Judge, path: IndexPath | ExactPath) -> ExactPath:
    """The operators of `path` in the least width."""
    return judge.canonical([(op, 0) for op, _ in path])


def sandwich(
    judge: Judge, drawn: Sequence[IndexPath | ExactPath], slack: float, rng: np.random.Generator
) -> list[IndexPath | ExactPath]:
    """The widest path of the first one's operators, those `drawn`, the narrowest of the last one's operators."""
    return [widest(judge, drawn[0], slack, rng), *drawn, narrowest(judge, drawn[-1])]
