"""Training with early exits, and which of them stay: against brute force, and on a file that was really trained."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_standins import MacCost
from test_train import ARCHITECTURE, CONFIG, data_set, states_equal

from pipeline.boards import load_board
from pipeline.engine import load
from pipeline.engine.host import HostModel
from pipeline.errors import ConfigError, DataError
from pipeline.export import TflmReference, to_int8
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.profiler.profile import lut_path
from pipeline.progress import Reporter
from pipeline.search import SearchConfig
from pipeline.search.costs import build_tables, exact_cost
from pipeline.search.exitconfig import ExitConfig
from pipeline.search.exits import ExitChoice, Latencies, choose_exits
from pipeline.space import Architecture, Budgets, lower
from pipeline.space.exits import ExitRule
from pipeline.space.search_space import SearchSpace
from pipeline.stages import export
from pipeline.train import Progress, QatResult, TrainConfig, train_qat

WITH_EXITS = replace(ARCHITECTURE, exits=(0, 1))
LONGER = replace(CONFIG, float_epochs=4, exit_weight=0.5)


def brute_force(
    outputs: list[np.ndarray], labels: np.ndarray, latencies: list[float], drop: float
) -> tuple[float, int]:
    """Least expected latency and, there, most right answers, over every subset and all thresholds 1 to 255."""
    n = len(labels)
    final_right = int((outputs[-1].argmax(1) == labels).sum())
    best = (latencies[-1], final_right)
    for size in range(1, len(outputs)):
        for kept in itertools.combinations(range(len(outputs) - 1), size):
            chosen = [outputs[i] for i in kept] + [outputs[-1]]
            times = np.array([latencies[i] for i in kept] + [latencies[-1]])
            for thresholds in itertools.product(range(1, 256), repeat=size):
                taken = ExitRule(thresholds).taken(chosen)
                right = sum(int(chosen[t][i].argmax() == labels[i]) for i, t in enumerate(taken))
                if right >= final_right - drop * n - 1e-9:
                    best = min(
                        best, (float(times[taken].mean()), -right), key=lambda b: (round(b[0], 9), b[1])
                    )
    return best


def few_logits(rng: np.random.Generator, n: int, outputs: int) -> tuple[list[np.ndarray], np.ndarray]:
    labels = rng.integers(0, 3, n)
    found = []
    for depth in range(outputs):
        logits = rng.integers(-40, 40, (n, 3))
        logits[np.arange(n), labels] += rng.integers(0, 30 * (depth + 1), n)
        found.append(np.clip(logits, -128, 127).astype(np.int8))
    return found, labels


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.25, 0.9]), st.integers(1, 30))
def test_one_exit_is_chosen_as_brute_force_does(seed: int, drop: float, n: int) -> None:
    outputs, labels = few_logits(np.random.default_rng(seed), n, 2)
    choice = choose_exits(outputs, labels, lambda kept: Latencies([2.0] * len(kept) + [5.0]), drop)
    latency, _ = brute_force(outputs, labels, [2.0, 5.0], drop)
    assert choice.expected_ms == pytest.approx(latency)
    assert choice.accuracy >= choice.final_accuracy - drop - 1e-9


def test_two_exits_are_chosen_as_brute_force_does() -> None:
    rng = np.random.default_rng(5)
    outputs, labels = few_logits(rng, 12, 3)
    # small margins, so that brute force has few thresholds that differ
    outputs = [np.array(y // 12, np.int8) for y in outputs]
    times = [1.0, 3.0, 7.0]

    def latencies(kept: tuple[int, ...]) -> Latencies:
        return Latencies([times[i] for i in kept] + [times[-1] + 0.5 * len(kept)])

    choice = choose_exits(outputs, labels, latencies, 0.1)
    best = 7.0
    final_right = int((outputs[-1].argmax(1) == labels).sum())
    for kept in ((0,), (1,), (0, 1)):
        chosen = [outputs[i] for i in kept] + [outputs[-1]]
        for thresholds in itertools.product(range(1, 25), repeat=len(kept)):
            taken = ExitRule(thresholds).taken(chosen)
            right = sum(int(chosen[t][i].argmax() == labels[i]) for i, t in enumerate(taken))
            if right >= final_right - 0.1 * 12 - 1e-9:
                best = min(best, float(np.array(latencies(kept).ms)[taken].mean()))
    assert choice.expected_ms == pytest.approx(best)
    assert best < 7.0


def test_a_budget_leaves_an_exit_out() -> None:
    outputs, labels = few_logits(np.random.default_rng(1), 200, 3)

    def latencies(kept: tuple[int, ...]) -> Latencies:
        return Latencies([2.0] * len(kept) + [5.0], f"too slow: {kept}" if 0 in kept else "")

    choice = choose_exits(outputs, labels, latencies, 0.5)
    assert choice.kept == (1,)
    assert set(choice.refused) == {"too slow: (0,)", "too slow: (0, 1)"}


@pytest.mark.parametrize("goal_ms", [0.0, 1.0])
def test_a_network_over_budget_counts_with_what_it_takes(goal_ms: float) -> None:
    outputs, labels = few_logits(np.random.default_rng(1), 200, 2)

    def choose(refused: tuple[tuple[int, ...], ...]) -> ExitChoice:
        def latencies(kept: tuple[int, ...]) -> Latencies:
            return Latencies([2.0] * len(kept) + [5.0], f"over: {kept}" if kept in refused else "")

        return choose_exits(outputs, labels, latencies, 0.5, goal_ms=goal_ms)

    found = choose(((),))
    assert found.kept == (0,) and found.refused == ("over: ()",)
    assert found == replace(choose(()), refused=found.refused)
    none = choose(((), (0,)))
    assert none.kept == () and none.refused == ("over: (0,)",)
    assert none.expected_ms == 5.0 and none.met is not bool(goal_ms)


def test_exits_that_save_nothing_go() -> None:
    outputs, labels = few_logits(np.random.default_rng(1), 200, 2)
    choice = choose_exits(outputs, labels, lambda kept: Latencies([5.0] * len(kept) + [5.0]), 0.5)
    assert choice.kept == () and choice.rule is None and choice.expected_ms == 5.0


def test_four_exits_on_a_coarse_grid_keep_the_accuracy() -> None:
    outputs, labels = few_logits(np.random.default_rng(2), 3000, 5)
    times = (1.0, 2.0, 3.0, 4.0, 5.0)
    choice = choose_exits(outputs, labels, lambda kept: Latencies([times[i] for i in kept] + [5.0]), 0.02)
    taken = ExitRule(choice.thresholds).taken([outputs[i] for i in choice.kept] + [outputs[-1]])
    assert np.bincount(taken, minlength=len(choice.counts)).tolist() == list(choice.counts)
    assert choice.final_accuracy - 0.02 <= choice.accuracy
    assert choice.expected_ms < 5.0 and choice == choose_exits(
        outputs, labels, lambda kept: Latencies([times[i] for i in kept] + [5.0]), 0.02
    )


def test_no_validation_images() -> None:
    with pytest.raises(DataError):
        choose_exits(
            [np.zeros((0, 3), np.int8)] * 2,
            np.zeros(0, np.int64),
            lambda kept: Latencies([1.0] * (len(kept) + 1)),
            0.0,
        )


@pytest.mark.parametrize("value", [-0.1, 1.0, True, "1 %"])
def test_accuracy_drop_without_meaning(value: float) -> None:
    with pytest.raises(ConfigError, match="accuracy_drop"):
        ExitConfig(accuracy_drop=value)


def test_tables_of_a_space_with_exits_are_exact() -> None:
    space = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1), channels=(8, 16), exits=(0, 1))
    cost, rng = MacCost(), np.random.default_rng(4)
    tables = build_tables(space, cost)
    for _ in range(20):
        architecture = space.random(rng)
        assert architecture.exits == (0, 1)
        path = [
            (space.ops.index(b.op), space.channels.index(b.channels) if b.op != "skip" else 0)
            for b in architecture.blocks
        ]
        exact = exact_cost(cost, architecture)
        assert tables.path_latency_ms(path) == pytest.approx(exact.latency_ms)
        assert tables.path_parameters(path) == exact.parameters
    assert SearchConfig().exits == ExitConfig()


# -- training and export ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> QatResult:
    return train_qat(WITH_EXITS, data_set(), LONGER, seed=1)


def test_exits_learn(trained: QatResult) -> None:
    data = data_set()
    outputs = trained.network.int8_each(to_int8(data.x_test))
    for output in outputs:
        assert (output.argmax(1) == data.y_test).mean() > 0.7


def test_the_joint_loss_is_the_weighted_sum() -> None:
    data = data_set()
    weights = []
    for share in (0.3, 3.0):
        short = TrainConfig(float_epochs=1, qat_epochs=1, batch_size=32, threads=1, exit_weight=share)
        network = train_qat(WITH_EXITS, data, short, seed=1).network
        weights.append(network.state_dict()["layers.0.weight"])
    assert not torch.equal(*weights)
    with pytest.raises(ConfigError, match="exit_weight"):
        TrainConfig(exit_weight=0.0)


def test_resume_with_exits_is_exact(tmp_path: Path, trained: QatResult) -> None:
    class Stop(Exception):
        pass

    def interrupt(progress: Progress) -> None:
        if progress.step == 27:
            raise Stop

    file = tmp_path / "train.pt"
    with pytest.raises(Stop):
        train_qat(WITH_EXITS, data_set(), LONGER, seed=1, checkpoint=file, on_step=interrupt)
    resumed = train_qat(WITH_EXITS, data_set(), LONGER, seed=1, checkpoint=file)
    assert states_equal(resumed.network, trained.network)


@pytest.fixture(scope="module")
def cost() -> CostModel:
    board = load_board("qemu-cortex-m4")
    return CostModel(board, Lut.load(lut_path(board)))


@pytest.mark.parametrize("drop", [0.0, 0.05])
def test_exported_file_follows_the_choice(
    tmp_path: Path, trained: QatResult, cost: CostModel, drop: float
) -> None:
    data, path = data_set(), tmp_path / "model.tflite"
    outcome = export(
        trained, data, path, Reporter(quiet=True), cost=cost, budgets=Budgets(), exits=ExitConfig(drop)
    )
    chosen = outcome["exits"]
    assert chosen["kept"], "an easy task leaves early"
    model = load(path)
    architecture = Architecture.from_json(outcome["architecture"])
    assert list(architecture.exits) == chosen["kept"]
    assert [e.threshold for e in model.exits] == list(chosen["validation"]["thresholds"])
    # the engine itself, on the validation split: counts, accuracy, expected latency
    answers = HostModel(model).run(to_int8(data.x_val))
    counts = np.bincount(answers[:, -1], minlength=len(model.exits) + 1)
    assert counts.tolist() == list(chosen["validation"]["counts"])
    accuracy = float((answers[:, :-1].argmax(1) == data.y_val).mean())
    assert accuracy == chosen["validation"]["accuracy"]
    final = float((TflmReference(path.read_bytes()).run(to_int8(data.x_val)).argmax(1) == data.y_val).mean())
    assert accuracy >= final - drop - 1e-9
    latencies = cost.exit_latencies_ms(lower(architecture))
    assert chosen["validation"]["expected_ms"] == pytest.approx(
        float(np.dot(latencies, counts) / counts.sum())
    )
    assert chosen["validation"]["expected_ms"] < cost.latency_ms(lower(replace(architecture, exits=())))
    assert chosen["validation"]["worst_case_ms"] == latencies[-1]
    # and on the test split
    tested = HostModel(model).run(to_int8(data.x_test))
    right = float((tested[:, :-1].argmax(1) == data.y_test).mean())
    assert outcome["accuracy"]["int8"]["value"] == chosen["test"]["accuracy"] == right
    assert sum(chosen["test"]["counts"]) == len(data.y_test)
    # which accuracies are the rule's, and which know the last output alone
    alone = {k: "final output alone" in found["note"] for k, found in outcome["accuracy"].items()}
    assert alone == {"float": True, "fake_quantized": True, "int8": False, "int8_final_output": True}


def test_budgets_hold_for_the_worst_case(tmp_path: Path, trained: QatResult, cost: CostModel) -> None:
    alone = cost.latency_ms(lower(ARCHITECTURE))
    outcome = export(
        trained, data_set(), tmp_path / "m.tflite", Reporter(quiet=True), cost=cost,
        budgets=Budgets(latency_ms=alone * 1.0001), exits=ExitConfig(0.2),
    )  # fmt: skip
    assert outcome["exits"]["kept"] == []
    assert len(outcome["exits"]["validation"]["refused"]) == 3
    assert "over latency" in outcome["exits"]["validation"]["refused"][0]
    assert load(tmp_path / "m.tflite").exits == ()


def test_a_network_over_its_budgets_is_reported_with_its_own_latency(
    tmp_path: Path, trained: QatResult, cost: CostModel
) -> None:
    alone = cost.latency_ms(lower(ARCHITECTURE))
    outcome = export(
        trained, data_set(), tmp_path / "m.tflite", Reporter(quiet=True), cost=cost,
        budgets=Budgets(latency_ms=0.9 * alone), exits=ExitConfig(0.2),
    )  # fmt: skip
    found = outcome["exits"]
    assert found["kept"] == [] and len(found["validation"]["refused"]) == 3
    assert found["validation"]["expected_ms"] == found["validation"]["worst_case_ms"] == pytest.approx(alone)


def test_the_exported_file_reaches_the_goal_or_says_so(
    tmp_path: Path, trained: QatResult, cost: CostModel
) -> None:
    data, path = data_set(), tmp_path / "model.tflite"
    first, _, last = cost.exit_latencies_ms(lower(WITH_EXITS))
    for goal, met in (((first + last) / 2, True), (0.5 * first, False)):
        outcome = export(
            trained, data, path, Reporter(quiet=True), cost=cost, budgets=Budgets(),
            exits=ExitConfig(expected_latency_ms=goal),
        )  # fmt: skip
        found = outcome["exits"]
        assert found["validation"]["met"] is met and found["expected_latency_ms"] == goal
        assert (found["validation"]["expected_ms"] <= goal) is met
        # the file itself, on the engine
        model = load(path)
        counts = np.bincount(
            HostModel(model).run(to_int8(data.x_val))[:, -1], minlength=len(found["kept"]) + 1
        )
        latencies = cost.exit_latencies_ms(model.graph)
        assert found["validation"]["expected_ms"] == pytest.approx(np.dot(latencies, counts) / counts.sum())
        assert found["test"]["expected_ms"] == pytest.approx(
            np.dot(latencies, found["test"]["counts"]) / len(data.y_test)
        )


def test_a_network_that_the_search_gave_no_exits_is_held_to_the_goal_too(
    tmp_path: Path, cost: CostModel
) -> None:
    data, path = data_set(), tmp_path / "model.tflite"
    plain = train_qat(ARCHITECTURE, data, replace(CONFIG, float_epochs=1, qat_epochs=1), seed=1)
    takes = cost.latency_ms(lower(ARCHITECTURE))
    for goal, met in ((1.01 * takes, True), (0.9 * takes, False)):
        outcome = export(
            plain, data, path, Reporter(quiet=True), cost=cost, exits=ExitConfig(expected_latency_ms=goal)
        )
        found = outcome["exits"]
        assert found["allowed"] == found["kept"] == [] and load(path).exits == ()
        assert found["validation"]["met"] is met
        assert [found[split]["expected_ms"] for split in ("validation", "test")] == pytest.approx([takes] * 2)
        assert "int8_final_output" not in outcome["accuracy"]


def test_exits_need_a_table(tmp_path: Path, trained: QatResult) -> None:
    with pytest.raises(ConfigError, match="latency table"):
        export(trained, data_set(), tmp_path / "m.tflite", Reporter(quiet=True))
