"""The search: its costs against exact sums, its schedule, and that budgets always hold."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.errors import ConfigError, DataError
from pipeline.search import SearchConfig, SearchResult, names, search
from pipeline.search.candidates import Judge, cheapest_path, cheapest_paths, repair
from pipeline.search.costs import build_tables, working_set_bytes
from pipeline.search.penalty import Penalty
from pipeline.search.relaxation import Expected, Relaxation
from pipeline.search.supernet import Supernet, max_pool
from pipeline.space import Budgets, lower, parameters
from pipeline.space.search_space import SearchSpace


def one_hot(space: SearchSpace, path) -> tuple[torch.Tensor, torch.Tensor]:
    ops, widths = torch.zeros(len(path), len(space.ops)), torch.zeros(len(path), len(space.channels))
    for block, (op, width) in enumerate(path):
        ops[block, op] = widths[block, width] = 1.0
    return ops, widths


def architecture_of(space: SearchSpace, path):
    return space.build([(space.ops[o], space.channels[w]) for o, w in path])


# -- costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [SMALL, SearchSpace((28, 28, 1), 10), replace(SMALL, stem_channels=12)])
def test_expected_costs_of_one_hot_choices_are_the_exact_sums(space):
    cost = MacCost()
    tables = build_tables(space, cost)
    relaxation = Relaxation(tables)
    judge = Judge(tables, cost, Budgets())
    rng = np.random.default_rng(5)
    for _ in range(40):
        path = judge.path(space.random(rng))
        architecture = architecture_of(space, path)
        graph = lower(architecture)
        exact = cost.evaluate(graph, parameters(architecture))
        expected = relaxation.expected_from(*one_hot(space, path))
        assert expected.latency_ms.item() == pytest.approx(exact.latency_ms, rel=1e-5)
        assert expected.parameters.item() == pytest.approx(exact.parameters)
        assert tables.path_latency_ms(path) == pytest.approx(exact.latency_ms)
        assert tables.path_parameters(path) == exact.parameters
        # The smooth maximum lies below the true one, never by much.
        assert 0.75 * exact.sram_bytes <= expected.sram_bytes.item() <= exact.sram_bytes * 1.0001
        assert tables.path_working_set(path) + tables.sram_offset == exact.sram_bytes


def test_expected_latency_is_the_mean_over_every_architecture():
    space = SearchSpace((8, 8, 1), 4, 12, 1, (1, 2), ("dw3", "ir2", "skip"), (8, 16))
    tables = build_tables(space, MacCost())
    relaxation = Relaxation(tables)
    with torch.no_grad():
        relaxation.ops.copy_(torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))
        relaxation.widths.copy_(torch.randn(2, 2, generator=torch.Generator().manual_seed(2)))
    ops, widths = (p.detach().numpy() for p in relaxation.probabilities(0.7))
    mean = 0.0
    for path in itertools.product(itertools.product(range(3), range(2)), repeat=2):
        chance = np.prod([ops[b, o] * widths[b, w] for b, (o, w) in enumerate(path)])
        architecture = architecture_of(space, path)
        mean += chance * MacCost().evaluate(lower(architecture), 0).latency_ms
    assert relaxation.expected(0.7).latency_ms.item() == pytest.approx(mean, rel=1e-5)


def test_latency_gradient_points_to_cheaper_choices():
    relaxation = Relaxation(build_tables(SMALL, MacCost()))
    relaxation.expected(1.0).latency_ms.backward()
    gradient = relaxation.ops.grad[0]
    assert (
        gradient[SMALL.ops.index("ir6")]
        > gradient[SMALL.ops.index("dw3")]
        > gradient[SMALL.ops.index("skip")]
    )
    assert (relaxation.widths.grad[:, 1] > relaxation.widths.grad[:, 0]).all()


def test_working_set_by_hand():
    inverted = SMALL.block_nodes(0, 8, 8, 8, "ir2", 8)
    # expand, depthwise and the addition all need the block's input: 512 + 1024 + 1024 at the depthwise.
    assert working_set_bytes(inverted, 512) == 512 + 1024 + 1024
    # Without an addition the input may go after the expansion.
    assert working_set_bytes(SMALL.block_nodes(0, 8, 8, 8, "ir2", 16), 512) == 1024 + 1024
    assert working_set_bytes((), 512) == 512


def test_samples_follow_the_distribution_and_its_log_probability():
    relaxation = Relaxation(build_tables(SMALL, MacCost()))
    with torch.no_grad():
        relaxation.ops[0, 0] = 2.0
    rng = np.random.default_rng(0)
    draws = [relaxation.sample(1.0, rng)[0] for _ in range(4000)]
    share = np.mean([path[0][0] == 0 for path in draws])
    assert share == pytest.approx(relaxation.probabilities(1.0)[0][0, 0].item(), abs=0.03)
    path, (op_gates, width_gates) = relaxation.sample(1.0, rng)
    assert [(int(o.argmax()), int(w.argmax())) for o, w in zip(op_gates, width_gates, strict=True)] == path
    assert op_gates.detach().numpy().round(6).sum() == len(path)
    ops, widths = relaxation.probabilities(1.0)
    chance = np.prod(
        [ops[b, o].item() * widths[b, w].item() for b, (o, w) in enumerate(path) if SMALL.ops[o] != "skip"]
    )
    chance *= np.prod([ops[b, o].item() for b, (o, _) in enumerate(path) if SMALL.ops[o] == "skip"])
    assert relaxation.log_probability(path, 1.0).exp().item() == pytest.approx(chance, rel=1e-4)


# -- penalty -----------------------------------------------------------------------------------------------


def expected(latency: float, sram: float) -> Expected:
    return Expected(*(torch.tensor(v) for v in (latency, sram, 0.0, 0.0)))


def test_penalty_formula_and_schedule():
    config = SearchConfig(mu=0.2, nu=0.4, penalty_cap=1.0, steps=100)
    penalty = Penalty.start(Budgets(latency_ms=10.0, sram_bytes=1000), config)
    assert penalty.loss(expected(12.0, 1500.0)).item() == pytest.approx(0.2 * 0.2**2 + 0.4 * 0.5**2)
    assert penalty.loss(expected(9.0, 1000.0)).item() == 0.0
    penalty.update(expected(9.0, 1500.0))
    assert penalty.coefficients == pytest.approx({"latency_ms": 0.2, "sram_bytes": 0.6})
    assert penalty.multipliers == pytest.approx({"latency_ms": 0.0, "sram_bytes": 2 * 0.4 * 0.5})
    # Now SRAM counts beyond its limit by the square and, as long as l + 2 m g > 0, on either side by l g.
    assert penalty.loss(expected(9.0, 1100.0)).item() == pytest.approx(0.6 * 0.1**2 + 0.4 * 0.1)
    assert penalty.loss(expected(9.0, 900.0)).item() == pytest.approx(0.6 * 0.1**2 - 0.4 * 0.1)
    for _ in range(100):
        penalty.update(expected(12.0, 1500.0))
    assert penalty.coefficients == penalty.multipliers == {"latency_ms": 1.0, "sram_bytes": 1.0}


def test_a_multiplier_falls_while_its_budget_is_met():
    penalty = Penalty.start(Budgets(latency_ms=10.0), SearchConfig(mu=0.5))
    for _ in range(5):
        penalty.update(expected(12.0, 0.0))
    risen, seen = penalty.multipliers["latency_ms"], []
    for _ in range(40):
        penalty.update(expected(9.0, 0.0))
        seen.append(penalty.multipliers["latency_ms"])
    assert risen > 0.9 and seen == sorted(seen, reverse=True) and seen[0] < risen and seen[-1] == 0.0
    assert penalty.loss(expected(9.9, 0.0)).item() == 0.0


def test_the_multiplier_settles_where_the_budget_holds():
    """Minimize (x - 14)^2 / 100 subject to x <= 10: the multiplier of x / 10 - 1 ends at 0.8."""
    penalty = Penalty.start(Budgets(latency_ms=10.0), SearchConfig(steps=300))
    x = torch.tensor(14.0, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=2.0)
    for _ in range(300):
        cost = Expected(x, *(torch.tensor(0.0) for _ in range(3)))
        optimizer.zero_grad()
        ((x - 14) ** 2 / 100 + penalty.loss(cost)).backward()
        optimizer.step()
        penalty.update(cost)
    assert x.item() == pytest.approx(10.0, abs=0.1)
    assert penalty.multipliers["latency_ms"] == pytest.approx(0.8, abs=0.1)


def test_the_coefficients_growth_depends_on_the_part_of_the_search_that_broke_a_budget():
    ends = []
    for steps in (20, 400):
        penalty = Penalty.start(Budgets(latency_ms=10.0), SearchConfig(steps=steps, penalty_growth=1.2))
        for _ in range(steps // 10):
            penalty.update(expected(11.0, 0.0))
        ends.append(penalty.coefficients["latency_ms"])
    assert ends == pytest.approx([0.1 * 1.2**10] * 2)


def test_a_growth_that_no_number_holds_ends_at_the_cap():
    penalty = Penalty.start(Budgets(latency_ms=10.0), SearchConfig(steps=1, penalty_growth=1e4))
    penalty.update(expected(11.0, 0.0))
    assert penalty.coefficients["latency_ms"] == SearchConfig().penalty_cap


def test_the_answer_has_its_own_cost_and_the_expectations_gradient():
    relaxation = Relaxation(build_tables(SMALL, MacCost()))
    relaxation.prefer([(0, 0)] * 3, 0.2)
    spread = relaxation.expected(1.0)
    answer = relaxation.answer(spread)
    exact = MacCost().evaluate(lower(architecture_of(SMALL, relaxation.argmax())), 0)
    assert answer.latency_ms.item() == pytest.approx(exact.latency_ms, rel=1e-5)
    assert spread.latency_ms.item() > 1.5 * answer.latency_ms.item()
    ours = torch.autograd.grad(answer.latency_ms, relaxation.ops, retain_graph=True)[0]
    assert torch.equal(ours, torch.autograd.grad(spread.latency_ms, relaxation.ops)[0])


# -- supernet ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 7, 3)])
def test_every_choice_runs_and_trains_only_its_own_slice(shape):
    space = replace(SMALL, input_shape=shape)
    net = Supernet(space, 0)
    x = torch.rand(4, shape[2], *shape[:2])
    for op in range(len(space.ops)):
        for width in range(2):
            net.zero_grad(set_to_none=True)
            net(x, [(op, width)] * 3).square().sum().backward()
            used = net.blocks[2]
            if space.ops[op].startswith(("dw", "se")):
                channels = space.channels[width]
                assert used.pointwise.grad[:channels, :channels].abs().sum() > 0
                assert used.pointwise.grad[channels:].abs().sum() == 0
                assert used.pointwise.grad[:, channels:].abs().sum() == 0
                assert not hasattr(used, "expand") or used.expand.grad is None


def test_supernet_blocks_have_the_lowered_shapes():
    space = SearchSpace((9, 7, 1), 4, 8, 2, (2, 1), channels=(8, 16))
    net = Supernet(space, 0)
    for op, width in itertools.product(range(len(space.ops)), range(2)):
        architecture = architecture_of(space, [(op, width)] * 2)
        pooled = next(n.op for n in lower(architecture).nodes if n.name == "head/mean")
        x = torch.rand(3, 8, 5, 4)
        for block in net.blocks:
            x = block(x, space.ops[op], space.channels[width])
        assert tuple(x.shape[1:]) == (pooled.in_c, pooled.in_h, pooled.in_w)


def test_max_pool_is_same_padded():
    x = torch.arange(9.0).reshape(1, 1, 3, 3) - 20
    assert max_pool(x).flatten().tolist() == [-16.0, -15.0, -13.0, -12.0]


def test_gates_have_value_one():
    net, relaxation = Supernet(SMALL, 0), Relaxation(build_tables(SMALL, MacCost()))
    path, gates = relaxation.sample(1.0, np.random.default_rng(1))
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(net(x, path, gates), net(x, path), rtol=1e-4, atol=1e-4)


def test_scaling_a_block_inside_a_plain_chain_changes_nothing():
    """Why a single path's gate carries no gradient there (docs/search.md)."""
    net = Supernet(SMALL, 0)
    gates = torch.ones(3, len(SMALL.ops), requires_grad=True), torch.ones(3, 2) / 2
    path = [(SMALL.ops.index("dw3"), 1)] * 3
    loss = torch.nn.functional.cross_entropy(net(torch.rand(16, 1, 8, 8), path, gates), torch.arange(16) % 4)
    loss.backward()
    inner, last = gates[0].grad[:2].abs().max(), gates[0].grad[2].abs().max()
    assert inner < 1e-3 * last


