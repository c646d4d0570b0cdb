"""Pictures of a report: the architecture, a cell's graph, a search's course."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.report import celldag, course, fronts, picture
from pipeline.report.plots import plt
from pipeline.space.architecture import lower, parameters
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

SPACE = SearchSpace((28, 28, 1), 10)
CHOICES = [("dw3", 32), ("ir4", 32), ("se8", 48), ("skip", 0), ("dw7", 16), ("ir2", 16), ("skip", 0)]


def layers(choices: list[tuple[str, int]], exits: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Rows as the report has them; a layer takes as many cycles as it has multiply-accumulates."""
    nodes = [
        node for node in lower(replace(SPACE.build(choices), exits=exits)).nodes if node.op.kind != "reshape"
    ]
    return [
        {
            "name": node.name,
            "op": node.op.key,
            "predicted_cycles": float(node.op.macs),
            "emulated_cycles": None,
        }
        for node in nodes
    ]


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_picture_accounts_for_every_layer_once() -> None:
    found = picture.stages(layers(CHOICES))
    architecture = SPACE.build(CHOICES)
    # a skip that keeps the image runs nothing, so it has no box
    assert [s.name for s in found] == ["stem", "block0", "block1", "block2", "block4", "block5", "head"]
    assert [s.op for s in found] == ["conv 3×3", "dw3", "ir4", "se8", "dw7", "ir2", "mean + dense"]
    assert sum(s.parameters for s in found) == parameters(architecture)
    assert sum(s.cycles for s in found) == lower(architecture).macs
    assert [s.shape for s in found][1:3] == [(14, 14, 32), (14, 14, 32)]
    # block1 (stride 1, 32 to 32) and block5 (16 to 16) add their input
    assert [s.name for s in found if s.residual] == ["block1", "block5"]


def test_the_picture_says_operators_shapes_and_shares() -> None:
    rows = layers(CHOICES)
    said = words(picture.architecture(rows))
    for text in ("dw3  /2", "ir4", "se8  /2", "mean + dense", "28×28×16", "7×7×48", "block5"):
        assert text in said
    whole = sum(row["predicted_cycles"] for row in rows)
    stem = 100 * rows[0]["predicted_cycles"] / whole
    assert f"{stem:.0f}" in said
    # the device's own cycles go before the prediction
    for row in rows:
        row["emulated_cycles"] = 1000.0 if row["name"] == "stem" else 0.0
    assert "100" in words(picture.architecture(rows))


def test_the_legend_of_the_shares_lies_over_no_bar_and_no_name() -> None:
    figure, axis = plt.subplots(figsize=(13, 1.8))
    picture._shares(axis, picture.stages(layers(CHOICES)))
    figure.canvas.draw()
    legend = axis.get_legend().get_window_extent()
    names = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
    bars = [bar.get_window_extent() for bar in axis.patches]
    shares = [text.get_window_extent() for text in axis.texts]
    assert len(names) == 7 and len(bars) == len(shares) == 14
    assert not any(legend.overlaps(box) for box in (*names, *bars, *shares))
    plt.close(figure)


def test_costs_that_hardly_differ_have_an_axis_of_whole_numbers() -> None:
    """Arenas of a family are often the same to a few bytes."""
    rows = [
        {
            "latency_ms": 20.0 + i,
            "sram_bytes": 40_932 + 4 * i,
            "accuracy": 0.1 * i,
            "proxy_steps": 2,
            "chosen": i == 2,
        }
        for i in range(3)
    ]
    said = words(fronts.candidates(rows, {"latency_ms": 50.0, "sram_bytes": 262_144}, "modelled"))
    assert not any("e1" in word for word in said), said
    assert "SRAM (KiB, modelled)" in said and "limit 256 →" in said


def test_a_course_counts_in_what_it_took_and_keeps_the_best_until_a_better_one() -> None:
    history = [
        {"step": i, "passes": 240 * (i + 1), "own_accuracy": 0.1 * i, "best_accuracy": 0.1 * i}
        for i in range(4)
    ]
    assert "images passed" in words(course.search_course(history, {}))
    for row in history:
        row["passes"] *= 100
    assert "thousand images passed" in words(course.search_course(history, {}))
    figure, axis = plt.subplots()
    course._lines(axis, history, "accuracy", ["own_accuracy", "best_accuracy"])
    own, best = axis.lines
    assert own.get_linestyle() == "None" and best.get_drawstyle() == "steps-post"
    plt.close(figure)


def test_lines_of_one_panel_all_look_different() -> None:
    names = [
        f"{kind}_{of}" for kind in ("nu", "multiplier") for of in ("latency", "sram", "flash", "parameters")
    ]
    history = [{"step": step, **dict.fromkeys(names, 0.1 * step)} for step in (1, 2)]
    figure, axis = plt.subplots()
    course._lines(axis, history, "penalty multipliers", names, logarithmic=True)
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == len(names)
    plt.close(figure)


