"""Whole searches: budgets always hold, failures are explained, interruptions leave no trace."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from search_standins import DATA, SEARCHES, SMALL, TINY, MacCost

from pipeline.boards import load_board
from pipeline.errors import ConfigError, DataError, LutError
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.profiler.profile import lut_path
from pipeline.search import SearchResult, edgenas, search
from pipeline.search.hwdartsconfig import HwDartsConfig
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.settings import CELL_METHODS
from pipeline.space import Budgets, Cost, OpGraph, OpSpec, lower, parameters
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.tomltable import MOST_RATE

CELLS = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", SEARCHES)
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
    "method, gradient", [("edgenas", "straight-through"), *((name, "score") for name in SEARCHES)]
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
    # Another search neither picks this checkpoint up nor writes over it, and says why.
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another search: seed differ"):
        search(SMALL, DATA, MacCost(), budgets, config, seed=8, checkpoint=path)
    with pytest.raises(ConfigError, match="another search: latency table, settings differ"):
        faster = MacCost(layer_overhead_ms=0.002)
        search(SMALL, DATA, faster, budgets, replace(config, mu=0.2), seed=7, checkpoint=path)
    with pytest.raises(ConfigError, match="another search: search space"):
        narrow = replace(SMALL, channels=(8,))
        search(narrow, DATA, MacCost(), budgets, config, seed=7, checkpoint=path)
    assert path.read_bytes() == before


@dataclass(frozen=True)
class Elsewhere(MacCost):
    """Only the classifier costs something else, or only the memory beside the arena."""

    classifier: float = 1.0
    static_bytes: int = 0

    def op_latency_ms(self, op: OpSpec) -> float:
        return super().op_latency_ms(op) * (self.classifier if op.kind == "fully_connected" else 1.0)

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        cost = super().evaluate(graph, parameters)
        return replace(cost, sram_bytes=cost.sram_bytes + self.static_bytes)


@pytest.mark.parametrize("change", [{"classifier": 3.0}, {"static_bytes": 512}], ids=str)
@pytest.mark.parametrize(("space", "method"), [(SMALL, "random"), (CELLS, "random")], ids=["blocks", "cells"])
def test_a_checkpoint_of_other_costs_is_refused(tmp_path, space, method, change):
    path, config = tmp_path / "search.pt", replace(TINY, method=method, proxy_steps=1)
    budgets = Budgets(latency_ms=5.0, sram_bytes=20000)
    assert search(space, DATA, MacCost(), budgets, config, seed=1, checkpoint=path).feasible
    with pytest.raises(ConfigError, match="another search: latency table differ"):
        search(space, DATA, Elsewhere(**change), budgets, config, seed=1, checkpoint=path)


def test_every_budget_has_its_own_coefficient():
    """Latency is ample and parameters are not: the coefficient of the one stays, that of the other grows."""
    budgets = Budgets(latency_ms=50.0, sram_bytes=90_000, parameters=800)
    with mock.patch.object(edgenas, "anchor_path", lambda judge: ((SMALL.ops.index("ir6"), 1),) * 3):
        last = search(SMALL, DATA, MacCost(), budgets, TINY, seed=2).history[-1]
    assert last["mu"] == TINY.mu and last["nu_sram_bytes"] == TINY.nu < last["nu_parameters"]
    assert "nu_flash_bytes" not in last


@pytest.mark.parametrize(
    ("space", "method"),
    [(SMALL, "edgenas"), (SMALL, "random"), (CELLS, "hypernetwork"), (CELLS, "random")],
    ids=["blocks-edgenas", "blocks-random", "cells-hypernetwork", "cells-random"],
)
def test_a_search_that_diverges_says_where_and_keeps_its_checkpoint(tmp_path, space, method):
    path = tmp_path / "search.pt"
    config = replace(TINY, method=method, steps=40, proxy_steps=40, checkpoint_seconds=1e-9)
    wild = replace(config, weight_lr=1e35)
    with pytest.raises(
        ConfigError, match=r"diverged: .*; first in (the stem|block \d|cell \d, |the classifier|the back)"
    ) as error:
        search(space, DATA, MacCost(), Budgets(latency_ms=3.0), wild, seed=0, checkpoint=path)
    assert space is CELLS or "lower search.weight_lr" in error.value.hint
    if method != "random":
        weights = torch.load(path, weights_only=True)["state"]["net"]
        assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.parametrize("method", ["random", "evolution"])
def test_a_contest_whose_last_step_diverges_is_no_result(method: str):
    """One step of each training: its loss and gradient are numbers, what the network then says is not."""
    wild = replace(TINY, method=method, proxy_steps=1, weight_lr=1e35)
    with pytest.raises(ConfigError, match="validation gives no numbers; first in") as error:
        search(SMALL, DATA, MacCost(), Budgets(), wild, seed=0)
    assert "lower search.weight_lr" in error.value.hint


@pytest.mark.parametrize("gradient", ["score", "straight-through"])
@pytest.mark.parametrize(
    ("method", "rate"),
    [("edgenas", "architecture_lr"), ("hwdarts", "architecture_lr"), ("hypernetwork", "hyper.lr")],
)
def test_choices_that_diverge_are_told_from_weights(method, rate, gradient, tmp_path):
    wild = {"hyper": HyperConfig(lr=MOST_RATE)} if rate == "hyper.lr" else {rate: MOST_RATE}
    wild |= {"hwdarts": HwDartsConfig(lambdas=(0.1,))} if method == "hwdarts" else {}  # several steps of one
    wild["temperature_end"] = 0.01
    config = replace(TINY, method=method, gradient=gradient, checkpoint_seconds=1e-9, **wild)
    path = tmp_path / "search.pt"
    with pytest.raises(ConfigError, match=r"diverged: .* first in what chooses among the operators") as error:
        search(SMALL, DATA, MacCost(), Budgets(latency_ms=3.0), config, seed=0, checkpoint=path)
    assert f"lower search.{rate};" in error.value.hint
    kept = torch.load(path, weights_only=True)["state"]["relaxation"]
    assert all(torch.isfinite(value).all() for value in kept.values())


@pytest.mark.parametrize(("method", "rate"), [("edgenas", "architecture_lr"), ("hypernetwork", "hyper.lr")])
def test_weights_that_blow_up_a_gradient_through_gates_are_named_besides_the_choices(method, rate):
    """No layer has a value that is not finite: only the way back through the large weights does."""
    wild = replace(TINY, method=method, gradient="straight-through", weight_lr=1e7)
    with pytest.raises(ConfigError, match="its gradient's norm is inf") as error:
        search(SMALL, DATA, MacCost(), Budgets(), wild, seed=0)
    assert f"lower search.{rate} or search.weight_lr;" in error.value.hint


@pytest.mark.parametrize(
    ("space", "method", "kind"),
    [(SMALL, "edgenas", "mul"), (SMALL, "random", "max_pool"), (CELLS, "hypernetwork", "add")],
)
def test_a_table_that_lacks_an_operator_of_the_space_is_told_before_training(space, method, kind):
    board = load_board("qemu-cortex-m4")
    lut = Lut.load(lut_path(board))
    rest = replace(lut, rows={key: row for key, row in lut.rows.items() if row.op.kind != kind})
    steps = []
    with pytest.raises(
        LutError, match=f"table of qemu-cortex-m4 has no operator .*needed by {kind}:"
    ) as error:
        search(
            space,
            DATA,
            CostModel(board, rest),
            Budgets(),
            replace(TINY, method=method),
            seed=0,
            on_step=steps.append,
        )
    assert "edgenas profile --board qemu-cortex-m4" in error.value.hint and not steps


def test_a_class_that_one_split_lacks_is_named():
    data = SimpleNamespace(**{f"{a}_{s}": getattr(DATA, f"{a}_{s}") for a in "xy" for s in ("train", "val")})
    keep = data.y_val != 2
    data.x_val, data.y_val = data.x_val[keep], data.y_val[keep]
    with pytest.raises(DataError, match="val split has no image of class 2"):
        search(SMALL, data, MacCost(), Budgets(), TINY, seed=0)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="0 CUDA devices"):
        search(SMALL, DATA, MacCost(), Budgets(), replace(TINY, device="cuda"), seed=0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("mps", "mps:1"):
        with pytest.raises(ConfigError, match=rf"search\.device is '{name}', .* no such device") as error:
            search(SMALL, DATA, MacCost(), Budgets(), replace(TINY, device=name), seed=0)
        assert "auto" in error.value.hint
    with pytest.raises(ConfigError, match=r"search\.device"):
        replace(TINY, device="gpu")


LONG = [*((SMALL, name) for name in SEARCHES), *((CELLS, name) for name in CELL_METHODS)]


@pytest.mark.parametrize(("space", "method"), LONG)
def test_an_interruption_costs_no_whole_training(tmp_path, space, method):
    """Interrupted every 20 steps: a training of 30 that began anew each time would never end."""
    config = replace(
        TINY, method=method, semifinalists=1, semifinal_steps=30, finalists=1, proxy_steps=30, checkpoint_seconds=1e-9,
        batch_size=32, hwdarts=HwDartsConfig(lambdas=(0.1,)) if method == "hwdarts" else TINY.hwdarts,
    )  # fmt: skip
    options = {"seed": 7, "checkpoint": tmp_path / "search.pt"}
    straight = search(space, DATA, MacCost(), Budgets(latency_ms=3.0), config, seed=7)
    calls, seen = 0, []

    def stop_often(record) -> None:
        nonlocal calls
        calls, _ = calls + 1, seen.append(record)
        if calls % 20 == 0:
            raise Stop

    for _ in range(40):
        try:
            resumed = search(
                space, DATA, MacCost(), Budgets(latency_ms=3.0), config, on_step=stop_often, **options
            )
            break
        except Stop:
            continue
    assert resumed.to_json() == straight.to_json()
    assert seen[-1]["done"] <= seen[-1]["total"]
    assert [path.name for path in tmp_path.iterdir()] == ["search.pt"]


@pytest.mark.parametrize("method", ["edgenas", "random", "evolution"])
def test_trainings_side_by_side_give_the_same_and_stop_together(tmp_path, method):
    config = replace(TINY, method=method, semifinal_steps=6, proxy_steps=8, checkpoint_seconds=1e-9)
    budgets = Budgets(latency_ms=3.0)
    alone = search(SMALL, DATA, MacCost(), budgets, config, seed=3)
    crew = replace(config, workers=3)
    # One thread each, as alone: the same to the last bit.
    assert search(SMALL, DATA, MacCost(), budgets, crew, seed=3).to_json() == alone.to_json()
    path, seen = tmp_path / "search.pt", []

    def stop_late(record) -> None:
        seen.extend([record["done"]] if record["phase"] in ("semifinal", method) else [])
        if seen and len(seen) in (7, 16):
            seen.append(0)
            raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            search(SMALL, DATA, MacCost(), budgets, crew, seed=3, checkpoint=path, on_step=stop_late)
        assert not any("ThreadPool" in t.name for t in threading.enumerate())
    resumed = search(SMALL, DATA, MacCost(), budgets, crew, seed=3, checkpoint=path, on_step=stop_late)
    assert resumed.to_json() == alone.to_json()


def test_a_damaged_checkpoint_is_ignored(tmp_path):
    path = tmp_path / "search.pt"
    path.write_bytes(b"not a checkpoint")
    result = search(SMALL, DATA, MacCost(), Budgets(latency_ms=3.0), TINY, seed=1, checkpoint=path)
    assert result.to_json() == search(SMALL, DATA, MacCost(), Budgets(latency_ms=3.0), TINY, seed=1).to_json()


def test_history_and_progress():
    seen: list[dict] = []
    budgets = Budgets(latency_ms=2.0, sram_bytes=8000, parameters=800)
    result = search(SMALL, DATA, MacCost(), budgets, TINY, seed=2, on_step=seen.append)
    assert [record["step"] for record in result.history] == list(range(TINY.steps))
    assert {
        "train_loss", "val_loss", "val_accuracy", "latency_ms", "answer_latency_ms", "sram_bytes", "mu",
        "nu_sram_bytes", "nu_parameters", "multiplier_latency_ms", "temperature", "entropy",
    } <= set(result.history[0])  # fmt: skip
    assert result.history[0]["temperature"] == pytest.approx(TINY.temperature_start)
    assert result.history[-1]["temperature"] == pytest.approx(TINY.temperature_end)
    mu = [record["mu"] for record in result.history]
    factor = TINY.penalty_growth ** (100 / TINY.steps)
    for before, after, record in zip(mu, mu[1:], result.history, strict=False):
        assert after == pytest.approx(
            min(TINY.penalty_cap, before * (factor if record["answer_latency_ms"] > 2.0 else 1.0))
        )
    assert [s["done"] for s in seen] == sorted(s["done"] for s in seen)
    assert seen[-1]["done"] == seen[-1]["total"]


def test_the_penalty_brings_the_answer_below_its_budget():
    config = replace(TINY, steps=120, architecture_lr=0.1)
    with mock.patch.object(edgenas, "anchor_path", lambda judge: ((SMALL.ops.index("ir6"), 1),) * 3):
        result = search(SMALL, DATA, MacCost(), Budgets(latency_ms=1.5), config, seed=0)
    assert result.history[0]["answer_latency_ms"] > 1.5 * 1.5
    assert result.relaxed is not None and result.relaxed.cost.latency_ms <= 1.5 * 1.05


@pytest.mark.parametrize("seed", range(3))
def test_an_undecided_distribution_does_not_push_its_answer_far_below_the_budget(seed):
    """The anchor fits and the expectation over the other choices does not: that alone moves nothing."""
    limit = MacCost().evaluate(lower(SMALL.build([("dw3", 16)] * 3)), 0).latency_ms * 1.05
    result = search(SMALL, DATA, MacCost(), Budgets(latency_ms=limit), replace(TINY, steps=20), seed=seed)
    first = result.history[0]
    assert first["latency_ms"] > limit > first["answer_latency_ms"]
    assert result.relaxed is not None and 0.8 * limit < result.relaxed.cost.latency_ms <= limit


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
