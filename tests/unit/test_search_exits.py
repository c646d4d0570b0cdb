"""Early exits that the search looks for along with the blocks: by a goal of expected latency, within the worst case."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_standins import DATA, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.progress import Reporter
from pipeline.runfile import load_runfile
from pipeline.search import SearchResult, search, trainer
from pipeline.search.ablation import AblationConfig
from pipeline.search.candidates import ExactPath, Judge, impossible_budgets
from pipeline.search.config import WITHOUT_EFFECT, SearchConfig
from pipeline.search.costs import build_tables, exact_cost
from pipeline.search.exitconfig import ExitConfig
from pipeline.search.exitnet import ExitNet, on_int8_grid
from pipeline.search.exits import ExitChoice, Latencies, choose_exits
from pipeline.search.selection import Selection, capacity_bonus, goal_missed
from pipeline.search.settings import EXIT_METHODS, check_settings
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import draw_batch, weight_optimizer, weight_step
from pipeline.space import Budgets, lower
from pipeline.space.exits import ExitRule
from pipeline.space.search_space import SearchSpace
from pipeline.sweep.open import open_sweep

SPACE = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1), channels=(8, 16), exits=(0, 1))
COST, BUDGETS = MacCost(), Budgets(latency_ms=3.0, parameters=3000)
GOAL_MS = 0.8


def config(method: str, goal_ms: float = GOAL_MS, **more: object) -> SearchConfig:
    return replace(TINY, method=method, exits=ExitConfig(expected_latency_ms=goal_ms, search=True), **more)


# -- the rule ----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([2.2, 3.0, 4.9, 6.0]), st.integers(1, 30))
def test_the_most_accurate_rule_within_the_goal_is_that_of_brute_force(
    seed: int, goal: float, n: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    outputs = [rng.integers(-40, 40, (n, 3)).astype(np.int8) for _ in range(2)]
    outputs[1][np.arange(n), labels] += 30
    choice = choose_exits(
        outputs, labels, lambda kept: Latencies([2.0] * len(kept) + [5.0]), 0.0, goal_ms=goal
    )
    every = [(5.0, int((outputs[1].argmax(1) == labels).sum()))]
    for threshold in range(1, 256):
        taken = ExitRule((threshold,)).taken(outputs)
        right = sum(int(outputs[t][i].argmax() == labels[i]) for i, t in enumerate(taken))
        every.append((float(np.array([2.0, 5.0])[taken].mean()), right))
    within = [(right, -ms) for ms, right in every if ms <= goal + 1e-9]
    if within:
        right, ms = max((right, round(ms, 9)) for right, ms in within)
        assert choice.met and (round(choice.accuracy * n), -choice.expected_ms) == (right, pytest.approx(ms))
    else:  # an image with two largest logits stays to the end: the nearest to the goal
        assert not choice.met and choice.expected_ms == pytest.approx(min(ms for ms, _ in every))


def test_heads_learn_beside_the_final_output_and_leave_it_as_it_is() -> None:
    rng = np.random.default_rng(0)
    net = Supernet(SPACE, 3)
    path = [(0, 1), (3, 1), (0, 0)]
    images, labels = draw_batch(DATA.x_train, DATA.y_train, 64, rng)
    with_heads = ExitNet(net, 3, 0.5, 0.5)
    with torch.no_grad():
        before = with_heads(images, path)
        assert before.shape == (3, 64, 4)
        torch.testing.assert_close(before[-1], net(images, path))
    optimizer = weight_optimizer(with_heads, 0.1)
    losses = [weight_step(with_heads, optimizer, path, (images, labels), 0.1) for _ in range(30)]
    with torch.no_grad():
        after = with_heads(images, path)
    for first, last in zip(before, after, strict=True):
        assert (last.argmax(1) == labels).float().mean() > (first.argmax(1) == labels).float().mean() + 0.2
    parts = [torch.nn.functional.cross_entropy(y, labels).item() for y in before]
    assert losses[0] == pytest.approx(parts[2] + 0.5 * (parts[0] + parts[1]), rel=1e-5)


@pytest.mark.parametrize(("blocks", "heads"), [(0.3, 1.0), (0.0, 0.5), (0.3, 0.3)])
def test_blocks_and_heads_learn_from_an_exit_with_weights_of_their_own(blocks: float, heads: float) -> None:
    path = [(0, 1), (3, 1), (0, 0)]
    images, labels = draw_batch(DATA.x_train, DATA.y_train, 64, np.random.default_rng(0))

    def gradients(blocks: float, heads: float) -> dict[str, torch.Tensor]:
        net = ExitNet(Supernet(SPACE, 3), 3, blocks, heads)
        net.loss(net(images, path), labels).backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    found, whole = gradients(blocks, heads), gradients(1.0, 1.0)
    final = gradients(1e-12, 1.0)  # without what the blocks learn from exits
    assert found.keys() == whole.keys()
    for name, gradient in found.items():
        exits = whole[name] - final[name]
        wanted = final[name] + blocks * exits if name.startswith("net.") else heads * whole[name]
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
    assert any(
        (whole[name] - final[name]).abs().max() > 1e-3 for name in whole if name.startswith("net.blocks")
    )


def test_logits_on_the_int8_grid_keep_their_order() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 5)).astype(np.float32)
    grid = on_int8_grid(logits)
    assert grid.dtype == np.int8 and int(grid.max()) - int(grid.min()) == 255
    step = (logits.max() - logits.min()) / 255
    np.testing.assert_allclose(grid - grid[:, :1].astype(int), (logits - logits[:, :1]) / step, atol=1.01)


# -- searches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EXIT_METHODS)
def test_a_search_with_exits_keeps_worst_case_and_goal(method: str) -> None:
    result = search(SPACE, DATA, COST, BUDGETS, config(method), seed=1)
    assert result.feasible and result.architecture is not None
    assert SPACE.contains(result.architecture)
    assert result.architecture == result.candidates[0].architecture
    trained = [c for c in result.candidates if c.exits]
    assert trained and result.candidates[0].exits
    for candidate in result.candidates:
        assert candidate.cost == exact_cost(COST, candidate.architecture)
        assert not BUDGETS.violations(candidate.cost)
        assert (candidate.proxy_accuracy is None) == (not candidate.exits)
    for candidate in trained:
        found, latencies = candidate.exits, COST.exit_latencies_ms(lower(candidate.architecture))
        assert found["after"] == list(candidate.architecture.exits)
        assert sum(found["counts"]) == len(DATA.y_val)
        assert found["expected_ms"] == pytest.approx(np.dot(latencies, found["counts"]) / len(DATA.y_val))
        assert found["worst_case_ms"] == latencies[-1] == candidate.cost.latency_ms
    assert result.candidates[0].exits["expected_ms"] <= GOAL_MS
    assert any(c.exits["worst_case_ms"] > GOAL_MS and c.exits["after"] for c in trained)
    assert SearchResult.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize("name", ["parameters", "latency_ms"])
@pytest.mark.parametrize("method", EXIT_METHODS)
def test_what_stays_must_fit_not_all_that_was_allowed(method: str, name: str) -> None:
    """A budget that the only network of the space holds with one exit and breaks with both."""
    space, goal = replace(SPACE, ops=("ir2",), channels=(16,)), 2.0
    both = space.build([("ir2", 16)] * 3)
    least, most = (
        getattr(exact_cost(COST, replace(both, exits=exits)), name) for exits in ((0,), both.exits)
    )
    between = Budgets(**{name: type(least)((least + most) / 2)})
    result = search(space, DATA, COST, between, config(method, goal), seed=1)
    assert result.feasible, result.reason
    assert all(not between.violations(c.cost) and len(c.architecture.exits) < 2 for c in result.candidates)
    below = Budgets(**{name: type(least)(0.999 * least)})
    assert "meets the budgets" in search(space, DATA, COST, below, config(method, goal), seed=1).reason


def test_networks_that_differ_before_an_exit_are_two() -> None:
    space = SearchSpace((8, 8, 1), 4, 8, 1, (1, 1, 1), channels=(8, 16), exits=(0, 1))
    judge = Judge(build_tables(space, COST), COST, BUDGETS, expected_ms=GOAL_MS)
    late, early, last = (
        judge.path(space.build([("dw3", 16) if block in where else ("skip", 0) for block in range(3)]))
        for where in ((0, 2), (0, 1), (0,))
    )
    assert judge.macs(late) == judge.macs(early) and judge.network(late) != judge.network(early)
    assert len(judge.distinct([late, early, last, late])) == 3


def by_size(_validation: object, net: ExitNet, path: ExactPath) -> tuple[np.ndarray, np.ndarray]:
    """Logits as if networks knew more the larger they are: the final output is wrong for an image in 2^(MACs / 20,000);
    every exit is right, and sure of it, for three images in four, and knows nothing of the fourth."""
    space, labels = net.net.space, DATA.y_val
    architecture = space.build([(space.ops[op], space.channels[width]) for op, width in path])
    wrong = 2.0 ** -(lower(replace(architecture, exits=())).macs / 20_000)
    logits = np.zeros((len(space.exits) + 1, len(labels), space.classes), np.float32)
    easy = np.arange(len(labels)) % 4 != 3
    logits[:-1, easy, labels[easy]] = 10.0
    logits[:-1, ~easy, (labels[~easy] + 1) % 4] = 1.0
    knows = easy | (np.arange(len(labels)) / len(labels) >= wrong)
    logits[-1, knows, labels[knows]] = 10.0
    logits[-1, ~knows, (labels[~knows] + 1) % 4] = 10.0
    return logits, labels


@pytest.mark.parametrize("method", EXIT_METHODS)
def test_a_larger_network_with_an_exit_wins_over_a_smaller_without(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What meets the goal without exits is small here and wrong more often; only the mean over exits lets others in."""
    monkeypatch.setattr(trainer.Validation, "outputs", by_size)
    result = search(SPACE, DATA, COST, BUDGETS, config(method), seed=1)
    winner = result.candidates[0]
    assert winner.exits["after"] and winner.exits["expected_ms"] <= GOAL_MS < winner.cost.latency_ms
    alone = [c for c in result.candidates if c.exits and not c.exits["after"]]
    assert all(c.cost.latency_ms <= GOAL_MS for c in alone)
    without = search(
        replace(SPACE, exits=()), DATA, COST, replace(BUDGETS, latency_ms=GOAL_MS), replace(TINY, method=method), seed=1
    )  # fmt: skip
    assert without.architecture is not None
    assert lower(result.architecture).macs > lower(without.architecture).macs


