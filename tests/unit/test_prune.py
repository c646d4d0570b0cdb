"""Structured pruning: groups of channels, masks, importance, limits, resume, and the file that comes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_export import HAND_MADE, inputs
from test_train import CONFIG, Interrupted, data_set, random_network, states_equal

from pipeline import data as datasets
from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.engine import load
from pipeline.engine.host import HostModel
from pipeline.errors import BudgetError, ConfigError
from pipeline.export import TflmReference, write_tflite
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.memory.planner import plan
from pipeline.space.architecture import Architecture, Block, lower, parameters
from pipeline.space.budgets import Budgets, Cost
from pipeline.space.cells import CellSpace
from pipeline.space.graph import OpGraph
from pipeline.space.pruned import PrunedArchitecture, with_exits
from pipeline.space.widths import groups, resize
from pipeline.train import TrainConfig, prune, train_qat
from pipeline.train.channels import cut, importance, mask
from pipeline.train.config import PruneConfig
from pipeline.train.prune import prune_and_train
from pipeline.train.shrink import tighter

ARCHITECTURE = Architecture(
    (12, 12, 1), 3, 8, 2, (Block("ir4", 8, 1), Block("se4", 16, 2), Block("ir2", 16, 1), Block("dw3", 24, 1))
)
WITH_EXITS = replace(ARCHITECTURE, exits=(1,))
CELLS = CellSpace((28, 28, 1), 10, stem_channels=8, channels=(8, 16), strides=(2, 2), nodes=2)
CELL = CELLS.random(np.random.default_rng(3))
SOME = {**HAND_MADE, "small": ARCHITECTURE, "exits": WITH_EXITS, "cells": CELL}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def judge(graph: OpGraph, parameters: int) -> Cost:
    """Stands in for a board's table: 10 MACs a microsecond, the exact planner."""
    return Cost(graph.macs / 1e4, plan(graph).arena_bytes, parameters + 1000, parameters)


