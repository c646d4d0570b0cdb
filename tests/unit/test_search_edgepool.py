"""What the edge stage looks at: within the new limits, grown into them, without losing what the cloud found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from search_standins import SMALL, MacCost

from pipeline.search.candidates import ExactPath, Judge, repair
from pipeline.search.costs import build_tables
from pipeline.search.edgepool import by_size, centre, distinct, gathered, repaired
from pipeline.search.relaxation import Relaxation
from pipeline.search.selection import Selection, first_round, starting_paths
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace

TABLES = build_tables(SMALL, MacCost())
EVEN = np.zeros((3, len(SMALL.ops))), np.zeros((3, len(SMALL.channels)))


def judge_of(budgets: Budgets) -> Judge:
    return Judge(TABLES, MacCost(), budgets)


def mending(judge: Judge) -> Callable[[ExactPath], ExactPath]:
    return lambda path: repair(judge, path, *EVEN)


def evenly(_: ExactPath) -> float:
    return 0.0


def path_of(*blocks: tuple[str, int]) -> ExactPath:
    return tuple((SMALL.ops.index(op), SMALL.channels.index(width) if width else 0) for op, width in blocks)


# The cloud's ranking: a narrow network first, a wide one after it.
NARROW = path_of(("dw3", 8), ("dw3", 8), ("skip", 0))
WIDE = path_of(("ir6", 16), ("ir6", 16), ("ir6", 16))


def pool_of(
    budgets: Budgets, wanted: int = 8, seed: int = 0
) -> tuple[Judge, list[ExactPath], list[ExactPath]]:
    judge, relaxation = judge_of(budgets), Relaxation(TABLES)
    mended, _ = repaired(judge, [NARROW, WIDE], mending(judge))
    ops, widths = (p.detach().numpy() for p in relaxation.probabilities(1.0))
    centre(relaxation, mended, ops, widths, 0.8)
    draw = partial(starting_paths, judge, relaxation, 1.0)
    pool, _ = gathered(judge, mended, draw, wanted, evenly, np.random.default_rng(seed))
    return judge, mended, pool


@pytest.mark.parametrize(
    "budgets",
    [Budgets(latency_ms=1.2), Budgets(latency_ms=0.7), Budgets(2.0, 4300), Budgets(1.5, None, 7600)],
)
def test_the_pool_meets_the_limits_and_uses_what_they_leave(budgets: Budgets) -> None:
    judge, mended, pool = pool_of(budgets)
    assert len(pool) == 8 and all(map(judge.feasible, pool))
    # the cloud's best, though it needs far less than the limits leave, and what it was grown to
    assert mended[0] in pool
    most = max(judge.macs(path) for path in mended)
    assert max(judge.macs(path) for path in pool) >= most
    # at least half of them have hardly any room left
    assert sum(spent(judge, path) > 0.8 for path in pool) >= len(pool) // 2


def spent(judge: Judge, path: ExactPath) -> float:
    """Of the limit that is used most."""
    cost, limits = judge.exact(path), judge.budgets
    names = ("latency_ms", "sram_bytes", "flash_bytes")
    return max(getattr(cost, name) / limit for name in names if (limit := getattr(limits, name)) is not None)


def test_a_small_candidate_is_grown_and_kept_as_it_is() -> None:
    judge, _, pool = pool_of(Budgets(latency_ms=1.2))
    assert judge.exact(NARROW).latency_ms < 0.5 * 1.2
    assert NARROW in pool
    assert max(judge.exact(path).latency_ms for path in pool) > 0.9 * 1.2


def test_of_one_place_the_grown_one_has_it() -> None:
    judge, mended, pool = pool_of(Budgets(latency_ms=1.2), wanted=1)
    assert len(pool) == 1 and judge.macs(pool[0]) > judge.macs(mended[0])


def test_the_pool_is_a_function_of_the_seed() -> None:
    assert pool_of(Budgets(latency_ms=1.0))[2] == pool_of(Budgets(latency_ms=1.0))[2]


def test_no_two_of_the_pool_are_the_same_network() -> None:
    judge, _, pool = pool_of(Budgets(latency_ms=0.5))
    graphs = [tuple(node.op for node in lower(judge.architecture(path)).nodes) for path in pool]
    assert len(set(graphs)) == len(graphs)


def test_where_a_skip_stands_makes_no_other_network() -> None:
    """In a space of strides 2, 1, 1 the last two blocks may change places; those before and after a stride may not."""
    judge, narrow, skip = judge_of(Budgets()), ("dw3", 8), ("skip", 0)
    before, after = path_of(narrow, skip, skip), path_of(skip, skip, narrow)
    assert distinct(judge, [before, after, before], evenly) == [before, after]
    space = SearchSpace((8, 8, 1), 4, 8, 1, (2, 1, 1), channels=(8, 16))
    even = Judge(build_tables(space, MacCost()), MacCost(), Budgets())
    first, second = path_of(skip, narrow, skip), path_of(skip, skip, narrow)
    assert distinct(even, [second, first], evenly) == [second]
    # the supernet knows the one that the cloud's distribution preferred
    assert distinct(even, [second, NARROW, first], lambda p: float(p == first)) == [first, NARROW]
    # gates of 8 channels squeeze to the same four
    both = [path_of((op, 8), ("skip", 0), ("skip", 0)) for op in ("se4", "se8")]
    assert distinct(judge, both, evenly) == both[:1]


def test_by_size_counts_work_and_weights_alike() -> None:
    judge = judge_of(Budgets())
    small, middle = path_of(*[("dw3", 8)] * 3), path_of(*[("dw5", 16)] * 3)
    assert by_size(judge, [small, WIDE, middle]) == [WIDE, middle, small]
    assert by_size(judge, []) == []


def test_contests_are_entered_by_size_and_by_shared_weights() -> None:
    judge, _, pool = pool_of(Budgets(latency_ms=1.2))
    selection = Selection(scored=dict.fromkeys(pool, 0.5))
    selection.scored[pool[-1]] = 0.9
    assert first_round(selection, pool, 2) == [pool[0], pool[-1]]
    assert judge.macs(pool[0]) > judge.macs(pool[-1])


def test_repairs_keep_the_clouds_order_and_report_the_nearest_miss() -> None:
    judge = judge_of(Budgets(latency_ms=1.2))
    mended, _ = repaired(judge, [WIDE, NARROW], mending(judge))
    assert mended[1] == NARROW and judge.feasible(mended[0]) and mended[0] != WIDE
    strict = judge_of(Budgets(latency_ms=0.01))
    none, nearest = repaired(strict, [WIDE, NARROW], mending(strict))
    assert none == [] and strict.violation(nearest) < strict.violation(NARROW)


def test_blocks_that_every_candidate_skips_keep_their_widths() -> None:
    relaxation = Relaxation(TABLES)
    ops, widths = (p.detach().numpy() for p in relaxation.probabilities(1.0))
    centre(relaxation, [NARROW], ops, widths, 0.8)
    new_ops, new_widths = (p.detach() for p in relaxation.probabilities(1.0))
    assert torch.allclose(new_widths[2], torch.from_numpy(widths[2]), atol=1e-5)
    assert new_ops[2, SMALL.ops.index("skip")] > 0.8 and new_widths[0, SMALL.channels.index(8)] > 0.8
