"""Register models of the chips behind boards/*.toml, just enough to start their real firmware in Unicorn.

A model knows which ready bit follows which enable bit, keeps what the firmware wrote, and has a UART. It is no
proof that a chip works so, only that the firmware does in order what the reference manual asks for.
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


class Stm32(Chip):
    """RCC_CR, RCC_CFGR and the USART; `v1`: the STM32F4's USART."""

    v1 = False
    rcc = 0x40023800
    cfgr = 0x08
    switch_bits = 3
    ready_bits: tuple[tuple[int, int], ...] = ((0, 1), (16, 17), (24, 25))
    pll_switch = 2

    def write(self, address: int, value: int) -> None:
        base = self.board.uart.base
        if address == self.rcc:
            for bit, ready in self.ready_bits:
                self.follow(address, bit, ready)
        elif address == self.rcc + self.cfgr:
            width = self.switch_bits.bit_length()
            chosen = value & self.switch_bits
            self.registers[address] = value & ~(self.switch_bits << width) | chosen << width
            if chosen == self.pll_switch:
                self.at_switch()
        elif address == base + (0x04 if self.v1 else 0x28):
            assert self.registers[base + (0x0C if self.v1 else 0x00)] & 1 << (13 if self.v1 else 0)
            self.send(value & 0xFF)

    def read(self, address: int, value: int) -> int:
        base = self.board.uart.base
        if address == base + (0x00 if self.v1 else 0x1C):
            return self.transmitter(room=7, idle=6) | bool(self.received) << 5
        if address == base + (0x04 if self.v1 else 0x24):
            return self.received.popleft() if self.received else 0
        return value

    def at_switch(self) -> None:
        """The PLL takes over now: everything that the clock needs must be there."""
        acr = self.registers[0x40023C00]
        assert acr & 15 == self.board.memory.flash.wait_states
        assert self.registers[self.rcc] >> 25 & 1, "PLL ready"

    def baud(self) -> float:
        defines = self.board.port.defines
        divider = self.registers[self.board.uart.base + (0x08 if self.v1 else 0x0C)]
        return self.uart_clock_hz() * defines["UART_BRR_SCALE"] / divider

    def uart_clock_hz(self) -> float:
        return self.clock_hz()


class Stm32F4(Stm32):
    v1 = True
    reset: ClassVar = {0x40023800: 0x83, 0x40023804: 0x24003010, 0x40007000: 0x0000C000}

    def write(self, address: int, value: int) -> None:
        super().write(address, value)
        if address == 0x40007000:
            self.follow(address, 16, 16, 0x40007004)
            self.follow(address, 17, 17, 0x40007004)
        if address == self.rcc:
            self.follow(address, 24, 14, 0x40007004)  # the regulator answers once the PLL is on

    def at_switch(self) -> None:
        super().at_switch()
        if self.clock_hz() > 180e6 or (self.v1 and self.clock_hz() > 168e6):
            assert self.registers[0x40007004] >> 16 & 3 == 3, "over-drive"
        low, high = self.bus_hz()
        assert low <= self.clock_hz() / 4 and high <= self.clock_hz() / 2

    def clock_hz(self) -> float:
        pll = self.registers[0x40023804]
        assert pll >> 22 & 1, "from HSE"
        vco = self.board.port.defines["HSE_HZ"] / (pll & 63) * (pll >> 6 & 511)
        return vco / (2 * (pll >> 16 & 3) + 2)

    def bus_hz(self) -> tuple[float, float]:
        cfgr = self.registers[0x40023808]
        by = [1, 1, 1, 1, 2, 4, 8, 16]
        assert cfgr >> 4 & 15 == 0
        return self.clock_hz() / by[cfgr >> 10 & 7], self.clock_hz() / by[cfgr >> 13 & 7]

    def uart_clock_hz(self) -> float:
        return self.bus_hz()[0]  # USART2 and USART3 are on APB1


class Stm32F7(Stm32F4):
    v1 = False


class Stm32L4(Stm32):
    rcc = 0x40021000
    reset: ClassVar = {0x40021000: 0x63, 0x40007000: 0x200, 0x40007080: 0x100}
    ready_bits = ((0, 1), (8, 10), (24, 25))
    pll_switch = 3

    def at_switch(self) -> None:
        assert self.registers[0x40022000] & 15 == self.board.memory.flash.wait_states
        assert not self.registers[0x40007080] & 0x100, "boost"
        assert self.registers[self.rcc] >> 25 & 1, "PLL ready"
        if not self.bus_switched:
            assert self.registers[0x40021008] >> 4 & 15 == 8, "over half the clock"
            self.bus_switched = True

    bus_switched = False

    def clock_hz(self) -> float:
        pll = self.registers[0x4002100C]
        assert pll & 3 == 2 and pll >> 24 & 1
        vco = 16e6 / ((pll >> 4 & 15) + 1) * (pll >> 8 & 127)
        assert self.registers[0x40021008] >> 4 & 15 == 0
        return vco / (2 * (pll >> 25 & 3) + 2)


