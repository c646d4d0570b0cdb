"""The hypernetwork: its conditions, its gradients, its family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.search import search
from pipeline.search.candidates import Judge
from pipeline.search.conditions import Condition, Ranges, draw_complexity, leaning
from pipeline.search.costs import build_tables
from pipeline.search.hyperfamily import conditions, spread, sweep
from pipeline.search.hyperloss import excess_over, unused_latency
from pipeline.search.hypernetwork import Conditioned, HyperNetwork
from pipeline.search.hypersearch import HyperSearch
from pipeline.search.hypervolume import family
from pipeline.search.methods import Task
from pipeline.search.ranking import spearman
from pipeline.search.relaxation import Expected
from pipeline.search.targets import board_features, one_board
from pipeline.space import Budgets

torch.set_num_threads(1)  # other threads only get in the way of networks this small
CONFIG = replace(TINY, method="hypernetwork")
BUDGETS = Budgets(latency_ms=3.0, parameters=3000)
TABLES = build_tables(SMALL, MacCost())


FEATURES = board_features(TABLES, 168e6)


def conditioned(hidden: int = 8) -> Conditioned:
    return Conditioned([TABLES], [ranges()], [FEATURES], hidden=hidden, seed=0)


def ranges(budgets: Budgets = BUDGETS) -> Ranges:
    return Ranges.of(Judge(TABLES, MacCost(), budgets), seed=0)


def test_ranges_are_inverted_and_end_at_the_budgets():
    both = ranges()
    assert both.high[0] == 3.0 and all(low < high for low, high in zip(both.low, both.high, strict=True))
    for shares in [(0.0, 0.5, 1.0), (1.0, 0.25, 0.75)]:
        assert both.normalize(both.at(shares)) == pytest.approx(shares, abs=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = both.draw(rng)
        assert drawn.parameters == 3000 and both.low[0] <= drawn.latency_ms <= 3.0 + 1e-9


def test_the_logits_depend_on_complexity_and_budgets_once_trained():
    relaxation = conditioned()
    assert relaxation.entropy(1.0) == pytest.approx(1.0)
    torch.nn.init.normal_(relaxation.hyper.hidden[-1].weight)
    ops, seen = len(SMALL.ops), []
    for corner, share in [(0, 1.0), (1, 1.0), (0, 0.0)]:
        complexity = tuple(float(i == corner) for i in range(ops))
        relaxation.ask(Condition(complexity, ranges().at((share, 1.0, 1.0))))
        seen.append(relaxation.ops.detach().clone())
    assert not torch.allclose(seen[0], seen[1]) and not torch.allclose(seen[0], seen[2])


def test_gumbel_softmax_is_smooth_when_hot_and_its_hard_draws_ignore_the_temperature():
    relaxation = conditioned()
    rng = np.random.default_rng(0)
    hot, cold = (relaxation.gamma(t, rng)[0].max(-1).values.mean().item() for t in (5.0, 0.05))
    assert hot < 0.5 < cold
    paths = [relaxation.sample(t, np.random.default_rng(3))[0] for t in (1.0, 0.2)]
    assert paths[0] == paths[1]


def test_latency_by_operator_adds_up():
    relaxation = conditioned()
    soft = relaxation.probabilities(1.0)
    path = Judge(TABLES, MacCost(), Budgets()).path(SMALL.build([("ir2", 8), ("skip", 0), ("dw3", 16)]))
    hard = torch.zeros_like(soft[0]), torch.zeros_like(soft[1])
    for block, (op, width) in enumerate(path):
        hard[0][block, op] = hard[1][block, width] = 1.0
    parts = relaxation.latency_by_operator(*hard)
    outside = TABLES.latency_fixed + TABLES.latency_head[SMALL.widths.index(16)]
    assert parts.sum().item() + outside == pytest.approx(TABLES.path_latency_ms(path), rel=1e-5)
    assert {SMALL.ops[int(i)] for i in parts.nonzero()} == {"ir2", "skip", "dw3"}  # a skip of stride 2 pools


def test_a_larger_complexity_component_lowers_its_operators_share():
    """With the default weights, over random points of the simplex, for every operator of the space."""
    config = replace(CONFIG, warmup_steps=0, steps=150, batch_size=4, validation_batch_size=8)
    task = Task.prepare(SMALL, DATA, one_board(MacCost(), Budgets()), config, 0, None, None)
    trained = HyperSearch(task)
    trained._train()
    rng, ops = np.random.default_rng(1), len(SMALL.ops)
    budgets, asked, shares = trained.boards[0].ranges.at((1.0, 1.0, 1.0)), [], []
    with torch.no_grad():
        for _ in range(200):
            asked.append(draw_complexity(ops, rng))
            trained.relaxation.ask(Condition(asked[-1], budgets))
            shares.append(trained.relaxation.shares().numpy())
    found = [spearman([s[op] for s in asked], [float(share[op]) for share in shares]) for op in range(ops)]
    assert max(found) < 0 and np.mean(found) < -0.6, found


def test_one_run_gives_a_family_within_the_budgets():
    config = replace(CONFIG, candidates=24, semifinalists=6)
    result = search(SMALL, DATA, MacCost(), BUDGETS, config, seed=1)
    trained = [c for c in result.candidates if c.proxy_accuracy is not None]
    assert len(trained) == 6 and len({c.proxy_steps for c in trained}) == 1
    assert all(not BUDGETS.violations(c.cost) for c in result.candidates)
    latencies = [c.cost.latency_ms for c in trained]
    assert max(latencies) > 1.5 * min(latencies)
    members = family(result.candidates)
    assert [c.cost.latency_ms for c in members] == sorted(c.cost.latency_ms for c in members)
    assert result.history[-1]["temperature"] == pytest.approx(0.2)
    middle = (result.history[2]["temperature"] - result.history[3]["temperature"]) * 5
    assert middle == pytest.approx(0.8)  # linear


def test_a_sweep_that_meets_the_board_but_no_condition_has_members(monkeypatch):
    """They were taken for the nearest miss, and what they miss was asked for: there is nothing."""
    task = Task.prepare(SMALL, DATA, one_board(MacCost(), BUDGETS), CONFIG, 0, None, None)
    hyper = HyperSearch(task)
    board = hyper.boards[0]
    fits = sweep(hyper.relaxation, board, conditions(board, 0, 1), 1, np.random.default_rng(0))[0][0]
    monkeypatch.setattr(type(hyper.relaxation), "repaired", lambda self, judge, rng: fits)
    impossible = [Condition(leaning(len(SMALL.ops), None), replace(BUDGETS, latency_ms=1e-6))]
    found, _ = sweep(hyper.relaxation, board, impossible, 3, np.random.default_rng(0))
    assert found == [fits]


def test_the_sweep_keeps_to_each_condition():
    task = Task.prepare(SMALL, DATA, one_board(MacCost(), BUDGETS), CONFIG, 0, None, None)
    hyper = HyperSearch(task)
    board = hyper.boards[0]
    asked = conditions(board, 0, 8)
    latencies = [c.budgets.latency_ms for c in asked]
    assert latencies == sorted(latencies, reverse=True) and latencies[0] == BUDGETS.latency_ms
    assert all(sum(c.complexity) == pytest.approx(1.0) for c in asked)
    found, _ = sweep(hyper.relaxation, board, asked, 30, np.random.default_rng(0))
    assert all(board.judge.feasible(path) for path in found)
    assert len(spread(dict.fromkeys(found, 0.5), board.judge, 5)) == 5
    tight = [Condition(leaning(len(SMALL.ops), None), replace(BUDGETS, latency_ms=1.0))]
    found, _ = sweep(hyper.relaxation, board, tight, 10, np.random.default_rng(0))
    assert found and all(board.judge.exact(path).latency_ms <= 1.0 for path in found)


def test_excess_counts_only_above_and_unused_only_below_the_limit():
    def expected(latency: float) -> Expected:
        one = torch.tensor(1.0)
        return Expected(torch.tensor(latency), one, one, one)

    budgets = Budgets(latency_ms=2.0)
    assert excess_over(expected(1.0), budgets) == 0 and unused_latency(expected(4.0), budgets) == 0
    assert excess_over(expected(4.0), budgets).item() == pytest.approx(np.log(2) ** 2)
    assert unused_latency(expected(1.0), budgets).item() == pytest.approx(np.log(2) ** 2)


def test_the_network_gives_one_row_per_decision():
    network = HyperNetwork(5, [3, 2, 4], hidden=8, seed=0)
    assert [tuple(row.shape) for row in network(torch.ones(5))] == [(3,), (2,), (4,)]
    assert all(not row.any() for row in network(torch.ones(5)))
