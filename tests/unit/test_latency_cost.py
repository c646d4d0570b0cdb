"""CostModel: sums that can be checked by hand, on the table that ships."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.errors import LutError
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut, Row
from pipeline.memory.planner import plan
from pipeline.search.costs import build_tables
from pipeline.space.architecture import lower, parameters
from pipeline.space.kernels import select
from pipeline.space.search_space import SearchSpace

BOARD = load_board("qemu-cortex-m4")
SPACE = SearchSpace.for_input((28, 28, 1), 10)


@pytest.fixture(scope="module")
def lut() -> Lut:
    return Lut.load(asset_dir("luts") / "qemu-cortex-m4" / "edgenas.csv")


def test_the_shipped_table_covers_the_default_space(lut: Lut) -> None:
    assert lut.missing(SPACE.operators()) == []
    assert all(op in lut for op in SPACE.operators())


def test_cost_by_hand(lut: Lut) -> None:
    architecture = SPACE.random(np.random.default_rng(3))
    graph = lower(architecture)
    cost = CostModel(BOARD, lut).evaluate(graph, parameters(architecture))
    ops = [node.op for node in graph.nodes if node.op.kind != "reshape"]
    cycles = sum(lut.rows[op.key].cycles for op in ops) + len(ops) * lut.overhead.layer_cycles
    expected_ms = (cycles + lut.overhead.outside_cycles(len(ops))) / 168e3
    assert lut.predict(graph).latency_ms(BOARD.clock_hz) == pytest.approx(expected_ms)
    # budgets are held against the upper quantile; an emulator's rows have no width of their own
    assert cost.latency_ms == pytest.approx(lut.interval.high * expected_ms)
    assert cost.latency_ms == pytest.approx(lut.predict(graph).high_cycles / 168e3)
    flash = lut.flash
    assert flash is not None
    static = flash.static_ram_bytes + flash.layer_ram_bytes * len(ops)
    assert cost.sram_bytes == plan(graph).arena_bytes + static + BOARD.stack_bytes
    used = {f for op in ops for f in flash.kernel_functions[select(op).name]}
    code = sum(flash.function_bytes[f] for f in used) + flash.layer_bytes * len(ops)
    constants = sum(select(op).constant_bytes for op in ops)
    expected_bytes = round(flash.base_bytes + code + constants)
    assert CostModel(BOARD, lut).expected_flash_bytes(graph) == expected_bytes
    # budgets are held against the upper end
    assert cost.flash_bytes == expected_bytes + 384 + round(0.15 * flash.layer_bytes * len(ops))
    assert cost.parameters == parameters(architecture)


def test_the_search_sees_the_same_latency(lut: Lut) -> None:
    """The search's tables and the exact evaluation agree on a path."""
    model = CostModel(BOARD, lut)
    tables = build_tables(SPACE, model, samples=4)
    architecture = SPACE.random(np.random.default_rng(4))
    path = [
        (SPACE.ops.index(b.op), 0 if b.op == "skip" else SPACE.channels.index(b.channels))
        for b in architecture.blocks
    ]
    exact = model.evaluate(lower(architecture), parameters(architecture)).latency_ms
    assert tables.path_latency_ms(path) == pytest.approx(exact, rel=1e-9)


def test_tables_that_do_not_belong_to_the_board(lut: Lut) -> None:
    from dataclasses import replace

    with pytest.raises(LutError, match="no flash model"):
        CostModel(BOARD, replace(lut, flash=None))
    with pytest.raises(LutError, match="at 84000000 Hz"):
        CostModel(replace(BOARD, clock_hz=84_000_000), lut)


def test_what_changes_a_cost_changes_its_key(lut: Lut) -> None:
    """A stack or a port that changed changes memory, and leaves the identity of the measurements as it is."""
    flash = lut.flash
    assert flash is not None
    cost, ops = CostModel(BOARD, lut), SPACE.operators()
    footprint = CostModel(BOARD, replace(lut, flash=replace(flash, stack_bytes=2 * flash.stack_bytes)))
    overhead = replace(lut.overhead, inference_cycles=lut.overhead.inference_cycles + 1)
    assert cost.key == CostModel(BOARD, replace(lut)).key
    assert len({cost.key, footprint.key, CostModel(BOARD, replace(lut, overhead=overhead)).key}) == 3
    measured_again = {key: replace(row, cycles=2 * row.cycles) for key, row in lut.rows.items()}
    again = CostModel(BOARD, replace(lut, rows=measured_again))
    assert again.key_over(ops) != cost.key_over(ops) == CostModel(BOARD, replace(lut)).key_over(ops)
    # rows of operators that no search asks for leave a finished one alone
    assert again.key_over([]) == cost.key_over([])


def test_rows_that_estimates_are_made_from_change_the_key(lut: Lut) -> None:
    """Of a space whose operators were all measured, other rows change nothing; of a lacking one they may."""
    ops = SPACE.operators()
    own = {op.key for op in ops}
    lacking = next(op for op in ops if op.kind == "depthwise_conv2d")

    def changed(rows: dict[str, Row]) -> dict[str, Row]:
        return {k: row if k in own else replace(row, cycles=2 * row.cycles) for k, row in rows.items()}

    for rows, differs in (
        (dict(lut.rows), False),
        ({k: row for k, row in lut.rows.items() if k != lacking.key}, True),
    ):
        before, after = (CostModel(BOARD, replace(lut, rows=r)) for r in (rows, changed(rows)))
        assert (before.key_over(ops) != after.key_over(ops)) == differs