class Stm32H7(Stm32):
    rcc = 0x58024400
    cfgr = 0x10
    switch_bits = 7
    ready_bits = ((0, 2), (16, 17), (24, 25))
    pll_switch = 3
    reset: ClassVar = {
        0x58024400: 0x05,
        0x5802480C: 6,
        0x58024818: 0x4000,
        0x5802442C: 0x01FF0000,
        0x52002000: 0x37,
    }

    def write(self, address: int, value: int) -> None:
        super().write(address, value)
        if address == 0x5802480C:  # PWR_CR3: the supply is declared once
            assert value & 7 == 2
            self.set_bits(0x58024804, 1 << 13, True)
        if address == 0x58024818:
            assert self.registers.get(0x58024804, 0) >> 13 & 1, "supply first"
            self.set_bits(address, 1 << 13, True)
        if address == 0x5800042C:
            assert self.registers[0x580244F4] & 2, "SYSCFG has a clock"
            assert self.registers[0x58024818] >> 14 & 3 == 3, "VOS0 comes after VOS1"

    def at_switch(self) -> None:
        assert self.registers[0x52002000] & 15 == self.board.memory.flash.wait_states
        assert self.registers[self.rcc] >> 25 & 1, "PLL ready"
        assert self.registers[0x5800042C] & 1, "VOS0"
        assert self.registers[0x58024418] & 15 == 8, "AXI at half the clock"

    def clock_hz(self) -> float:
        select, dividers = self.registers[0x58024428], self.registers[0x58024430]
        assert select & 3 == 2 and self.registers[0x5802442C] >> 16 & 1
        reference = self.board.port.defines["HSE_HZ"] / (select >> 4 & 63)
        assert (2e6, 4e6, 8e6, 16e6)[self.registers[0x5802442C] >> 2 & 3] > reference
        return reference * ((dividers & 511) + 1) / ((dividers >> 9 & 127) + 1)

    def uart_clock_hz(self) -> float:
        assert self.registers[0x5802441C] >> 4 & 7 == 4  # D2PPRE1: by 2
        return self.clock_hz() / 4


class Nrf52(Chip):
    def write(self, address: int, value: int) -> None:
        base = self.board.uart.base
        if address == 0x40000000:
            self.registers[0x40000100] = 1
        if address == base + 0x51C:
            assert self.registers[base + 0x500] == 4 and self.registers[base + 0x008] == 1
            self.sent.append(value & 0xFF)
            self.registers[base + 0x11C] = 1

    def read(self, address: int, value: int) -> int:
        base = self.board.uart.base
        if address == base + 0x108:
            return int(bool(self.received) and self.registers.get(base, 0) == 1)
        if address == base + 0x518:
            return self.received.popleft() if self.received else 0
        return value

    def clock_hz(self) -> float:
        assert self.registers[0x40000100] == 1
        return 64e6

    def baud(self) -> float:
        return self.registers[self.board.uart.base + 0x524] * 16e6 / 2**32


class ImxRt(Chip):
    fifo_bytes = 4
    reset: ClassVar = {
        0x40080000: 1 << 31, 0x400FC014: 0x000A8200, 0x400FC018: 0x24AE8304, 0x400D8000: 0x80002042,
        0x400AC040: 0x00200003, 0x4008000C: 0x10E,
    }  # fmt: skip

    def write(self, address: int, value: int) -> None:
        base = self.board.uart.base
        if address == 0x400D8000:
            assert self.registers[0x400FC014] >> 25 & 1, "the core runs from elsewhere while its PLL changes"
            self.set_bits(address, 1 << 31, bool(value & 1 << 13))
        if address == base + 0x1C:
            assert self.registers[base + 0x18] & 1 << 19
            self.send(value & 0xFF)

    def read(self, address: int, value: int) -> int:
        base = self.board.uart.base
        if address == base + 0x14:
            return self.transmitter(room=23, idle=22) | bool(self.received) << 21
        if address == base + 0x1C:
            return self.received.popleft() if self.received else 0
        return value

    def clock_hz(self) -> float:
        assert not self.registers[0x400FC014] >> 25 & 1 and self.registers[0x400FC018] >> 18 & 3 == 3
        assert 0.8 + 0.025 * (self.registers[0x4008000C] & 31) >= 1.25
        pll = 24e6 * (self.registers[0x400D8000] & 127) / 2
        return pll / (self.registers[0x400FC010] + 1) / ((self.registers[0x400FC014] >> 10 & 7) + 1)

    def baud(self) -> float:
        baud = self.registers[self.board.uart.base + 0x10]
        assert self.registers[0x400FC024] & 127 == 64
        return 24e6 / ((baud >> 24 & 31) + 1) / (baud & 0x1FFF)


MODELS = {
    "stm32f4": Stm32F4, "stm32f7": Stm32F7, "stm32l4": Stm32L4, "stm32h7": Stm32H7, "nrf52": Nrf52, "imxrt": ImxRt,
}  # fmt: skip


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


def start(board: Board, elf: Path, vectors: int) -> Chip:
    """The board's chip with `elf` in its flash, at its first instruction."""
    chip = MODELS[board.port.folders[-1]](board, elf)
    chip.boot(vectors)
    return chip