def test_a_cell_is_one_box_and_a_graph_with_an_operator_on_every_edge() -> None:
    space = CellSpace((8, 8, 1), 4, 4, channels=(4, 4, 8), strides=(2, 1, 1), nodes=2)
    architecture = space.build((0, 1, 2, 2, 2, 0, 0, 1, 2))
    graph = architecture.lower()
    rows = [
        {"name": n.name, "op": n.op.key, "predicted_cycles": float(n.op.macs), "emulated_cycles": None}
        for n in graph.nodes
        if n.op.kind != "reshape"
    ]
    found = picture.stages(rows)
    assert [(s.name, s.op) for s in found] == [
        ("stem", "conv 3×3"), ("cell0", "cell"), ("cell1", "cell"), ("cell2", "cell"), ("head", "mean + dense"),
    ]  # fmt: skip
    assert sum(s.parameters for s in found) == parameters(architecture)
    assert "cell  /2" in words(picture.architecture(rows))
    for raw in (architecture.to_json(), {"base": architecture.to_json(), "widths": []}):
        said = words(celldag.cells(raw))
        # the first and the last cell are the same, so they are drawn once
        assert [w for w in said if "cell" in w] == ["cell0, cell2", "cell1"]
        assert [said.count(op) for op in ("conv", "pool", "identity")] == [2, 1, 3]
        assert said.count("in") == said.count("out") == 2
    assert celldag.cells(SPACE.build(CHOICES).to_json()) == ""


def test_a_skip_that_halves_is_a_box_of_its_own() -> None:
    found = picture.stages(layers([("skip", 0), ("dw3", 16), *CHOICES[2:]]))
    assert found[1].name == "block0"
    assert found[1].op == "skip"
    assert found[1].parameters == 0


@pytest.mark.parametrize(
    ("record", "titles"),
    [
        ({"train_loss": 1.0, "val_loss": 2.0, "mu": 0.1, "nu": 0.2, "latency_ms": 9.0, "entropy": 0.5},
         ("cross-entropy", "expected latency (ms)", "penalty multipliers", "how decided the search is")),
        ({"latency_ms": 9.0, "answer_latency_ms": 8.0, "mu": 0.1, "multiplier_latency_ms": 0.0},
         ("expected latency (ms)", "most probable choices", "penalty multipliers", "multiplier (latency)")),
        ({"path_loss": 1.0, "path_accuracy": 0.5, "latency_ms": 9.0, "asked_latency_ms": 8.0, "temperature": 1.0},
         ("cross-entropy", "accuracy on batches (%)", "asked for", "how decided the search is")),
        ({"w_loss": 1.0, "lambda_latency": 3.0, "gradient_norm": 2.0, "note": "text"},
         ("cross-entropy", "penalty multipliers", "gradient norm")),
    ],
    ids=["edgenas", "the answer's", "hypernetwork", "another"],
)  # fmt: skip
def test_whatever_a_method_records_is_drawn(record: dict[str, Any], titles: tuple[str, ...]) -> None:
    history = [{"step": i, **record} for i in range(5)]
    said = words(course.search_course(history, {"latency_ms": 10.0}))
    for title in titles:
        assert title in said
    assert not any("text" in text for text in said)


def test_a_sweeps_lines_end_with_their_lambda_and_a_lambda_of_0_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = [{"step": i, "lambda": 3.0 * (i // 3), "latency_ms": 9.0 - i % 3} for i in range(6)]
    monkeypatch.setattr(course, "svg", lambda figure: figure)
    figure: Any = course.search_course(history, {})
    latency, multiplier = figure.axes[:2]
    assert np.isnan(latency.get_lines()[0].get_ydata()).tolist() == [False] * 3 + [True] + [False] * 3
    assert multiplier.get_ylim()[0] <= 0.0 and multiplier.get_yscale() == "symlog"


def test_every_board_of_a_search_has_its_own_latency_and_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hypernetwork asks for one board after another: a line through both would say nothing."""
    history = [
        {"step": i, "board": i % 2, "latency_ms": 5.0 + 100 * (i % 2), "asked_latency_ms": 4.0,
         "sram_bytes": 2048.0 + i % 2, "parameters": 100.0}
        for i in range(6)
    ]  # fmt: skip
    monkeypatch.setattr(course, "svg", lambda figure: figure)
    own = {"latency_ms": 10.0, "sram_bytes": 4096.0, "parameters": 200.0}
    boards = [("slow", own), ("fast", {"latency_ms": 90.0, "sram_bytes": 8192.0})]
    figure: Any = course.search_course(history, own, boards)
    shown = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    latencies = ["expected latency (ms), slow", "expected latency (ms), fast"]
    assert list(shown) == [*latencies, "expected SRAM (KiB), slow", "expected parameters (thousands)"]
    for title, expected, limit in zip(latencies, (5.0, 105.0), (10.0, 90.0), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in shown[title].get_lines()}
        assert list(lines["expected"]) == [expected] * 3 and set(lines["limit"]) == {limit}
    assert len(shown["expected parameters (thousands)"].get_lines()[0].get_ydata()) == 6
    # reports of before the boards were named
    older: Any = course.search_course(history, own)
    titles = [axis.get_title() for axis in older.axes if axis.get_title()]
    assert titles[:2] == ["expected latency (ms), board 0", "expected latency (ms), board 1"]


def test_a_limited_memory_gets_a_panel_and_an_unlimited_one_does_not() -> None:
    history = [{"step": i, "latency_ms": 5.0, "sram_bytes": 2048.0, "flash_bytes": 4096.0} for i in range(3)]
    said = words(course.search_course(history, {"latency_ms": 10.0, "sram_bytes": 4096}))
    assert "expected SRAM (KiB)" in said
    assert "expected flash (KiB)" not in said


def test_an_early_exit_is_a_side_branch_of_the_picture() -> None:
    found = picture.stages(layers(CHOICES, exits=(1,)))
    assert [s.name for s in found][2:5] == ["block1", "exit1", "block2"]
    assert found[3].op == "early exit"
    assert "early exit" in words(picture.architecture(layers(CHOICES, exits=(1,))))