@pytest.mark.parametrize("method", ["edgenas", "hwdarts", "evolution"])
def test_interrupted_searches_with_exits_continue_exactly(method: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    wanted = config(method, checkpoint_seconds=1e-9)
    straight = search(SPACE, DATA, COST, BUDGETS, wanted, seed=7)
    calls = 0

    def stop_often(_record: object) -> None:
        nonlocal calls
        calls += 1
        if calls % 5 == 0:
            raise Stop

    path = tmp_path / "search.pt"
    for _ in range(200):
        try:
            resumed = search(SPACE, DATA, COST, BUDGETS, wanted, seed=7, checkpoint=path, on_step=stop_often)
            break
        except Stop:
            continue
    assert resumed.to_json() == straight.to_json()
    again: list[object] = []
    search(SPACE, DATA, COST, BUDGETS, wanted, seed=7, checkpoint=path, on_step=again.append)
    assert again == []
    for other in (ExitConfig(), ExitConfig(expected_latency_ms=0.7, search=True)):
        with pytest.raises(ConfigError, match=r"another search: .*settings differ"):
            search(SPACE, DATA, COST, BUDGETS, replace(wanted, exits=other), seed=7, checkpoint=path)


def test_side_by_side_the_exits_are_the_same() -> None:
    one, two = (search(SPACE, DATA, COST, BUDGETS, config("edgenas", workers=w), seed=2) for w in (1, 2))
    assert [c.exits for c in one.candidates] == [c.exits for c in two.candidates]


# -- what cannot be -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", EXIT_METHODS)
def test_a_goal_before_the_first_exit_is_named_before_anything_trains(method: str) -> None:
    steps: list[object] = []
    result = search(SPACE, DATA, COST, BUDGETS, config(method, 0.05), seed=0, on_step=steps.append)
    assert not result.feasible and "latency to the first early exit" in result.reason
    assert "of 0.05 ms" in result.reason and steps == []
    judge = Judge(build_tables(SPACE, COST), COST, BUDGETS, expected_ms=0.05)
    fastest = min(COST.exit_latencies_ms(lower(SPACE.build([choice] * 3)))[0] for choice in SPACE.options)
    assert not impossible_budgets(replace(judge, expected_ms=fastest, _first_exit={}))
    assert impossible_budgets(replace(judge, expected_ms=0.999 * fastest, _first_exit={}))


def test_nothing_that_trained_reaches_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exits that tell nothing are never taken: their largest logits are equal."""

    def unsure(_validation: object, net: ExitNet, _path: object) -> tuple[np.ndarray, np.ndarray]:
        logits = np.zeros((3, len(DATA.y_val), 4), np.float32)
        logits[-1, np.arange(len(DATA.y_val)), DATA.y_val] = 1.0
        return logits, DATA.y_val

    monkeypatch.setattr(trainer.Validation, "outputs", unsure)
    space = replace(SPACE, ops=("dw3",), channels=(16,))
    goal = 1.1 * COST.exit_latencies_ms(lower(space.build([("dw3", 16)] * 3)))[0]
    for method in ("edgenas", "random"):
        result = search(space, DATA, COST, BUDGETS, config(method, goal), seed=0)
        assert not result.feasible and result.architecture is None
        assert "search.exits.expected_latency_ms" in result.reason and "80 validation images" in result.reason


@pytest.mark.parametrize(
    ("method", "more", "says"),
    [
        ("hypernetwork", {}, "several boards"),
        ("given", {"given": ("skip",) * 3}, "nothing is trained"),
        ("edgenas", {"ablation": AblationConfig(guide="macs")}, "guide = 'macs'"),
    ],
)
def test_who_cannot_search_for_exits_says_so(method: str, more: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.exits\.search cannot be followed") as error:
        search(SPACE, DATA, COST, BUDGETS, config(method, **more), seed=0)
    assert says in error.value.message and "search = true" in error.value.hint
    # the goal alone says which exits stay after training, whatever searched
    check_settings(replace(config(method, **more), exits=ExitConfig(expected_latency_ms=0.5)), [method])


def test_cells_and_sweeps_refuse_the_search_for_exits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.exits\.search"):
        check_settings(config("random"), ["random"], cells=True)
    text = """
name = "tiny"
board = "qemu-cortex-m4"
[data]
name = "digits"
limit = 100
[budgets]
latency_ms = 300.0
[space]
strides = [2, 2]
exits = [0]
[search.exits]
expected_latency_ms = 100.0
search = true
"""
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"search\.exits\.search has no place in a sweep"):
        open_sweep(load_runfile(tmp_path / "run.toml"), tmp_path / "out", Reporter(quiet=True), seeds="0")
    assert not (tmp_path / "out").exists()


def test_a_space_without_exits_has_none_to_search_for() -> None:
    with pytest.raises(ConfigError, match="the space has no early exits"):
        search(replace(SPACE, exits=()), DATA, COST, BUDGETS, config("edgenas"), seed=0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"search": True}, "search.exits.search"),
        ({"expected_latency_ms": -1.0}, "above 0"),
        ({"expected_latency_ms": "5"}, "must be a number"),
        ({"expected_latency_ms": 5.0, "accuracy_drop": 0.01}, "accuracy_drop has no effect"),
        ({"loss_weight": 0.5}, "loss_weight has no effect"),
        ({"head_weight": 0.5}, "head_weight has no effect"),
        ({"expected_latency_ms": 5.0, "search": True, "loss_weight": -0.1}, "loss_weight must be 0 or more"),
        (
            {"expected_latency_ms": 5.0, "search": True, "loss_weight": math.inf},
            "loss_weight must be 0 or more",
        ),
        ({"expected_latency_ms": 5.0, "search": True, "head_weight": 0.0}, "head_weight must be above 0"),
    ],
)
def test_settings_without_meaning(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ExitConfig(**given)


def test_finished_searches_without_the_option_stay() -> None:
    """Exits that only come after the search change nothing of its identity, nor their defaults that of an export."""
    usual = {k: v for k, v in asdict(SearchConfig()).items() if k not in WITHOUT_EFFECT}
    for exits in (ExitConfig(), ExitConfig(0.1), ExitConfig(expected_latency_ms=3.0)):
        assert SearchConfig(exits=exits).outcome == usual
    searched = ExitConfig(expected_latency_ms=3.0, search=True)
    assert SearchConfig(exits=searched).outcome == {**usual, "exits": asdict(searched)}
    assert ExitConfig().choice == {"accuracy_drop": 0.005}


# -- selection ---------------------------------------------------------------------------------------------


def test_whoever_misses_the_goal_comes_after_all_that_reach_it() -> None:
    judge = Judge(build_tables(SPACE, COST), COST, BUDGETS)
    a, b, c = (judge.path(SPACE.build([(op, 8)] * 3)) for op in ("dw3", "dw5", "dw7"))
    reached = ExitChoice((0,), (9,), (40, 40), (1.0, 2.0), 0.5, 0.5, goal_ms=1.5)
    missed = replace(reached, counts=(0, 80))
    selection = Selection(
        {a: 0.1, b: 0.1, c: 0.99}, {a: 0.6, b: 0.9}, {b: 0.9}, exits={a: reached, b: missed}
    )
    assert selection.ranked() == [a, b, c]
    assert Selection.from_state(selection.state()) == selection
    # images that leave early count the work that was done for them
    whole, half = capacity_bonus(judge, 1.0)(a), capacity_bonus(judge, 1.0, selection.exits)(a)
    graph = lower(selection.found(judge, a)[0])
    early = graph.until(graph.exits[0]).macs
    assert half == pytest.approx((np.log2(early) + np.log2(graph.macs)) / 2) and half < whole


def test_where_none_reaches_the_goal_the_nearest_is_named_not_the_most_accurate() -> None:
    judge = Judge(build_tables(SPACE, COST), COST, BUDGETS)
    near, far, never = (judge.path(SPACE.build([(op, 8)] * 3)) for op in ("dw3", "dw5", "dw7"))
    choice = ExitChoice((0,), (9,), (48, 32), (1.0, 2.0), 0.5, 0.5, goal_ms=1.2)
    exits = {near: choice, far: replace(choice, counts=(8, 72))}
    selection = Selection({near: 0.1, far: 0.1, never: 0.99}, {near: 0.6, far: 0.9}, {far: 0.9}, exits=exits)
    assert selection.ranked() == [near, far, never]
    said = goal_missed(selection, judge, near)
    assert "expected at least 1.40 ms" in said and "dw3-8" in said