# -- candidates --------------------------------------------------------------------------------------------


def test_cheapest_paths_match_enumeration():
    space = SearchSpace((8, 8, 1), 4, 12, 1, (1, 2), ("dw3", "dw5", "se4", "skip"), (8, 16))
    cost = MacCost()
    judge = Judge(build_tables(space, cost), cost, Budgets(1.0, 1, 1, 1))
    every = [
        cost.evaluate(lower(a), parameters(a))
        for a in (
            architecture_of(space, p)
            for p in itertools.product(itertools.product(range(4), range(2)), repeat=2)
        )
    ]
    found = cheapest_paths(judge)
    assert judge.exact(found["latency_ms"]).latency_ms == pytest.approx(min(c.latency_ms for c in every))
    assert judge.exact(found["sram_bytes"]).sram_bytes == min(c.sram_bytes for c in every)
    assert judge.exact(found["parameters"]).parameters == min(c.parameters for c in every)
    tables = judge.tables
    assert cheapest_path(judge, -tables.latency_ms, -tables.latency_head) != found["latency_ms"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 1.2), st.floats(0.4, 1.2))
def test_repair_keeps_feasible_paths_and_mends_others(seed, latency_share, parameter_share):
    cost, rng = MacCost(), np.random.default_rng(seed)
    typical = cost.evaluate(lower(a := SMALL.build([("dw3", 16)] * 3)), parameters(a))
    budgets = Budgets(
        typical.latency_ms * latency_share, None, None, int(typical.parameters * parameter_share)
    )
    judge = Judge(build_tables(SMALL, cost), cost, budgets)
    path = judge.path(SMALL.random(rng))
    even = np.zeros((3, len(SMALL.ops))), np.zeros((3, 2))
    mended = repair(judge, path, *even)
    if judge.feasible(path):
        assert mended == path
    all_skip = judge.path(SMALL.build([("skip", 0)] * 3))
    if judge.feasible(all_skip):
        assert judge.feasible(mended)


