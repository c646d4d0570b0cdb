"""The counting plugin against the benchmark firmware's own timer, which counts instructions under -icount."""

from __future__ import annotations

from pathlib import Path

import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import Board, load_board
from pipeline.firmware import Build, build, render_bench
from pipeline.latency.timing import timing_model
from pipeline.links import INSTRUCTION_NS, open_link
from pipeline.links.blockcount import Region, RegionReader, plugin_args
from pipeline.space.opspec import OpSpec
from pipeline.wire import Client

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

OPS = [
    OpSpec("conv2d", 28, 28, 1, 14, 14, 16, 3, 3, 2, 2, 1, 1, 0, 0, 1, 1, activation="relu6"),
    OpSpec("conv2d", 9, 7, 5, 9, 7, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1),
    OpSpec("conv2d", 7, 7, 16, 7, 7, 24),
    OpSpec("depthwise_conv2d", 14, 14, 8, 14, 14, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1),
    OpSpec("fully_connected", 1, 1, 64, 1, 1, 10),
    OpSpec("add", 7, 7, 16, 7, 7, 16, in2_h=7, in2_w=7, in2_c=16),
    OpSpec("mean", 7, 7, 16, 1, 1, 16),
    OpSpec("max_pool", 8, 8, 16, 4, 4, 16, 2, 2, 2, 2),
    OpSpec("softmax", 1, 1, 10, 1, 1, 10),
]


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board("qemu-cortex-m4")


@pytest.fixture(scope="module")
def bench(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(render_bench(board, tmp_path_factory.mktemp("bench")), board)


def measure(board: Board, bench: Build, out: Path) -> list[tuple[int, Region]]:
    """The device's ticks and the plugin's region for each operator."""
    found = []
    with open_link(board, bench.elf, plugin_args=plugin_args(out)) as link:
        client, reader = Client(link), RegionReader(out)
        client.hello()
        for op in OPS:
            ticks = client.run_op(op, seed=3).ticks
            found.append((ticks, reader.next(5.0)))
    return found


def test_plugin_and_device_count_the_same_instructions(board: Board, bench: Build, tmp_path: Path) -> None:
    ticks_an_instruction = INSTRUCTION_NS * board.counter.hz / 1e9
    model = timing_model(board.core.timing)
    runs = [measure(board, bench, tmp_path / f"{n}.bin") for n in range(2)]
    for op, (ticks, region) in zip(OPS, runs[0], strict=True):
        # the compiler moves up to three instructions of the repetition loop between a marker and the reading
        # of the timer, which counts in whole ticks of 1.6 an instruction
        assert -1 < ticks / ticks_an_instruction - region.instructions < 4, op.key
        # every instruction of the kernels has a cost, and cycles per instruction are plausible for this core
        assert 1.0 < model.region_cycles(region) / region.instructions < 2.5, op.key
    assert runs[0] == runs[1]
