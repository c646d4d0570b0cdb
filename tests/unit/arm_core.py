"""An Arm Cortex-M with what every chip around it has: registers, cycles, a UART's line; run by Unicorn.

A chip (arm_chips.py, stm32_chips.py) is a subclass that knows its own registers.
"""

from __future__ import annotations

import struct
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import pytest
from elftools.elf.elffile import ELFFile

from pipeline.boards import Board

unicorn = pytest.importorskip("unicorn", reason="pip install unicorn")
arm = pytest.importorskip("unicorn.arm_const")

_PERIPHERALS = (0x40000000, 0x20000000), (0xE0000000, 0x00100000)
_SLICE = 20_000  # instructions between two looks at the UART
_BYTE_CYCLES = 4_000  # a byte on the line takes; far longer than the firmware takes to hand over the next
_SCS = 0xE000E000
DWT_CTRL, DWT_CYCCNT, VTOR, CCR = 0xE0001000, 0xE0001004, 0xE000ED08, 0xE000ED14
_AIRCR, _SYSRESETREQ = 0xE000ED0C, 0x05FA0004
MPU_RBAR, MPU_CTRL = 0xE000ED9C, 0xE000ED94
# Arm DDI0403: MPU with eight regions; DDI0489: 16 kB of data cache, 128 sets of four ways of 32 bytes
_CORE_RESET = {0xE000ED90: 0x0800, 0xE000ED80: 127 << 13 | 3 << 3}


class Chip:
    """Registers are a dictionary; subclasses react to reads and writes.

    A byte that is handed to the transmitter (`send`) is on the line, in `sent`, when its time is over: a restart before
    that loses it. `fifo_bytes`: what the transmitter holds besides the byte that it shifts out.
    """

    reset: ClassVar[dict[int, int]] = {}
    fifo_bytes = 1

    def __init__(self, board: Board, elf: Path) -> None:
        self.board = board
        self.registers: dict[int, int] = dict(_CORE_RESET) | self.reset
        self.log: list[tuple[int, int]] = []
        self.received: deque[int] = deque()
        self.sent = bytearray()
        self.restarts = 0
        self.cycles = 0
        self._leaving: deque[tuple[int, int]] = deque()  # when a byte has left, and the byte
        self._restarting = False
        self.core = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self.core.ctl_set_cpu_model(
            arm.UC_CPU_ARM_CORTEX_M7 if board.core.name == "cortex-m7" else arm.UC_CPU_ARM_CORTEX_M4
        )
        for base, size in _PERIPHERALS:
            self.core.mmio_map(base, size, self._read, base, self._write, base)
        for region in (board.memory.flash, board.memory.sram):
            start = region.origin & ~0xFFF
            self.core.mem_map(start, -(-(region.origin + region.bytes - start) // 0x1000) * 0x1000)
        self.core.hook_add(unicorn.UC_HOOK_BLOCK, self._block)
        self._load(elf)

    def _load(self, elf: Path) -> None:
        with elf.open("rb") as stream:
            for segment in ELFFile(stream).iter_segments("PT_LOAD"):
                if segment["p_filesz"]:
                    self.core.mem_write(segment["p_paddr"], segment.data())

    def boot(self, vectors: int) -> None:
        """As the hardware or its ROM: stack pointer and program counter from the table at `vectors`."""
        self._vectors = vectors
        stack, entry = struct.unpack("<II", self.core.mem_read(vectors, 8))
        self.core.reg_write(arm.UC_ARM_REG_MSP, stack)
        self.core.reg_write(arm.UC_ARM_REG_SP, stack)
        self.pc = entry

    def run(self) -> None:
        """One slice of instructions; a WFI ends it early."""
        self.core.emu_start(self.pc | 1, 0xFFFFFFFE, count=_SLICE)
        self.pc = self.core.reg_read(arm.UC_ARM_REG_PC)
        if self._restarting:
            self._restarting = False
            self.restarts += 1
            self._leaving.clear()
            self.registers = dict(_CORE_RESET) | self.reset
            self.boot(self._vectors)
        self._has_left(always=True)  # however long it sleeps

    def send(self, byte: int) -> None:
        """The firmware hands a byte to the transmitter."""
        assert len(self._leaving) <= self.fifo_bytes, "no room for another byte"
        start = self._leaving[-1][0] if self._leaving else self.cycles
        self._leaving.append((start + _BYTE_CYCLES, byte))

    def transmitter(self, room: int, idle: int) -> int:
        """A status word: bit `room`, another byte may be handed over; bit `idle`, all have left."""
        self._has_left()
        return (len(self._leaving) <= self.fifo_bytes) << room | (not self._leaving) << idle

    def _has_left(self, *, always: bool = False) -> None:
        while self._leaving and (always or self._leaving[0][0] <= self.cycles):
            self.sent.append(self._leaving.popleft()[1])

    def _block(self, _core: Any, _address: int, size: int, _data: Any) -> None:
        self.cycles += size // 2  # halfwords stand for cycles

    def _read(self, _core: Any, offset: int, _size: int, base: int) -> int:
        address = base + offset
        if address == DWT_CYCCNT:
            return self.cycles & 0xFFFFFFFF
        return self.read(address, self.registers.get(address, 0)) & 0xFFFFFFFF

    def _write(self, _core: Any, offset: int, _size: int, value: int, base: int) -> None:
        address = base + offset
        self.registers[address] = value
        self.log.append((address, value))
        if (address, value) == (_AIRCR, _SYSRESETREQ):
            self._has_left()
            self._restarting = True
            self.core.emu_stop()
        self.write(address, value)

    def read(self, address: int, value: int) -> int:
        return value

    def write(self, address: int, value: int) -> None:
        pass

    def set_bits(self, address: int, mask: int, on: bool) -> None:
        value = self.registers.get(address, 0)
        self.registers[address] = value | mask if on else value & ~mask

    def follow(self, address: int, bit: int, ready: int, target: int | None = None) -> None:
        """Bit `ready` (of `target`) becomes what bit `bit` of `address` is."""
        self.set_bits(target or address, 1 << ready, bool(self.registers[address] >> bit & 1))

    # What tests ask: frequencies in Hz, as the registers have them now
    def clock_hz(self) -> float:
        raise NotImplementedError

    def baud(self) -> float:
        raise NotImplementedError

    def write_bytes(self, data: bytes) -> None:
        self.received += data


class ChipLink:
    """What wire.Client talks to: runs the chip while it waits for bytes."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def write(self, data: bytes) -> None:
        self.chip.write_bytes(data)

    def read(self, timeout_s: float) -> bytes:
        for _ in range(max(1, int(timeout_s * 50))):
            self.chip.run()
            if self.chip.sent:
                data = bytes(self.chip.sent)
                self.chip.sent.clear()
                return data
        return b""

    def alive(self) -> bool:
        return True

    def exit_code(self) -> int | None:
        return None

    def stderr_tail(self) -> str:
        return ""

    def describe(self) -> str:
        return f"the register model of {self.chip.board.name}"
