"""Register models of the STM32 families behind boards/*.toml: clock tree, supply, USART. See arm_chips.py."""

from __future__ import annotations

from typing import ClassVar

from arm_core import Chip


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
