"""The AArch64 port on QEMU's Cortex-A53: the counter is exact, and a fault is reported after the restart."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.engine import emit_c, load
from pipeline.firmware import Build, build, render_app, render_bench
from pipeline.firmware.symbolize import fault_explainer
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.links import open_link
from pipeline.links.blockcount import RegionReader, plugin_args
from pipeline.profiler.calibration import calibration_operators
from pipeline.profiler.footprint import sample_network
from pipeline.space.budgets import Budgets
from pipeline.space.graph import Node, OpGraph
from pipeline.space.opspec import OpSpec
from pipeline.wire.client import Client
from pipeline.wire.exchange import RestartedError

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(
        not (shutil.which("qemu-system-aarch64") and shutil.which("aarch64-linux-gnu-gcc")),
        reason="needs qemu-system-arm and gcc-aarch64-linux-gnu",
    ),
]
BOARD = load_board("qemu-cortex-a53")
OP = OpSpec("logistic", 1, 1, 16, 1, 1, 16)
WILD, UNDEFINED, OVERFLOW = 0xBAD00001, 0xBAD00002, 0xBAD00003
MISCHIEF = """
__attribute__((noinline)) static uint32_t dig(volatile uint32_t *above, uint32_t depth) {
    volatile uint32_t hole[16] = {depth};
    return depth == 0u ? *above : dig(hole, depth - 1u) + hole[depth & 15u];
}

__attribute__((noinline)) static void mischief(uint32_t seed) {
    if (seed == 0xBAD00001u) {
        random_state = *(volatile uint32_t *)0x0f000000u;
    } else if (seed == 0xBAD00002u) {
        __asm__ volatile(".inst 0");
    } else if (seed == 0xBAD00003u) {
        random_state = dig(&random_state, 100000u);
    }
}
"""


@pytest.fixture(scope="module")
def mischief(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The benchmark with two seeds that make it fault."""
    folder = render_bench(BOARD, tmp_path_factory.mktemp("mischief"))
    source = folder / "bench/bench.c"
    text = source.read_text(encoding="utf-8")
    at = text.index("static uint32_t run_op(")
    text = text[:at] + MISCHIEF + text[at:]
    text = text.replace("    random_state = r->seed", "    mischief(r->seed);\n    random_state = r->seed", 1)
    assert "    mischief(r->seed);" in text
    source.write_text(text, encoding="utf-8")
    return build(folder, BOARD)


def test_plugin_and_device_count_the_same_instructions(mischief: Build) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "regions.bin"
        with open_link(BOARD, mischief.elf, plugin_args=plugin_args(out)) as link:
            client = Client(link)
            client.hello()
            reader = RegionReader(out)
            for op in calibration_operators()[::25]:
                if op.kind != "reshape":
                    ticks = client.run_op(op).ticks
                    assert abs(reader.next(5.0).instructions - ticks) <= 1


@pytest.mark.parametrize(
    ("seed", "exception_class", "where"),
    [(WILD, 0x25, "mischief"), (UNDEFINED, 0x00, "mischief"), (OVERFLOW, 0x25, "dig")],
)
def test_a_fault_is_reported_after_the_restart(
    mischief: Build, seed: int, exception_class: int, where: str
) -> None:
    """Exception classes of ESR: data abort at the same level, unknown reason (Arm DDI0487, D13.2.37)."""
    with open_link(BOARD, mischief.elf) as link:
        client = Client(link, patience_s=1.0, explain=fault_explainer(mischief.elf, BOARD))
        client.hello()
        with pytest.raises(RestartedError, match=rf"in .*{where} at bench/bench\.c:") as caught:
            client.run_op(OP, seed=seed)
        fault = caught.value.fault
        assert fault is not None and fault.status >> 26 == exception_class
        if seed == WILD:
            assert fault.address == 0x0F000000
        client.hello()
        assert client.run_op(OP).output_bytes == 16  # and it goes on


@pytest.mark.parametrize(("side", "dense_layers", "arena_rest"), [(3, 1, 4), (3, 2, 4), (4, 1, 0), (4, 2, 0)])
def test_sram_is_predicted_to_the_byte(tmp_path: Path, side: int, dense_layers: int, arena_rest: int) -> None:
    """Whatever the arena's size and the number of layers leave of words of 8 bytes, to which arrays are aligned."""
    nodes = [Node(OpSpec("mean", side, side, 1, 1, 1, 1), (0,), 1, "mean")]
    for n in range(dense_layers):
        nodes.append(Node(OpSpec("fully_connected", 1, 1, n + 1, 1, 1, n + 2), (n + 1,), n + 2, f"dense{n}"))
    graph = OpGraph((side * side, 1, *(n + 2 for n in range(dense_layers))), tuple(nodes), 0, len(nodes))
    model = load(sample_network(graph))
    assert model.plan.arena_bytes % 8 == arena_rest
    built = build(render_app(emit_c(model), BOARD, Budgets(), tmp_path, 1.0), BOARD)
    cost = CostModel(BOARD, Lut.load(asset_dir("luts") / BOARD.name / "edgenas.csv"))
    assert cost.sram_bytes(graph) == built.sram_bytes
