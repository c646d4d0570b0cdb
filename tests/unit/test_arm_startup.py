"""The Arm boards' firmware, started on register models of their chips: clock, caches, guard, UART, an operator."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from arm_chips import start
from arm_core import CCR, DWT_CTRL, MPU_CTRL, MPU_RBAR, VTOR, Chip, ChipLink
from test_arm_boards import BOARDS

from pipeline.boards import Board, load_board
from pipeline.firmware import build, render_bench
from pipeline.space.opspec import OpSpec
from pipeline.wire import Client, Kind

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("arm-none-eabi-gcc", "cmake", "ninja"))),
    reason="needs arm-none-eabi-gcc, cmake and ninja",
)

OP = OpSpec("conv2d", 9, 7, 5, 9, 7, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1)
OUTPUT_CRCS: dict[int, str] = {}  # of OP, by the boards that computed them


@pytest.fixture(params=BOARDS)
def started(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Board, Chip, Client]]:
    board = load_board(request.param)
    elf = build(render_bench(board, tmp_path), board).elf
    header_bytes = 0x2000 if "imxrt" in board.port.folders else 0  # whose ROM finds the table through the IVT
    chip = start(board, elf, board.memory.flash.origin + header_bytes)
    yield board, chip, Client(ChipLink(chip), patience_s=30.0)


def test_it_starts_at_its_clock_and_answers(started: tuple[Board, Chip, Client]) -> None:
    board, chip, client = started
    hello = client.hello()
    assert (hello.board, hello.kind, hello.fault_pc) == (board.name, Kind.BENCH, 0)
    assert chip.clock_hz() == board.clock_hz
    assert chip.baud() == pytest.approx(board.uart.baud, rel=0.02)
    caches = 3 << 16 if board.core.name == "cortex-m7" else 0
    assert chip.registers.get(CCR, 0) & 3 << 16 == caches
    assert chip.registers[DWT_CTRL] & 1
    assert chip.registers[VTOR] >= board.memory.flash.origin
    assert (chip.registers[MPU_RBAR], chip.registers[MPU_CTRL]) == (board.memory.sram.origin - 0x10000, 5)
    memory = client.memory()
    assert memory.stack_reserve_bytes == board.stack_bytes > memory.stack_used_bytes > 0
    reply = client.run_op(OP)
    assert reply.ticks > 0
    OUTPUT_CRCS.setdefault(reply.output_crc, board.name)
    assert len(OUTPUT_CRCS) == 1, OUTPUT_CRCS


def test_it_restarts_when_told_to_once_its_answer_has_left(
    started: tuple[Board, Chip, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart stops the UART: what it still holds would be lost, and the request come again for ever."""
    _, chip, client = started
    # A busy machine is not asked again, though greeting it took several attempts.
    for name in ("_PATIENT_S", "_QUICK_S"):
        monkeypatch.setattr(f"pipeline.wire.exchange.{name}", 20.0)
    first = client.hello()
    assert client.reset() == first
    assert chip.restarts == 1
    assert client.run_op(OP).ticks > 0