def thinned(architecture: Architecture, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for group in groups(lower(architecture)):
        left = int(rng.integers(1, group.channels + 1))
        found.append(np.sort(rng.choice(group.channels, left, replace=False)))
    return found


def test_groups_of_a_residual_block() -> None:
    graph = lower(Architecture((8, 8, 1), 2, 8, 1, (Block("ir2", 8, 1), Block("se4", 16, 1))))
    found = [{graph.nodes[i].name for i in group.producers} for group in groups(graph)]
    assert found == [
        {"stem", "block0/ir2/project", "block0/ir2/add", "block1/se4/depthwise"},
        {"block0/ir2/expand", "block0/ir2/depthwise"},
        {"block1/se4/pointwise", "block1/se4/squeeze", "block1/se4/gate", "block1/se4/scale", "head/mean"},
        {"block1/se4/reduce"},
    ]
    assert [group.channels for group in groups(graph)] == [8, 16, 16, 4]


@pytest.mark.parametrize("name", SOME)
def test_pruned_network_equals_the_masked_one(name: str) -> None:
    network = random_network(SOME[name], 5)
    kept = thinned(SOME[name], 7)
    smaller = cut(network, kept)
    mask(network, kept)
    height, width, channels = SOME[name].input_shape
    x = torch.rand(5, channels, height, width)
    for mine, theirs in zip(smaller.eval().each(x), network.each(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert [g.channels for g in groups(smaller.graph)] == [len(k) for k in kept]


@pytest.mark.parametrize("name", SOME)
def test_pruned_architectures_are_architectures(name: str) -> None:
    base = SOME[name]
    widths = tuple(len(k) for k in thinned(base, 8))
    pruned = PrunedArchitecture(base=base, widths=widths)
    assert Architecture.from_json(pruned.to_json()) == pruned
    assert "pruned to" in pruned.describe() and pruned.exits == base.exits
    whole = tuple(group.channels for group in groups(base.lower()))
    assert resize(base.lower(), whole) == base.lower()
    for bad in (widths[:-1], (0, *widths[1:]), (10_000, *widths[1:])):
        with pytest.raises(ConfigError):
            PrunedArchitecture(base=base, widths=bad)


def test_exits_of_a_pruned_network_can_be_dropped() -> None:
    widths = tuple(len(k) for k in thinned(WITH_EXITS, 8))
    dropped = with_exits(PrunedArchitecture(base=WITH_EXITS, widths=widths), ())
    assert dropped == PrunedArchitecture(base=ARCHITECTURE, widths=widths) and dropped.lower().exits == ()


@pytest.mark.parametrize("name", ["all", "small", "cells"])
def test_pruned_file_on_every_reference(name: str) -> None:
    network = cut(random_network(SOME[name], 2), thinned(SOME[name], 9))
    network.eval().fold()
    height, width, channels = SOME[name].input_shape
    network.mode = "observe"
    network(torch.rand(8, channels, height, width))
    network.mode = "quantized"
    content = write_tflite(network)
    model, x = load(content), inputs(SOME[name], 6)
    expected = TflmReference(content).run(x).reshape(6, -1)
    np.testing.assert_array_equal(HostModel(model, sanitize=True).run(x).reshape(6, -1), expected)
    nameless = replace(network.graph, nodes=tuple(replace(node, name="") for node in network.graph.nodes))
    assert replace(model.graph, nodes=tuple(replace(n, name="") for n in model.graph.nodes)) == nameless


@pytest.mark.parametrize(
    ("architecture", "exit_weight"), [(ARCHITECTURE, 0.3), (WITH_EXITS, 0.3), (WITH_EXITS, 3.0)]
)
def test_taylor_is_the_change_of_the_loss(architecture: Architecture, exit_weight: float) -> None:
    """Against finite differences: every reader's weights of one channel a little smaller; exits as in training."""
    network = random_network(architecture, 4).double()
    x, y = torch.rand(16, 1, 12, 12).double(), torch.arange(16) % 3
    found = importance(network, "taylor", [(x, y)], np.random.default_rng(0), exit_weight=exit_weight)

    def loss() -> float:
        with torch.no_grad():
            *exits, final = (torch.nn.functional.cross_entropy(logits, y) for logits in network.each(x))
            return float(final + exit_weight * sum(exits))

    before, step = loss(), 1e-4
    for group, scores in zip(groups(network.graph), found, strict=True):
        for channel in (0, group.channels - 1):
            weights = [network.layers[i].weight for i in group.consumers]
            saved = [weight.detach().clone() for weight in weights]
            with torch.no_grad():
                for weight in weights:
                    weight[:, channel] *= 1 - step
            change = (loss() - before) / step
            assert scores[channel] == pytest.approx(change**2, rel=0.05, abs=1e-8)
            with torch.no_grad():
                for weight, old in zip(weights, saved, strict=True):
                    weight.copy_(old)


QUICK = replace(
    CONFIG, prune=PruneConfig(fraction=0.5, rounds=3, round_steps=4, batches=3, epochs=1, multiple=4)
)


def test_limits_hold_and_resume_is_exact(tmp_path: Path) -> None:
    config = replace(QUICK, prune=replace(QUICK.prune, latency_ms=6.0, parameters=2500))
    steps = []
    whole = prune_and_train(ARCHITECTURE, data_set(), config, judge, seed=1, on_step=steps.append)
    graph = whole.result.network.graph
    assert graph.macs <= 0.5 * lower(ARCHITECTURE).macs
    cost = judge(graph, parameters(whole.result.network.architecture))
    assert config.prune.budgets.violations(cost) == {}
    assert all(group.channels % 4 == 0 for group in groups(graph))
    assert len(whole.record["rounds"]) == 3 and whole.record["after"]["macs"] == graph.macs
    model = load(write_tflite(whole.result.network))
    assert model.graph.macs == graph.macs and model.parameters <= 2500

    total = len(steps)
    for stop in (7, 20, 25, total - 3):  # in the first training and in that behind the rounds
        count = 0

        def interrupt(_: Any, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count == stop:
                raise Interrupted

        folder = tmp_path / str(stop)
        folder.mkdir()
        with pytest.raises(Interrupted):
            prune_and_train(ARCHITECTURE, data_set(), config, judge, seed=1, folder=folder, on_step=interrupt)
        again = prune_and_train(ARCHITECTURE, data_set(), config, judge, seed=1, folder=folder)
        assert states_equal(again.result.network, whole.result.network)
        assert again.record == whole.record


def test_rounds_resume_too(tmp_path: Path) -> None:
    whole = prune_and_train(ARCHITECTURE, data_set(), QUICK, judge, seed=1)
    seen: list[OpGraph] = []

    def dying(graph: OpGraph, parameters: int) -> Cost:
        seen.append(graph)
        raise Interrupted

    with pytest.raises(Interrupted):  # behind the last round: two are on disk
        prune_and_train(ARCHITECTURE, data_set(), QUICK, judge, confirm=dying, seed=1, folder=tmp_path)
    again = prune_and_train(ARCHITECTURE, data_set(), QUICK, judge, seed=1, folder=tmp_path)
    assert seen and states_equal(again.result.network, whole.result.network)
    assert again.record == whole.record


def test_a_confirmed_cost_above_the_estimate_is_met_too() -> None:
    def slower(graph: OpGraph, parameters: int) -> Cost:
        return replace(judge(graph, parameters), latency_ms=1.2 * graph.macs / 1e4)

    limit = 0.6 * judge(lower(ARCHITECTURE), 0).latency_ms
    config = replace(QUICK, prune=replace(QUICK.prune, fraction=0.0, latency_ms=limit))
    pruned = prune_and_train(ARCHITECTURE, data_set(), config, judge, confirm=slower, seed=1)
    assert slower(pruned.result.network.graph, 0).latency_ms <= limit
    assert len(pruned.record["rounds"]) > 3 and pruned.record["after"]["latency_ms"] <= limit


def test_what_the_search_kept_is_kept_beside_the_limits_of_pruning() -> None:
    """Confirmed above a budget that no limit of pruning names: channels go until that holds too."""

    def slower(graph: OpGraph, parameters: int) -> Cost:
        return replace(judge(graph, parameters), latency_ms=2.5 * graph.macs / 1e4)

    held = Budgets(latency_ms=judge(lower(ARCHITECTURE), 0).latency_ms)
    pruned = prune_and_train(ARCHITECTURE, data_set(), QUICK, judge, confirm=slower, held=held, seed=1)
    assert slower(pruned.result.network.graph, 0).latency_ms <= held.latency_ms
    assert pruned.result.network.graph.macs <= 0.5 * lower(ARCHITECTURE).macs
    assert tighter(Budgets(2.0, 5), Budgets(1.0, None, 7)) == Budgets(1.0, 5, 7)


def test_bad_limits() -> None:
    config = replace(QUICK, prune=PruneConfig(latency_ms=0.01))
    with pytest.raises(BudgetError, match="smallest reachable is latency_ms 0"):
        prune_and_train(ARCHITECTURE, data_set(), config, judge)
    narrow = Architecture((12, 12, 1), 3, 4, 2, (Block("dw3", 4, 1),))
    with pytest.raises(ConfigError, match="nothing can be pruned"):
        prune_and_train(narrow, data_set(), QUICK, judge)
    with pytest.raises(ConfigError, match="board's costs"):
        train_qat(ARCHITECTURE, data_set(), QUICK)
    wrong: tuple[dict[str, Any], ...] = (
        {"fraction": 1.0},
        {"importance": "luck"},
        {"multiple": 0},
        {"latency_ms": -1.0},
    )
    for bad in wrong:
        with pytest.raises(ConfigError):
            PruneConfig(**bad)
    assert not PruneConfig().active


def test_exits_are_pruned_with_their_network() -> None:
    pruned = prune_and_train(WITH_EXITS, data_set(), QUICK, judge, seed=1)
    assert len(pruned.result.network.graph.exits) == 1
    assert pruned.result.network.architecture.exits == (1,)


def test_what_exits_count_decides_what_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def spied(*args: Any, exit_weight: float) -> Any:
        asked.append(exit_weight)
        return importance(*args, exit_weight=exit_weight)

    monkeypatch.setattr(prune, "importance", spied)
    prune_and_train(WITH_EXITS, data_set(), replace(QUICK, exit_weight=0.7), judge, seed=1)
    assert asked == [0.7] * QUICK.prune.rounds


def test_rounds_that_weighed_exits_otherwise_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version weighed them by 1."""
    kept: dict[str, str] = {}
    monkeypatch.setattr(
        prune, "save_checkpoint", lambda path, state: kept.update({path.name: state["identity"]})
    )
    found = {}
    for name, architecture, importance_of in (
        ("plain", ARCHITECTURE, "taylor"),
        ("taylor", WITH_EXITS, "taylor"),
        ("scale", WITH_EXITS, "scale"),
    ):
        config = replace(QUICK, prune=replace(QUICK.prune, importance=importance_of, rounds=1))
        prune_and_train(architecture, data_set(), config, judge, seed=1, folder=tmp_path / name)
        found[name] = kept.pop("pruning.pt")
    assert found["taylor"].endswith("exits weighed")
    assert not any(found[name].endswith("exits weighed") for name in ("plain", "scale"))


def test_by_a_table_of_a_board() -> None:
    """Widths that no table row has are interpolated; the limit holds by the table's own upper quantile."""
    board = load_board("qemu-cortex-m4")
    cost = CostModel(board, Lut.load(asset_dir("luts") / board.name / "edgenas.csv"))
    before = cost.evaluate(lower(ARCHITECTURE), 0)
    limit, sram = 0.6 * before.latency_ms, before.sram_bytes - 300
    config = replace(
        QUICK, prune=PruneConfig(latency_ms=limit, sram_bytes=sram, rounds=2, round_steps=2, epochs=1)
    )
    pruned = prune_and_train(ARCHITECTURE, data_set(), config, cost.evaluate, seed=1)
    model = load(write_tflite(pruned.result.network))
    after = cost.evaluate(model.graph, model.parameters)
    assert after.latency_ms <= limit and after.sram_bytes <= sram
    assert pruned.record["after"]["latency_ms"] == pytest.approx(after.latency_ms)


def test_importance_beats_chance() -> None:
    """Half of the multiply-accumulates of a network for digits: right after the cuts, without any training on."""
    digits = datasets.load(
        "digits", seed=0, validation=0.3, limit=None, options=datasets.default_options("digits")
    )
    architecture = Architecture(
        (28, 28, 1), 10, 16, 2, (Block("ir4", 24, 2), Block("ir4", 24, 1), Block("dw3", 32, 2))
    )
    base = TrainConfig(float_epochs=5, qat_epochs=0, batch_size=32, threads=1)
    found = {}
    for kind in ("taylor", "scale", "random"):
        options = PruneConfig(fraction=0.5, importance=kind, rounds=1, round_steps=0, batches=16, epochs=1)
        pruned = prune_and_train(architecture, digits, replace(base, prune=options), judge, seed=0)
        found[kind] = pruned.record["rounds"][0]["val_accuracy_cut"]
        assert pruned.record["before"]["val_accuracy"] > 0.9
    assert found["taylor"] > found["random"] + 0.1, found
    assert found["taylor"] >= found["scale"], found
