"""What an address in a firmware is: function, file and line, from its debug information."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.boards import Board
from pipeline.wire.messages import FaultReply

_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address lies. `line` is 0 and `file` empty where only the function is known."""

    function: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.function} at {self.file}:{self.line}" if self.file else self.function


def places(elf: Path, toolchain: str, address: int) -> list[Place]:
    """The innermost function at `address`, then those it was inlined into.

    Empty where addr2line of `toolchain` (the prefix of its programs) is missing or knows nothing.
    """
    program = shutil.which(f"{toolchain}addr2line")
    if program is None or not elf.is_file():
        return []
    command = [program, "-e", str(elf), "-f", "-C", "-i", hex(address)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.splitlines()
    if done.returncode != 0:
        return []
    found = [_place(function, where) for function, where in zip(lines[::2], lines[1::2], strict=False)]
    return [place for place in found if place.function != "??"]


def place_text(elf: Path, toolchain: str, address: int) -> str:
    """`edgenas_conv at engine/portable/conv.c:88`, or the bare address."""
    found = places(elf, toolchain, address)
    if not found:
        return f"0x{address:08x}"
    text = str(found[0])
    return text + "".join(f", inlined into {place.function}" for place in found[1:])


def fault_explainer(elf: Path, board: Board) -> Callable[[FaultReply], str]:
    """For `Client(explain=...)`: a fault of `elf` on `board` in words, with function, file and line."""

    def explain(fault: FaultReply) -> str:
        return fault_text(fault, elf, board)

    return explain


def fault_text(fault: FaultReply, elf: Path, board: Board) -> str:
    """The kind of fault, where it happened, who called, and every register."""
    decode = _process if board.port.hosted else _DECODERS.get(_family(board.core.isa), _unknown)
    name, status = decode(fault)
    toolchain = board.core.toolchain
    if _on_guard(fault, board):
        name = f"stack overflow ({name})"
    registers = f"pc 0x{fault.pc:08x}, lr 0x{fault.lr:08x}, sp 0x{fault.sp:08x}"
    if fault.pc == 0:
        # the processor could not save its registers where the stack pointer was
        return f"{name}, place unknown ({registers}; {status})"
    caller = places(elf, toolchain, fault.lr & ~1)
    called = f", called from {caller[0]}" if caller else ""
    return f"{name} in {place_text(elf, toolchain, fault.pc)}{called} ({registers}; {status})"


def _place(function: str, where: str) -> Place:
    path, _, line = where.split(" ")[0].rpartition(":")
    known = path not in ("", "??")
    # the build maps its folder to "."; the compiler ran below that
    return (
        Place(function, path.rpartition("/./")[2].removeprefix("./"), int(line))
        if known and line.isdigit()
        else Place(function)
    )


def _on_guard(fault: FaultReply, board: Board) -> bool:
    """Whether the stack pointer, or what was accessed, lies just below the stack, which is the SRAM's start."""
    start = board.memory.sram.origin
    below = range(max(0, start - 0x10000), start)
    return fault.sp in below or (fault.address in below and fault.sp < start + 256)


def _family(isa: str) -> str:
    for family in ("armv7em", "armv6m", "rv32", "aarch64"):
        if isa.startswith(family):
            return family
    return ""


def _bits(value: int, names: Sequence[tuple[int, str]]) -> list[str]:
    return [text for bit, text in names if value >> bit & 1]


# Arm DDI0403 (ARMv7-M), B3.2.15 and B3.2.16
_CFSR = (
    (0, "instruction access not allowed"), (1, "data access not allowed"),
    (3, "memory fault on exception return"), (4, "memory fault while stacking registers"),
    (5, "memory fault while saving FPU registers"),
    (8, "bus error on an instruction fetch"), (9, "precise bus error"), (10, "imprecise bus error"),
    (11, "bus error on exception return"), (12, "bus error while stacking registers"),
    (13, "bus error while saving FPU registers"),
    (16, "undefined instruction"), (17, "invalid state (Thumb bit clear)"), (18, "invalid exception return"),
    (19, "no coprocessor (FPU off)"), (24, "unaligned access"), (25, "division by zero"),
)  # fmt: skip
_HFSR = ((1, "vector table unreadable"), (30, "escalated"), (31, "debug event"))
_ADDRESS_VALID = (7, 15)  # MMARVALID, BFARVALID


def _armv7m(fault: FaultReply) -> tuple[str, str]:
    cfsr = fault.status
    kind = "HardFault"
    if not fault.status2 >> 30 & 1:
        for mask, name in ((0xFF, "MemManage fault"), (0xFF00, "BusFault"), (0xFFFF0000, "UsageFault")):
            if cfsr & mask:
                kind = name
    why = ", ".join(_bits(cfsr, _CFSR)) or "no cause recorded"
    text = f"CFSR 0x{cfsr:08x}: {why}; HFSR 0x{fault.status2:08x}"
    if escalation := ", ".join(_bits(fault.status2, _HFSR)):
        text += f": {escalation}"
    if any(cfsr >> bit & 1 for bit in _ADDRESS_VALID):
        text += f"; address 0x{fault.address:08x}"
    return kind, text


# RISC-V Privileged Architecture 1.12, table 3.6
_MCAUSE = {
    0: "misaligned instruction address", 1: "instruction access fault", 2: "illegal instruction",
    3: "breakpoint", 4: "misaligned load", 5: "load access fault", 6: "misaligned store",
    7: "store access fault", 8: "environment call from U-mode", 11: "environment call from M-mode",
}  # fmt: skip


def _riscv(fault: FaultReply) -> tuple[str, str]:
    interrupt = fault.status >> 31
    name = "interrupt" if interrupt else _MCAUSE.get(fault.status, "trap")
    return name, f"mcause 0x{fault.status:08x}, mtval 0x{fault.address:08x}"


# Arm DDI0487, ESR_EL1.EC
_EXCEPTION_CLASS = {
    0x00: "undefined instruction", 0x07: "FPU access trap", 0x15: "SVC", 0x20: "instruction abort",
    0x21: "instruction abort", 0x22: "misaligned PC", 0x24: "data abort", 0x25: "data abort",
    0x26: "misaligned SP", 0x2F: "SError", 0x3C: "breakpoint",
}  # fmt: skip


# signal(7)
_SIGNALS = {
    4: "illegal instruction", 7: "bus error", 8: "arithmetic error", 11: "segmentation fault",
}  # fmt: skip


def _aarch64(fault: FaultReply) -> tuple[str, str]:
    name = _EXCEPTION_CLASS.get(fault.status >> 26 & 0x3F, "exception")
    return name, f"ESR 0x{fault.status:08x}, FAR 0x{fault.address:08x}"


def _process(fault: FaultReply) -> tuple[str, str]:
    """A signal, by its number on Linux for Arm, RISC-V and x86."""
    name = _SIGNALS.get(fault.status, "fault")
    return name, f"signal {fault.status}, code {fault.status2}, address 0x{fault.address:08x}"


def _unknown(fault: FaultReply) -> tuple[str, str]:
    status = f"status 0x{fault.status:08x} 0x{fault.status2:08x}, address 0x{fault.address:08x}"
    return "fault", status


_DECODERS = {"armv7em": _armv7m, "rv32": _riscv, "aarch64": _aarch64}
