"""Conditions that a model meets: other inputs, small batches, lower clocks, load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.boards import load_board
from pipeline.cli.outcome import print_outcome
from pipeline.errors import ConfigError
from pipeline.figures import Figure
from pipeline.report.html import templates
from pipeline.report.junit import GROUPS, junit_xml
from pipeline.robustness import (
    RobustnessConfig,
    accuracy_under,
    batch_accuracies,
    hold_checks,
    latency_under,
    section,
)
from pipeline.rundocument import add_robustness
from pipeline.runfile import load_runfile
from pipeline.space.budgets import Budgets
from pipeline.space.exits import ExitRule
from pipeline.stages import search_target

M4 = load_board("qemu-cortex-m4")
HALF = M4.clock_hz // 2


@pytest.mark.parametrize(
    ("field", "value"),
    [("rotate_degrees", (0.0,)), ("noise", (1.5,)), ("images", 0), ("batches", (0,)), ("skew", 0.0), ("draws", 1),
     ("clocks_hz", (0,)), ("loads", (0.5,)), ("loads", (float("inf"),)), ("hold", True)],
)  # fmt: skip
def test_settings_without_meaning_are_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"robustness.{field}"):
        RobustnessConfig(**{field: value})


def test_held_budgets_keep_the_real_one_under_the_worst_condition() -> None:
    config = RobustnessConfig(clocks_hz=(HALF,), loads=(1.25, 1.5), hold=True)
    held = config.held(Budgets(latency_ms=60.0, sram_bytes=1000), M4)
    assert held == Budgets(latency_ms=20.0, sram_bytes=1000)
    cycles = held.latency_ms / 1e3 * M4.clock_hz  # type: ignore[operator]
    rows = latency_under(config, M4, cycles, 60.0, "modelled")
    assert len(rows) == 6
    assert max(row["latency_ms"]["value"] for row in rows) == pytest.approx(60.0)
    kept = hold_checks(section(config, M4, 0.999 * cycles, Budgets(latency_ms=60.0), None))
    assert len(kept) == 6 and all(check["ok"] for check in kept)
    over = hold_checks(section(config, M4, 1.01 * cycles, Budgets(latency_ms=60.0), None))
    broken = [check["detail"] for check in over if not check["ok"]]
    assert len(broken) == 1 and f"{HALF / 1e6:g} MHz, load 1.5, over" in broken[0]


def test_a_condition_that_is_not_held_fails_in_the_labs_file_too() -> None:
    config = RobustnessConfig(loads=(2.0,), hold=True)
    document: dict[str, Any] = {"checks": [], "reasons": [], "feasible": True}
    part = section(config, M4, M4.clock_hz * 6e-3, Budgets(latency_ms=10.0), None, "estimated")
    add_robustness(document, part)
    assert not document["feasible"] and len(document["reasons"]) == 1
    assert "12.00 ms (estimated" in document["reasons"][0]
    whole = {key: {} for key in GROUPS} | {
        "name": "n",
        "created": "2026-01-01 00:00 UTC",
        "board": {"name": "b"},
    }
    text = junit_xml(whole | document)
    assert 'tests="2" failures="1"' in text and document["reasons"][0] in text


def test_every_board_of_a_search_gets_the_held_budget() -> None:
    config = RobustnessConfig(loads=(2.0,), hold=True)
    cost: Any = SimpleNamespace(board=M4)
    target = search_target(cost, Budgets(latency_ms=60.0), config)
    assert target.budgets.latency_ms == 30.0
    assert target.budgets.sram_bytes == M4.memory.sram.bytes


def test_without_hold_budgets_stay_and_conditions_are_shown() -> None:
    config = RobustnessConfig(clocks_hz=(HALF,), loads=(2.0,))
    budgets = Budgets(latency_ms=10.0)
    assert config.held(budgets, M4) is budgets
    part = section(config, M4, M4.clock_hz * 4e-3, budgets, None)  # 4 ms
    assert part is not None
    assert [row["holds"] for row in part["latency"]] == [True, True, True, False]
    assert part["highest_load"] == pytest.approx(2.5)
    assert part["slowest_clock_hz"] == pytest.approx(M4.clock_hz / 2.5, abs=1)
    assert not hold_checks(part)
    assert section(RobustnessConfig(), M4, 1e6, budgets, None) is None


@pytest.mark.parametrize(
    ("name", "told"),
    [("qemu-cortex-m4", True), ("host", False), ("nucleo-f446re", False)],  # the others: times, wait states
)
def test_how_slow_a_clock_may_be_is_said_where_the_table_tells_it(
    name: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    board = load_board(name)
    config, budgets = RobustnessConfig(loads=(2.0,)), Budgets(latency_ms=10.0)
    part = section(config, board, board.clock_hz * 4e-3, budgets, None)
    assert part is not None and (part["slowest_clock_hz"] is not None) == told
    document: dict[str, Any] = {"accuracy": {}, "budgets": {}}
    predicted = Figure(4.0, "ms", "modelled").to_json()
    document |= {"latency_ms": {"predicted": predicted}, "robustness": part}
    document |= {"name": "n", "parameters": 1, "reasons": [], "feasible": True}
    document |= {"parity": {"images": 1, "mismatches": 0, "reference": "it"}}
    environment = templates()
    assert environment.loader is not None
    source = environment.loader.get_source(environment, "report.html.j2")[0]
    (line,) = (line for line in source.splitlines() if "b.highest_load" in line)
    page = environment.from_string("{% macro tag(p) %}{% endmacro %}" + line).render(b=part, r=document)
    print_outcome(document)
    said = " ".join(capsys.readouterr().out.split())
    assert "up to a load of 2.50" in said and "up to a load of 2.5 " in page
    assert ("MHz without load" in said, "MHz without load" in page) == (told, told)


def test_hold_needs_a_latency_budget() -> None:
    with pytest.raises(ConfigError, match="without a latency budget"):
        RobustnessConfig(loads=(2.0,), hold=True).held(Budgets(), M4)


def test_a_clock_that_the_table_cannot_be_scaled_to_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"robustness.clocks_hz = .* above"):
        RobustnessConfig(clocks_hz=(2 * M4.clock_hz,)).conditions(M4)
    waiting = replace(M4, memory=replace(M4.memory, flash=replace(M4.memory.flash, wait_states=4)))
    with pytest.raises(ConfigError, match="wait states"):
        RobustnessConfig(clocks_hz=(HALF,)).conditions(waiting)


def test_the_run_file_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('board = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 5.0\n[robustness]\nloads = [0.5]\n')
    with pytest.raises(ConfigError, match="loads"):
        load_runfile(path)
    path.write_text(
        'board = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 5.0\n[robustness]\nloads = [2.0]\nhold = true\n'
    )
    run = load_runfile(path)
    assert run.robustness.held(run.budgets, run.board).latency_ms == 2.5


def test_each_condition_is_complained_of_in_its_own_line(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    text = 'board = "nucleo-l4r5zi"\n[budgets]\nlatency_ms = 5.0\n[robustness]\nhold = true\nclocks_hz = [2_000_000]\n'
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.toml:6: the table of nucleo-l4r5zi cannot be scaled"):
        load_runfile(path)


def test_with_exits_each_image_is_judged_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array([[90, 0], [90, 0], [10, 0]], np.int8)  # sure of class 0, sure, not sure
    final = np.array([[0, 90], [0, 90], [0, 90]], np.int8)
    monkeypatch.setattr("pipeline.robustness.int8_logits", lambda model, x: [first, final])
    data: Any = SimpleNamespace(x_test=np.zeros((3, 2, 2, 1), np.uint8), y_test=np.array([0, 0, 1]))
    config = RobustnessConfig(noise=(0.1,), images=3)
    found = accuracy_under(config, b"", data, 0, ExitRule((50,)))["inputs"]
    assert [row["accuracy"]["value"] for row in found] == [1.0, 1.0]
    assert "thresholds" in found[0]["accuracy"]["note"]
    alone = accuracy_under(config, b"", data, 0)["inputs"]
    assert alone[0]["accuracy"]["value"] == pytest.approx(1 / 3)


def test_even_batches_follow_the_binomial_distribution() -> None:
    right = np.arange(1000) < 800
    drawn = batch_accuracies(right, np.zeros(1000, np.int64), 50, 20_000, None, np.random.default_rng(1))
    assert drawn.mean() == pytest.approx(0.8, abs=0.002)
    assert drawn.var() == pytest.approx(0.8 * 0.2 / 50, rel=0.05)


def test_uneven_classes_spread_as_far_as_the_classes_differ() -> None:
    labels = np.repeat(np.arange(4), 250)
    right = labels < 2  # two classes always right, two never
    rng = np.random.default_rng(2)
    drawn = batch_accuracies(right, labels, 100, 5000, 0.3, rng)
    # the share p of two of four Dirichlet(0.3) classes is Beta(0.6, 0.6), then a binomial of 100
    variance = 0.25 / 2.2
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var() == pytest.approx(variance + (0.25 - variance) / 100, rel=0.05)
    assert batch_accuracies(right, labels, 5, 50, 1e-6, rng).min() >= 0.0  # one class a batch


def test_accuracy_of_an_exported_file_on_changed_images() -> None:
    pytest.importorskip("torch")
    from test_export import HAND_MADE, trained

    from pipeline.export import evaluate_int8, write_tflite

    content = write_tflite(trained(HAND_MADE["ends linear"], 4))
    rng = np.random.default_rng(5)
    data = SimpleNamespace(
        x_test=rng.integers(0, 256, (90, 16, 16, 1), dtype=np.uint8), y_test=rng.integers(0, 2, 90)
    )
    config = RobustnessConfig(rotate_degrees=(180.0,), noise=(0.2,), images=60, batches=(8,), draws=200)
    found = accuracy_under(config, content, data, 0)  # type: ignore[arg-type]
    chosen = np.linspace(0, 89, 60).round().astype(int)
    unchanged, turned, noise = found["inputs"]
    assert found["images"] == 60
    assert unchanged["accuracy"]["value"] == evaluate_int8(content, data.x_test[chosen], data.y_test[chosen])
    upside_down = np.ascontiguousarray(data.x_test[chosen][:, ::-1, ::-1])
    assert turned["accuracy"]["value"] == evaluate_int8(content, upside_down, data.y_test[chosen])
    assert noise["change"] == noise["accuracy"]["value"] - unchanged["accuracy"]["value"]
    assert [row["size"] for row in found["batches"]] == [8, 8]
    assert found == accuracy_under(config, content, data, 0)  # type: ignore[arg-type]
