"""Baselines, the size of the space and hypervolume."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.report.course import search_course
from pipeline.report.searched import search_section
from pipeline.search import Candidate, search, selection
from pipeline.search.candidates import Judge
from pipeline.search.costs import build_tables
from pipeline.search.counting import distinct_networks
from pipeline.search.effort import affordable_trainings
from pipeline.search.evolution import mutate_one
from pipeline.search.hypervolume import family as pareto_family
from pipeline.search.hypervolume import front, hypervolume, interval
from pipeline.search.methods import Task
from pipeline.search.mobilenet import STAGES, depths, family, largest, widenings
from pipeline.search.ranking import FEWEST
from pipeline.search.selection import Selection
from pipeline.search.standalone import Standalone
from pipeline.search.supernet import Supernet
from pipeline.search.targets import one_board
from pipeline.space import Budgets, Cost, lower
from pipeline.space.search_space import SearchSpace

BUDGETS = Budgets(latency_ms=3.0, parameters=3000)


@pytest.mark.parametrize("method", ["random", "evolution"])
def test_baselines_train_what_the_search_would_pay_for(method):
    steps: list[dict] = []
    config = replace(TINY, method=method)
    result = search(SMALL, DATA, MacCost(), BUDGETS, config, seed=0, on_step=steps.append)
    wanted = affordable_trainings(config, len(DATA.x_val))
    assert len(result.candidates) == wanted > 4
    assert steps[-1]["done"] == steps[-1]["total"] == wanted * config.proxy_steps
    assert {c.proxy_steps for c in result.candidates} == {config.proxy_steps}


@pytest.mark.parametrize("method", ["random", "evolution", "mobilenetv2"])
def test_the_course_is_the_best_so_far_against_what_it_cost(method):
    """Counted independently: images that enter a network, three times where gradients are taken."""
    seen: list[int] = []
    forward = Supernet.forward

    def counting(self, x, path, gates=None):
        seen.append(len(x) * (3 if torch.is_grad_enabled() and not torch.is_inference_mode_enabled() else 1))
        return forward(self, x, path, gates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supernet, "forward", counting)
        result = search(SMALL, DATA, MacCost(), BUDGETS, replace(TINY, method=method), seed=0)
    history = result.history
    assert len(history) == len(result.candidates) > 2
    assert history[-1]["passes"] == sum(seen)
    assert [row["step"] for row in history] == list(range(1, len(history) + 1))
    own = [row["own_accuracy"] for row in history]
    assert [row["best_accuracy"] for row in history] == [max(own[: n + 1]) for n in range(len(own))]
    assert sorted(own, reverse=True) == [c.proxy_accuracy for c in result.candidates]
    said = search_course(history, {})
    assert "accuracy on the validation split" in said and "images passed" in said


def test_the_family_trains_side_by_side(monkeypatch):
    """As many at once as there are workers, with the outcome of one after another."""
    config = replace(TINY, method="mobilenetv2", proxy_steps=1)
    alone = search(SMALL, DATA, MacCost(), Budgets(), config, seed=0)
    count = len(alone.candidates)
    together, train_path = threading.Barrier(count, timeout=60), selection.train_path

    def meeting(*args, **more):
        together.wait()  # breaks where one waits for the other's end
        train_path(*args, **more)

    monkeypatch.setattr(selection, "train_path", meeting)
    beside = search(SMALL, DATA, MacCost(), Budgets(), replace(config, workers=count), seed=0)
    assert count > 1 and beside.to_json() == alone.to_json()


@pytest.mark.parametrize("method", ["random", "evolution", "mobilenetv2"])
def test_without_a_supernet_there_is_no_shared_accuracy_to_agree_with(method):
    result = search(SMALL, DATA, MacCost(), Budgets(), replace(TINY, method=method), seed=0)
    assert len(result.candidates) >= FEWEST
    assert {c.shared_accuracy for c in result.candidates} == {None}
    own = [c.proxy_accuracy for c in result.candidates]
    assert own == sorted(own, reverse=True)
    ranks = search_section(result, seconds=1.0, space_size=1)["ranks"]
    assert {a["first"] for a in ranks} == {"parameters", "MACs"}


def test_trainings_that_an_earlier_version_kept_are_not_repeated(tmp_path):
    task = Task.prepare(SMALL, DATA, one_board(MacCost(), BUDGETS), TINY, 0, tmp_path / "search.pt", None)
    runs = Standalone(task)
    path = runs.judge.path(SMALL.build([("dw3", 8), ("skip", 0), ("ir4", 16)]))
    for field in ("scored", "proxied"):
        runs._checkpoint.save(Selection(**{field: {path: 0.125}}).state())
        assert Standalone(task).accuracy(path) == 0.125


def test_a_mutation_changes_one_block_and_reaches_every_choice():
    task = Task.prepare(SMALL, DATA, one_board(MacCost(), BUDGETS), TINY, 0, None, None)
    runs, rng = Standalone(task), np.random.default_rng(0)
    path = runs.judge.path(SMALL.build([("dw3", 8), ("skip", 0), ("ir4", 16)]))
    seen = [set(), set(), set()]
    for _ in range(1500):
        child = mutate_one(runs, path, rng)
        changed = [i for i in range(3) if child[i] != path[i]]
        assert len(changed) == 1
        seen[changed[0]].add(child[changed[0]])
    # dw3-8: the other width and the other operators; skip: every operator in both widths.
    assert [len(s) for s in seen] == [9, 16, 9]


def test_evolution_ends_where_the_space_is_exhausted():
    space = SearchSpace((8, 8, 1), 4, 8, 1, (1,), ("dw3", "dw5"), (8,))
    config = replace(TINY, method="evolution")
    result = search(space, DATA, MacCost(), Budgets(), config, seed=0)
    assert {c.architecture.blocks[0].op for c in result.candidates} == {"dw3", "dw5"}


@pytest.mark.parametrize("method", ["edgenas", "random", "evolution"])
def test_no_network_trains_twice(method: str):
    """8 choices, but a skip of stride 1 may stand anywhere: from nothing to three blocks, 4 networks."""
    space = SearchSpace((8, 8, 1), 4, 8, 1, (1, 1, 1), ("dw3", "skip"), (8,))
    config = replace(TINY, method=method, candidates=12, semifinalists=6, proxy_steps=10)
    assert affordable_trainings(config, len(DATA.x_val)) > 4
    result = search(space, DATA, MacCost(), Budgets(), config, seed=0)
    trained = [c for c in result.candidates if c.proxy_steps]
    depths = [sum(b.op != "skip" for b in c.architecture.blocks) for c in trained]
    assert sorted(depths) == [0, 1, 2, 3]


def described(space: SearchSpace) -> list[str]:
    judge = Judge(build_tables(space, MacCost()), MacCost(), Budgets())
    members = [judge.architecture(path) for path in family(judge)]
    assert all(space.contains(member) for member in members)
    return [" ".join(member.describe().split(" | ")[2:-1]) for member in members]


def test_mobilenet_keeps_one_expansion_but_in_its_first_block():
    members = [text.split() for text in described(SearchSpace.for_input((28, 28, 1), 10))]
    assert len(members) == len(set(map(tuple, members))) < 1000
    kinds = set()
    for member in members:
        first, *rest = [block.split("-")[0] for block in member if "skip" not in block]
        assert len(set(rest)) <= 1
        kinds.add((first, *rest[:1], 1 + len(rest)))
        widths = [int(block.split("-")[1].split("/")[0]) for block in member if "skip" not in block]
        assert widths == sorted(widths)
    expanded = {(first, op, n) for op in ("ir2", "ir4", "ir6") for first in (op, "dw3") for n in range(2, 8)}
    assert kinds == expanded | {(op, 1) for op in ("dw3", "ir2", "ir4", "ir6")}


def test_mobilenet_depths_by_hand():
    # Stages of two and five blocks; multipliers 1, 4/5, 3/5, 1/2, 2/5, 1/5, then one stage less.
    assert depths((2, 1, 2, 1, 1, 1, 1)) == [
        (0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4), (0, 2, 3, 4), (0, 2, 3), (0, 2), (2,),
    ]  # fmt: skip
    assert depths((2, 2, 1)) == [(0, 1, 2), (0, 1), (1,)]
    assert depths((1, 1)) == [(0, 1), (0,)]
    assert depths((1,)) == [(0,)]


def test_mobilenet_widths_by_hand():
    # Stages of 16, 64 and 320 channels pass 20 at the multipliers 1.25, 0.3125 and 0.0625, 28 at 1.75, 0.4375, 0.0875.
    narrow_to_wide = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 2), (0, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert widenings(3, (16, 24, 32)) == narrow_to_wide
    assert widenings(1, (8, 16)) == [(0,), (1,)]
    assert widenings(2, (8,)) == [(0, 0)]
    # At 0.5 these ask for 8, 32 and 160 channels, nearest to 4, 36 and 170.
    assert (0, 1, 3) in widenings(3, (4, 36, 100, 170))


@pytest.mark.parametrize("channels", [(16, 24, 32, 48, 64), (8, 40, 200), (12,)])
@pytest.mark.parametrize("blocks", [3, 7, 9])
def test_mobilenet_has_every_width_multiplier(blocks, channels):
    """Against the nearest channels at a great many multipliers."""
    stages = {3: (16, 64, 320), 7: STAGES, 9: (16, 24, 32, 32, 64, 96, 96, 160, 320)}[blocks]
    ratios = np.geomspace(0.001, 20, 20_000)
    nearest = np.abs(np.multiply.outer(ratios, stages)[..., None] - np.array(channels)).argmin(-1)
    assert {tuple(map(int, row)) for row in nearest} == set(widenings(blocks, channels))


def test_mobilenet_members_by_hand():
    shallow = ["skip dw3-8/2 skip", "skip ir2-8/2 skip"]
    deep = ["ir2-8 ir2-8/2 skip", "dw3-8 ir2-8/2 skip", "ir2-8 ir2-8/2 ir2-8", "dw3-8 ir2-8/2 ir2-8"]
    space = replace(SMALL, ops=("dw3", "ir2", "se4", "skip"), channels=(8,))
    assert sorted(described(space)) == sorted(deep + shallow)
    # Without skips every block stays, without depthwise-separable blocks each expands.
    assert sorted(described(replace(space, ops=("dw3", "ir2")))) == sorted(deep[2:])
    assert sorted(described(replace(space, ops=("ir2", "skip")))) == sorted([deep[0], deep[2], shallow[1]])


def test_mobilenet_meets_what_only_a_shallow_member_does():
    """Parameters: stem 80, head 36; on 8 channels dw3-8 80 + 72, ir2-8 144 + 160 + 136."""
    config = replace(TINY, method="mobilenetv2")
    result = search(SMALL, DATA, MacCost(), Budgets(parameters=300), config, seed=0)
    assert result.feasible and len(result.candidates) == 1
    assert result.architecture == SMALL.build([("skip", 0), ("dw3", 8), ("skip", 0)])
    assert result.cost.parameters == 80 + 36 + 80 + 72
    # One less: only the space has something, three skips, and the reason is the family's.
    result = search(SMALL, DATA, MacCost(), Budgets(parameters=267), config, seed=0)
    assert not result.feasible
    assert result.reason.startswith("MobileNetV2 family: ") and "parameters 268 of 267" in result.reason


def test_mobilenet_takes_the_widest_of_each_shape_first():
    space = replace(SMALL, ops=("ir2", "skip"))
    judge = Judge(build_tables(space, MacCost()), MacCost(), Budgets())
    told = [
        judge.architecture(path).describe().split(" | ")[2:-1] for path in largest(judge, family(judge), 5)
    ]
    # Three shapes; the next widest are narrower in the first of their blocks.
    assert [" ".join(blocks) for blocks in told] == [
        "ir2-16 ir2-16/2 ir2-16", "ir2-16 ir2-16/2 skip", "skip ir2-16/2 skip",
        "ir2-8 ir2-16/2 ir2-16", "ir2-8 ir2-8/2 ir2-16",
    ]  # fmt: skip
    # Stem 80, ir2-16 on 8 channels 144 + 160 + 272, head 68: no two blocks have as few but ir2-8 twice, with 996.
    one = Judge(judge.tables, MacCost(), Budgets(parameters=80 + 144 + 160 + 272 + 68))
    widest, narrow = largest(one, family(one), 5)
    assert one.architecture(widest) == space.build([("skip", 0), ("ir2", 16), ("skip", 0)])
    assert one.architecture(narrow) == space.build([("skip", 0), ("ir2", 8), ("skip", 0)])


def test_mobilenet_without_skips():
    config, space = replace(TINY, method="mobilenetv2"), replace(SMALL, ops=("ir2", "se4"))
    least = 80 + 36 + 3 * (144 + 160 + 136)
    result = search(space, DATA, MacCost(), Budgets(parameters=least), config, seed=0)
    assert result.architecture == space.build([("ir2", 8)] * 3)
    result = search(space, DATA, MacCost(), Budgets(parameters=least - 1), config, seed=0)
    assert not result.feasible
    assert result.reason.startswith("MobileNetV2 family: ") and "parameters 1,436 of 1,435" in result.reason


def test_mobilenet_needs_inverted_residuals():
    config = replace(TINY, method="mobilenetv2")
    with pytest.raises(ConfigError, match="inverted residuals"):
        search(replace(SMALL, ops=("dw3", "skip")), DATA, MacCost(), Budgets(), config, seed=0)


# -- size of the space ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strides", [(2, 1, 2), (1, 1, 1), (2, 2), (1, 2, 1), (1,)])
@pytest.mark.parametrize("ops", [("dw3", "se4", "se8", "skip"), ("ir2", "dw5", "skip"), ("dw3", "ir2")])
def test_distinct_networks_match_enumeration(strides, ops):
    space = SearchSpace((8, 8, 1), 4, 8, 1, strides, ops, (8, 16))
    options, found = space.options, set()
    for index in np.ndindex(*(len(options),) * len(strides)):
        found.add(tuple(n.op for n in lower(space.build([options[i] for i in index])).nodes))
    assert distinct_networks(space) == len(found) <= space.count()


def test_size_of_the_default_space():
    space = SearchSpace.for_input((28, 28, 1), 10)
    assert len(space.options) == 41
    assert space.count() == 41**7 == 194_754_273_881
    assert distinct_networks(space) == 40**3 * sum(39**j for j in range(5)) == 151_956_544_000
    assert f"{44**7:.1e}" == "3.2e+11"  # the paper's figure


# -- hypervolume ---------------------------------------------------------------------------------------------


def test_hypervolume_by_hand():
    points = [(1.0, 0.5), (2.0, 0.8), (3.0, 0.7), (2.0, 0.6)]
    assert front(points) == [(1.0, 0.5), (2.0, 0.8)]
    assert hypervolume(points, (4.0, 0.0)) == pytest.approx(0.5 + 2 * 0.8)
    assert hypervolume(points, (1.5, 0.4)) == pytest.approx(0.5 * 0.1)
    assert hypervolume([], (1.0, 0.0)) == hypervolume([(2.0, 0.9)], (1.0, 0.0)) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=8))
def test_hypervolume_counts_cells(raw):
    points = [(float(x), float(y)) for x, y in raw]
    cells = sum(any(x <= i and y > j for x, y in raw) for i in range(10) for j in range(2, 12))
    assert hypervolume(points, (10.0, 2.0)) == pytest.approx(cells)


def test_intervals():
    assert interval([0.5]) == interval([0.5, 0.5])
    wide = interval([0.0, 1.0, 0.0, 1.0])
    assert wide.low < wide.mean == 0.5 < wide.high
    with pytest.raises(ValueError):
        interval([])


def test_families_compare_like_with_like():
    architecture = SMALL.build([("dw3", 8)] * 3)

    def one(latency: float, own: float | None, steps: int) -> Candidate:
        return Candidate(architecture, Cost(latency, 1, 1, 1), 0.9, own, steps)

    pool = [one(1, 0.5, 10), one(2, 0.6, 10), one(3, 0.55, 10), one(0.5, None, 0), one(1, 0.9, 50)]
    assert [c.cost.latency_ms for c in pareto_family(pool)] == [1, 2]
    assert pareto_family([]) == []
