"""Rounds of paths in which every operator of a block is trained equally often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from search_standins import MacCost

from pipeline.search.candidates import Judge
from pipeline.search.costs import build_tables
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace

SCRIPT = run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "fair_paths.py"))
fair_path, fair_round, round_length = (SCRIPT[name] for name in ("fair_path", "fair_round", "round_length"))
SPACE = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1), channels=(8, 16, 24))
SKIP = SPACE.ops.index("skip")


def rounds(seed: int) -> Callable[[int], np.random.Generator]:
    return lambda number: np.random.default_rng([seed, number])


def judge(budgets: Budgets) -> Judge:
    return Judge(build_tables(SPACE, MacCost()), MacCost(), budgets)


@pytest.mark.parametrize("ops", [SPACE.ops, ("dw3", "ir2", "skip"), ("dw3", "ir6"), ("dw3",)])
def test_a_round_has_every_operator_of_every_block_once_and_all_widths_in_the_long_run(
    ops: tuple[str, ...],
) -> None:
    space = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1), ops=ops, channels=(8, 16, 24))
    others = [i for i, op in enumerate(ops) if op != "skip"]
    widths: Counter[tuple[int, int]] = Counter()
    found = [fair_round(space, np.random.default_rng(seed)) for seed in range(300)]
    for paths in found:
        assert len(paths) == round_length(space)
        for block in range(3):
            drawn = Counter(path[block][0] for path in paths)
            assert all(drawn[op] == 1 for op in others)
            widths.update((block, width) for op, width in (path[block] for path in paths) if op in others)
    for seen in widths.values():
        assert seen == pytest.approx(300 * len(others) / 3, rel=0.25)
    assert found[0] == fair_round(space, np.random.default_rng(0)) != found[1]


def test_sizes_are_spread_further_than_independent_choices_spread_them() -> None:
    free = judge(Budgets())
    fair = [fair_path(free, rounds(0), step, 1.0) for step in range(600)]
    rng = np.random.default_rng(0)
    independent = [free.path(SPACE.random(rng)) for _ in range(600)]
    spread = [np.std(np.log([free.macs(p) for p in paths])) for paths in (fair, independent)]
    assert spread[0] > 1.2 * spread[1]


def test_budgets_make_a_path_narrower_and_leave_its_operators() -> None:
    free, tight = judge(Budgets()), judge(Budgets(parameters=4_000))
    narrowed = 0
    for step in range(120):
        wide, fits = fair_path(free, rounds(3), step, 1.0), fair_path(tight, rounds(3), step, 1.0)
        assert [op for op, _ in fits] == [op for op, _ in wide]
        assert tight.roughly_within(list(fits), 1.0) or all(width == 0 for _, width in fits)
        narrowed += fits != wide
        assert tight.roughly_within(list(wide), 1.0) == (fits == wide) or fits == wide
    assert 0 < narrowed < 120
