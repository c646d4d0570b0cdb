"""Register models of the chips behind boards/*.toml, just enough to start their real firmware in Unicorn.

A model knows which ready bit follows which enable bit, keeps what the firmware wrote, and has a UART. It is no
proof that a chip works so, only that the firmware does in order what the reference manual asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from arm_core import Chip
from stm32_chips import Stm32F4, Stm32F7, Stm32H7, Stm32L4

from pipeline.boards import Board


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


def start(board: Board, elf: Path, vectors: int) -> Chip:
    """The board's chip with `elf` in its flash, at its first instruction."""
    chip = MODELS[board.port.folders[-1]](board, elf)
    chip.boot(vectors)
    return chip
