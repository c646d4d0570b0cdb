"""Faults in words, for each architecture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.boards import load_board
from pipeline.firmware.symbolize import fault_text
from pipeline.wire.messages import FaultReply

ARM = load_board("qemu-cortex-m4")
NO_ELF = Path("no-such.elf")
SRAM = ARM.memory.sram.origin


def text(fault: FaultReply, isa: str = ARM.core.isa) -> str:
    board = dataclasses.replace(ARM, core=dataclasses.replace(ARM.core, isa=isa))
    return fault_text(fault, NO_ELF, board)


@pytest.mark.parametrize(
    ("cfsr", "hfsr", "kind", "why"),
    [
        (0x00000400, 1 << 30, "HardFault", "imprecise bus error"),
        (0x00008200, 1 << 30, "HardFault", "precise bus error"),
        (0x00000082, 0, "MemManage fault", "data access not allowed"),
        (0x00000100, 0, "BusFault", "instruction fetch"),
        (0x00010000, 0, "UsageFault", "undefined instruction"),
        (0x02000000, 0, "UsageFault", "division by zero"),
    ],
)
def test_cortex_m(cfsr: int, hfsr: int, kind: str, why: str) -> None:
    # Arm DDI0403, B3.2.15
    words = text(FaultReply(0x1234, 0x5679, SRAM + 0x400, cfsr, hfsr, 0xDEADBEEC))
    assert words.startswith(f"{kind} in 0x00001234 (pc 0x00001234, lr 0x00005679, sp 0x{SRAM + 0x400:08x}; ")
    assert why in words and f"CFSR 0x{cfsr:08x}" in words
    assert ("address 0xdeadbeec" in words) == bool(cfsr & 0x8080)


def test_stack_overflow() -> None:
    words = text(FaultReply(0x1234, 0, SRAM - 8, 0x82, 0, SRAM - 8))
    assert words.startswith("stack overflow (MemManage fault) in 0x00001234")
    # registers that could not be saved
    assert "place unknown" in text(FaultReply(0, 0, SRAM - 64, 0x10, 0, SRAM - 64))


def test_other_architectures() -> None:
    assert text(FaultReply(0x80000010, 0, SRAM + 0x400, 7, 0, 0xF0), "rv32imc").startswith(
        "store access fault in"
    )
    assert "mcause 0x00000002, mtval 0x0000ffff" in text(
        FaultReply(1, 0, SRAM + 0x400, 2, 0, 0xFFFF), "rv32imc"
    )
    assert text(FaultReply(1, 0, SRAM + 0x400, 0x25 << 26, 0, 0xF0), "aarch64").startswith("data abort in")
    assert text(FaultReply(1, 0, SRAM + 0x400, 5, 6, 7), "native").endswith(
        "status 0x00000005 0x00000006, address 0x00000007)"
    )
