"""The search: its costs against exact sums, its schedule, and that budgets always hold."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, DataError
from pipeline.search import SearchConfig, SearchResult, names, search
from pipeline.search.candidates import Judge, cheapest_path, cheapest_paths, repair
from pipeline.search.costs import build_tables, working_set_bytes
from pipeline.search.penalty import Penalty
from pipeline.search.relaxation import Expected, Relaxation
from pipeline.search.supernet import Supernet, max_pool
from pipeline.space import Budgets, Cost, OpGraph, OpSpec, lower, parameters
from pipeline.space.search_space import SearchSpace


@dataclass(frozen=True)
class MacCost:
    """A stand-in board: time by multiply-accumulates and bytes, memory by the live tensors."""

    layer_overhead_ms: float = 0.003
    overhead_ms: float = 0.01

    def op_latency_ms(self, op: OpSpec) -> float:
        return (5 * op.macs + 6 * op.out_bytes) / 168e3

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        latency = sum(self.op_latency_ms(n.op) + self.layer_overhead_ms for n in graph.nodes)
        live = working_set_bytes(graph.nodes, graph.tensor_bytes[0])
        code = 5000 + 300 * len({n.op.kind for n in graph.nodes}) + 60 * len(graph.nodes)
        return Cost(latency + self.overhead_ms, live + 2048, code + parameters, parameters)


SMALL = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1), channels=(8, 16))
TINY = SearchConfig(
    warmup_steps=4, steps=6, batch_size=16, validation_batch_size=16, paths=2, candidates=8,
    ranking_images=40, semifinalists=3, semifinal_steps=2, finalists=2, proxy_steps=3, threads=1,
)  # fmt: skip


def images(seed: int = 0, shape=(8, 8, 1), classes: int = 4) -> SimpleNamespace:
    """Bright bars whose row tells the class: learnable within a few steps."""
    rng = np.random.default_rng(seed)
    out = {}
    for split, count in (("train", 160), ("val", 80)):
        y = rng.integers(classes, size=count)
        x = rng.integers(0, 60, size=(count, *shape), dtype=np.uint8)
        for i, label in enumerate(y):
            x[i, 2 * label : 2 * label + 2] += 150
        out |= {f"x_{split}": x, f"y_{split}": y.astype(np.int64)}
    return SimpleNamespace(**out)


DATA = images()


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
    config = SearchConfig(mu=0.2, nu=0.4, penalty_cap=1.0)
    penalty = Penalty.start(Budgets(latency_ms=10.0, sram_bytes=1000), config)
    assert penalty.loss(expected(12.0, 1500.0)).item() == pytest.approx(0.2 * 0.2**2 + 0.4 * 0.5**2)
    assert penalty.loss(expected(9.0, 1000.0)).item() == 0.0
    penalty.update(expected(9.0, 1500.0))
    assert penalty.coefficients == pytest.approx({"latency_ms": 0.2, "sram_bytes": 0.6})
    penalty.update(expected(12.0, 900.0))
    assert penalty.coefficients == pytest.approx({"latency_ms": 0.3, "sram_bytes": 0.6})
    for _ in range(100):
        penalty.update(expected(12.0, 1500.0))
    assert penalty.coefficients == {"latency_ms": 1.0, "sram_bytes": 1.0}


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


# -- the whole search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["edgenas", "random"])
def test_budgets_hold_for_random_budgets(seed, method):
    rng = np.random.default_rng(seed)
    cost = MacCost()
    drawn = SMALL.random(rng)
    reference = cost.evaluate(lower(drawn), parameters(drawn))
    budgets = Budgets(
        reference.latency_ms * rng.uniform(0.9, 1.3),
        int(reference.sram_bytes * rng.uniform(1.0, 1.3)),
        int(reference.flash_bytes * rng.uniform(1.0, 1.2)),
        int(reference.parameters * rng.uniform(1.0, 1.3)),
    )
    result = search(SMALL, DATA, cost, budgets, replace(TINY, method=method), seed=seed)
    if result.feasible:
        assert SMALL.contains(result.architecture)
        exact = cost.evaluate(lower(result.architecture), parameters(result.architecture))
        assert result.cost == exact
        assert budgets.violations(exact) == {}
        assert all(budgets.violations(c.cost) == {} for c in result.candidates)
        assert result.architecture == result.candidates[0].architecture
    else:
        assert result.reason
    assert SearchResult.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize(
    "budgets, says",
    [
        (Budgets(latency_ms=0.001), "latency"),
        (Budgets(sram_bytes=100), "SRAM"),
        (Budgets(flash_bytes=100), "flash"),
        (Budgets(latency_ms=100.0, parameters=50), "parameters"),
    ],
)
def test_impossible_budgets_are_named(budgets, says):
    result = search(SMALL, DATA, MacCost(), budgets, TINY, seed=0)
    assert not result.feasible and result.architecture is None and result.cost is None
    assert says in result.reason and "+" in result.reason
    assert result.history == []


def test_budgets_that_exclude_each_other():
    class Contrary(MacCost):
        def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
            # The fewer parameters, the more SRAM: no architecture can have little of both.
            return replace(super().evaluate(graph, parameters), sram_bytes=10_000 - parameters)

    result = search(SMALL, DATA, Contrary(), Budgets(sram_bytes=9_000, parameters=500), TINY, seed=0)
    assert not result.feasible
    assert "together" in result.reason and ("SRAM" in result.reason or "parameters" in result.reason)


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "method, gradient", [("edgenas", "score"), ("edgenas", "straight-through"), ("random", "score")]
)
def test_interrupted_searches_continue_exactly(tmp_path, method, gradient):
    config = replace(TINY, method=method, gradient=gradient, checkpoint_seconds=1e-9)
    budgets = Budgets(latency_ms=3.0, parameters=3000)
    straight = search(SMALL, DATA, MacCost(), budgets, config, seed=7)
    assert straight.feasible
    path = tmp_path / "search.pt"
    calls = 0

    def stop_often(_record) -> None:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise Stop

    for _ in range(200):
        try:
            resumed = search(
                SMALL, DATA, MacCost(), budgets, config, seed=7, checkpoint=path, on_step=stop_often
            )
            break
        except Stop:
            continue
    assert resumed.to_json() == straight.to_json()
    # Finished work is not done again.
    again: list[dict] = []
    search(SMALL, DATA, MacCost(), budgets, config, seed=7, checkpoint=path, on_step=again.append)
    assert again == []
    # Another seed does not pick up this checkpoint.
    other = search(SMALL, DATA, MacCost(), budgets, config, seed=8, checkpoint=path)
    assert other.to_json() == search(SMALL, DATA, MacCost(), budgets, config, seed=8).to_json()


def test_a_damaged_checkpoint_is_ignored(tmp_path):
    path = tmp_path / "search.pt"
    path.write_bytes(b"not a checkpoint")
    result = search(SMALL, DATA, MacCost(), Budgets(latency_ms=3.0), TINY, seed=1, checkpoint=path)
    assert result.to_json() == search(SMALL, DATA, MacCost(), Budgets(latency_ms=3.0), TINY, seed=1).to_json()


def test_history_and_progress():
    seen: list[dict] = []
    result = search(SMALL, DATA, MacCost(), Budgets(latency_ms=2.0), TINY, seed=2, on_step=seen.append)
    assert [record["step"] for record in result.history] == list(range(TINY.steps))
    assert {
        "train_loss", "val_loss", "val_accuracy", "latency_ms", "sram_bytes", "mu", "nu", "temperature",
        "entropy",
    } <= set(result.history[0])  # fmt: skip
    assert result.history[0]["temperature"] == pytest.approx(TINY.temperature_start)
    assert result.history[-1]["temperature"] == pytest.approx(TINY.temperature_end)
    mu = [record["mu"] for record in result.history]
    for before, after, record in zip(mu, mu[1:], result.history, strict=False):
        assert after == pytest.approx(before * (1.5 if record["latency_ms"] > 2.0 else 1.0))
    assert [s["done"] for s in seen] == sorted(s["done"] for s in seen)
    assert seen[-1]["done"] == seen[-1]["total"]


def test_the_penalty_brings_the_expected_latency_down_to_its_budget():
    config = replace(TINY, steps=120, architecture_lr=0.1)
    result = search(SMALL, DATA, MacCost(), Budgets(latency_ms=1.5), config, seed=0)
    first, last = result.history[0]["latency_ms"], result.history[-1]["latency_ms"]
    assert first > 1.5
    assert last <= 1.5 * 1.05


def test_the_search_finds_what_the_task_needs():
    """Where only one operator can see the signal, the distribution moves to it."""
    space = SearchSpace((8, 8, 1), 2, 8, 1, (1,), ("dw3", "skip"), (8,))
    rng = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        # Same histogram and same 3x3 neighbourhoods' means: classes differ in 5x5 structure only.
        y = rng.integers(2, size=count)
        x = np.zeros((count, 8, 8, 1), np.uint8)
        for i, label in enumerate(y):
            spots = rng.integers(0, 8, size=(6, 2))
            for r, c in spots:
                dr, dc = ((0, 3), (3, 0))[label]
                x[i, r, c] = x[i, (r + dr) % 8, (c + dc) % 8] = 255
        return x, y.astype(np.int64)

    (x_train, y_train), (x_val, y_val) = split(400), split(200)
    data = SimpleNamespace(x_train=x_train, y_train=y_train, x_val=x_val, y_val=y_val)
    config = replace(TINY, warmup_steps=100, steps=100, architecture_lr=0.1, paths=4, batch_size=64,
                     validation_batch_size=128, candidates=4)  # fmt: skip
    result = search(space, data, MacCost(), Budgets(), config, seed=0)
    assert result.architecture is not None
    assert result.architecture.blocks[0].op == "dw3"


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
        ({"batch_size": 1}, "batches"),
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
