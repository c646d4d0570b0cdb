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
from pipeline.search import Candidate, search, standalone
from pipeline.search.candidates import Judge
from pipeline.search.costs import build_tables
from pipeline.search.counting import distinct_networks
from pipeline.search.effort import affordable_trainings
from pipeline.search.evolution import mutate_one
from pipeline.search.hypervolume import family as pareto_family
from pipeline.search.hypervolume import front, hypervolume, interval
from pipeline.search.methods import Task
from pipeline.search.mobilenet import family
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
    together, train_path = threading.Barrier(count, timeout=60), standalone.train_path

    def meeting(*args, **more):
        together.wait()  # breaks where one waits for the other's end
        train_path(*args, **more)

    monkeypatch.setattr(standalone, "train_path", meeting)
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


def test_mobilenet_family_widens_and_keeps_one_expansion():
    space = SearchSpace.for_input((28, 28, 1), 10)
    judge = Judge(build_tables(space, MacCost()), MacCost(), Budgets())
    members = [judge.architecture(path) for path in family(judge)]
    assert len(members) > 30
    for member in members:
        assert len({b.op for b in member.blocks}) == 1 and member.blocks[0].op.startswith("ir")
        widths = [b.channels for b in member.blocks]
        assert widths == sorted(widths)
    assert {tuple(b.channels for b in m.blocks) for m in members} >= {(16,) * 7, (64,) * 7}


def test_mobilenet_without_room_or_blocks():
    config = replace(TINY, method="mobilenetv2")
    small = Judge(build_tables(SMALL, MacCost()), MacCost(), Budgets())
    least = min(small.exact(p).parameters for p in family(small))
    result = search(SMALL, DATA, MacCost(), Budgets(parameters=least - 1), config, seed=0)
    assert not result.feasible and "MobileNetV2 family" in result.reason and "parameters" in result.reason
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