# -- input that cannot be used -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw, says",
    [
        ({"stepz": 3}, "search.stepz"),
        ({"steps": -1}, "search.steps"),
        ({"steps": 1.5}, "search.steps"),
        ({"weight_lr": 0}, "search.weight_lr"),
        ({"weight_lr": "fast"}, "search.weight_lr"),
        ({"gradient": "magic"}, "search.gradient"),
        ({"paths": 1}, "search.paths"),
        ({"threads": 0}, "search.threads"),
        ({"batch_size": 1}, "search.batch_size must be at least 2"),
        ({"penalty_growth": 0.5}, "search.penalty_growth"),
    ],
)
def test_malformed_settings_are_refused(raw, says):
    with pytest.raises(ConfigError, match=says):
        SearchConfig.from_dict(raw)


def test_unknown_method_and_wrong_data():
    assert {"edgenas", "random"} <= set(names())
    with pytest.raises(ConfigError, match="magic"):
        search(SMALL, DATA, MacCost(), Budgets(), replace(TINY, method="magic"), seed=0)
    with pytest.raises(DataError, match="train images"):
        search(replace(SMALL, input_shape=(9, 9, 1)), DATA, MacCost(), Budgets(), TINY, seed=0)
    with pytest.raises(DataError, match="labels go from"):
        search(replace(SMALL, classes=2), DATA, MacCost(), Budgets(), TINY, seed=0)


def test_malformed_results_are_refused():
    with pytest.raises(ConfigError):
        SearchResult.from_json({"architecture": None})
    with pytest.raises(ConfigError):
        SearchResult.from_json([])
