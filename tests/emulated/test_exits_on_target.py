"""A network with early exits in QEMU: every byte and every exit as the reference interpreter and the rule say."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.engine import emit_c, load
from pipeline.export import TflmReference
from pipeline.export.freeze import freeze
from pipeline.export.tflite import serialize
from pipeline.firmware import build, render_app
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.links import open_link
from pipeline.profiler.profile import lut_path
from pipeline.report.document import core_document
from pipeline.report.html import render_html
from pipeline.space.architecture import Architecture, Block
from pipeline.space.budgets import Budgets
from pipeline.space.exits import ExitRule, margins
from pipeline.validate import Validation, validate
from pipeline.wire import Client

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_export import inputs, trained

ARCHITECTURE = Architecture(
    (28, 28, 1), 10, 16, 2,
    (Block("dw3", 16, 2), Block("ir2", 24, 1), Block("se4", 24, 1), Block("dw3", 32, 1)),
    exits=(1, 2),
)  # fmt: skip
BUDGETS = Budgets(latency_ms=100.0, sram_bytes=200_000, flash_bytes=300_000)
TOOLS = {
    "qemu-cortex-m4": ("qemu-system-arm", "arm-none-eabi-gcc"),
    "qemu-rv32": ("qemu-system-riscv32", "riscv64-unknown-elf-gcc"),
}

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("ninja")), reason="needs cmake and ninja"),
]


@pytest.fixture(scope="module")
def content() -> bytes:
    """A file whose exits each take some of the random inputs below."""
    frozen = freeze(trained(ARCHITECTURE, 1))
    outputs = TflmReference(serialize(frozen)).run_each(inputs(ARCHITECTURE, 100, seed=9))
    rule = ExitRule(tuple(int(np.quantile(margins(y), 0.6)) for y in outputs[:-1]))
    return serialize(replace(frozen, exit_rule=rule))


@pytest.mark.parametrize("name", TOOLS)
def test_bytes_exits_and_latencies(name: str, content: bytes, tmp_path: Path) -> None:
    if not all(shutil.which(tool) for tool in TOOLS[name]):
        pytest.skip(f"needs {' and '.join(TOOLS[name])}")
    board, model = load_board(name), load(content)
    cost = CostModel(board, Lut.load(lut_path(board)))
    ratio = cost.cycles_per_instruction(model.graph)
    built = build(render_app(emit_c(model), board, BUDGETS, tmp_path / "fw", ratio), board)
    x = inputs(ARCHITECTURE, 30, seed=3)
    validation = validate(model, content, built, board, x, np.zeros(30, np.int64))
    assert validation.mismatches == 0 and validation.broken == ()
    assert Validation.from_json(validation.to_json()) == validation

    outputs = TflmReference(content).run_each(x)
    expected = ExitRule(tuple(e.threshold for e in model.exits)).result(outputs)
    assert [run.images for run in validation.exits] == np.bincount(expected[:, -1], minlength=3).tolist()
    assert all(run.images for run in validation.exits), "each exit must be taken by some input"
    assert validation.accuracy == np.mean(expected[:, :-1].argmax(axis=1) == 0)

    # predictions: sizes to the byte or as a bound, latencies to each output
    predicted = cost.evaluate(model.graph, model.parameters)
    assert predicted.sram_bytes == built.sram_bytes
    assert 0 <= predicted.flash_bytes - built.flash_bytes < 1200
    assert len(validation.layer_cycles) == len(model.layers)
    latencies = cost.exit_latencies_ms(model.graph)
    assert latencies[-1] == predicted.latency_ms
    ms = 1e3 / board.clock_hz
    for latency, run in zip(latencies, validation.exits, strict=True):
        assert run.cycles is not None
        # the upper end of what is predicted, wide where operators of these widths are interpolated
        assert run.cycles * ms <= latency <= 1.02 * run.cycles * ms

    document = core_document(
        name="exits", created="now", board=board, budgets=BUDGETS, model=model,
        prediction=cost.predict(model.graph), predicted=predicted, cost=cost, build=built,
        validation=validation,
    )  # fmt: skip
    assert document["feasible"], document["reasons"]
    rates = [row["rates"]["device"]["value"] for row in document["exits"]["outputs"]]
    mean = sum(rate * latency for rate, latency in zip(rates, latencies, strict=True))
    assert document["exits"]["expected_ms"]["device"]["value"] == pytest.approx(mean)
    assert "Early exits" in render_html({**document, "architecture": ARCHITECTURE.to_json()})

    with open_link(board, built.elf) as link:  # the same through the wire, without anything in between
        client = Client(link)
        client.hello()
        assert client.describe().output_bytes == 11
        for one, row in zip(x, expected, strict=True):
            assert client.invoke(one.tobytes()).output == row.tobytes()


@NEEDS_QEMU_ARM
def test_what_no_input_reached_is_judged_by_its_prediction(tmp_path: Path) -> None:
    """Every inference ends at the first exit; the deadline lies between it and the last output's prediction."""
    content = serialize(replace(freeze(trained(ARCHITECTURE, 1)), exit_rule=ExitRule((0, 5))))
    board, model = load_board("qemu-cortex-m4"), load(content)
    cost = CostModel(board, Lut.load(lut_path(board)))
    ratio = cost.cycles_per_instruction(model.graph)
    _, second, last = cost.exit_latencies_ms(model.graph)
    budgets = replace(BUDGETS, latency_ms=(second + last) / 2)
    built = build(render_app(emit_c(model), board, budgets, tmp_path / "fw", ratio), board)
    x = inputs(ARCHITECTURE, 6, seed=3)
    validation = validate(model, content, built, board, x)
    assert [run.images for run in validation.exits] == [6, 0, 0] and validation.broken == ()

    def document(limits: Budgets) -> dict[str, Any]:
        return core_document(
            name="exits", created="now", board=board, budgets=limits, model=model,
            prediction=cost.predict(model.graph), predicted=cost.evaluate(model.graph, model.parameters),
            cost=cost, build=built, validation=validation,
        )  # fmt: skip

    found = document(budgets)
    assert not found["feasible"]
    (reason,) = found["reasons"]
    assert "output final was reached by no input" in reason and f"{last:,.3f} ms (modelled)" in reason
    held = {check["name"]: check["ok"] for check in found["checks"] if check["name"].startswith("latency to")}
    assert held == {"latency to exit1": True, "latency to exit2": True, "latency to final": False}
    assert "no input reached the last output" in found["latency_ms"]["emulated"]["note"]
    html = render_html({**found, "architecture": ARCHITECTURE.to_json()})
    assert html.count("not reached") == 2 and "no input reached the output exit2" in html
    # every figure says where it comes from
    for rows in (found["memory_map"]["sram"], found["memory_map"]["flash"]):
        assert {row["provenance"] for row in rows} <= {"measured", "modelled", "given"}
    assert found["memory_map"]["sram"][-1]["provenance"] == "given"
    assert found["stack_bytes"]["reserved"]["provenance"] == "given"
    cells = re.findall(r'<tr><td>(?:stack|kernels|weights)</td><td class="n">[^<]*</td><td>(.*?)</td>', html)
    assert len(cells) == 3 and all('class="tag' in cell for cell in cells)
    # with time for the last output it is accepted, and it is still said what was not seen
    accepted = document(replace(budgets, latency_ms=last * 1.001))
    assert accepted["feasible"] and len([w for w in accepted["warnings"] if "no input reached" in w]) == 2
    assert all(check["ok"] for check in accepted["checks"])
