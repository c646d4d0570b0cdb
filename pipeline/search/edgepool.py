"""Which architectures the edge stage looks at: the cloud's, repaired to the new limits and grown into what these leave.

What the cloud ranked highest is no longer the best where limits change: a repair stops as soon as everything fits, and
may leave much of a budget unused. Growing costs looks at tables only, no image.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from pipeline.search.candidates import ExactPath
from pipeline.search.costs import Floats
from pipeline.search.pathjudge import PathJudge
from pipeline.search.ranking import ranks
from pipeline.search.relaxation import Relaxation
from pipeline.space.architecture import lower
from pipeline.space.graph import Node

P = TypeVar("P", bound=Hashable)

_DECAY = 0.85  # weight of a candidate in the new distribution, relative to the one ranked before it
_POOL = 2  # samples and what they grow to, for each place


def repaired(judge: PathJudge, ranked: Sequence[P], mend: Callable[[P], P]) -> tuple[list[P], P]:
    """Those of `ranked` that meet the budgets once `mend` has repaired them, in their order; and the least infeasible
    path seen."""
    found: dict[P, None] = {}
    nearest = ranked[0]
    for path in ranked:
        mended = mend(path)
        if judge.feasible(mended):
            found[mended] = None
        elif judge.violation(mended) < judge.violation(nearest):
            nearest = mended
    return list(found), nearest


def weights_of(paths: Sequence[P]) -> list[tuple[float, P]]:
    """Each of `paths` (best first) with its weight in the new distribution."""
    return [(_DECAY**rank, path) for rank, path in enumerate(paths)]


def mixed(near: Floats, before: Floats, focus: float) -> Floats:
    """Chances of every row's choices: `focus` of them by `near` (weights), the rest as `before` says.

    A row to which `near` gives no weight stays as it was.
    """
    mass = near.sum(1, keepdims=True)
    middle = np.where(mass > 0, near / np.maximum(mass, 1e-12), before)
    chances: Floats = focus * middle + (1 - focus) * before
    return chances


def centre(
    relaxation: Relaxation, paths: Sequence[ExactPath], ops: Floats, widths: Floats, focus: float
) -> None:
    """Move `focus` of the probability to the choices of `paths` (best first); the rest stays as `ops` and `widths` say.

    The logits are of temperature 1.
    """
    near_ops, near_widths = np.zeros_like(ops), np.zeros_like(widths)
    names = relaxation.tables.space.ops
    for weight, path in weights_of(paths):
        for block, (op, width) in enumerate(path):
            near_ops[block, op] += weight
            if names[op] != "skip":
                near_widths[block, width] += weight
    with torch.no_grad():
        for parameter, near, before in (
            (relaxation.ops, near_ops, ops),
            (relaxation.widths, near_widths, widths),
        ):
            # A block that every candidate skips says nothing about its width.
            chances = mixed(near, before, focus)
            parameter.copy_(torch.from_numpy(np.log(np.maximum(chances, 1e-12))))


def gathered(
    judge: PathJudge,
    mended: Sequence[P],
    draw: Callable[[int, np.random.Generator], tuple[list[P], P]],
    wanted: int,
    likelihood: Callable[[P], float],
    rng: np.random.Generator,
) -> tuple[list[P], P]:
    """Up to `wanted` paths within the budgets, the largest first; and the least infeasible one that was drawn.

    Half of the places are for `mended`, what is left of the cloud's candidates (best first): each as grown into what
    the limits leave, then as it is. The others are for the largest of what `draw` gives (so many, within the budgets;
    and the least infeasible one), grown or not. Of paths to the same network the one stays that `likelihood` prefers.
    """
    half = (wanted + 1) // 2
    own = [other for path in mended[:half] for other in (judge.grown(path, rng), path)] + list(mended[half:])
    drawn, nearest = draw(_POOL * wanted // 2, rng)
    others = by_size(judge, [*(judge.grown(path, rng) for path in drawn), *drawn])
    own = distinct(judge, own, likelihood)
    return by_size(judge, distinct(judge, [*own[:half], *others, *own[half:]], likelihood)[:wanted]), nearest


def distinct(judge: PathJudge, paths: Sequence[P], likelihood: Callable[[P], float]) -> list[P]:
    """One path to each network, in the order of the first: where a skip changes nothing, several paths lead there.

    It is the likeliest of them: the supernet has trained the weights along that one most.
    """
    found: dict[tuple[Node, ...], P] = {}
    for path in paths:
        nodes = tuple(replace(node, name="") for node in lower(judge.architecture(path)).nodes)
        if nodes not in found or likelihood(path) > likelihood(found[nodes]):
            found[nodes] = path
    return list(found.values())


def by_size(judge: PathJudge, paths: Sequence[P]) -> list[P]:
    """Largest first, by the mean rank of multiply-accumulates and parameters.

    Of all looks that cost no image these say most of an architecture's place after a full training
    (benchmarks/results/rank_correlation.md): the first counts wide early blocks, the second wide late ones.
    """
    if not paths:
        return []
    macs = ranks([judge.macs(path) for path in paths])
    weights = ranks([judge.exact(path).parameters for path in paths])
    return [paths[i] for i in np.argsort(-(macs + weights), kind="stable")]
