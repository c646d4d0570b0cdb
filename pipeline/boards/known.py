"""What a board file may name of the rest of the project, and regions that cannot lie where it puts them."""

from __future__ import annotations

import re

from pipeline.assets import asset_dir
from pipeline.tomltable import Table

# `portable`: the portable kernels for any other core
ISAS = ("aarch64", "armv7em", "native", "portable", "rv32")
TIMINGS = ("cortex_a53", "cortex_m4", "cortex_m7", "cv32e40p", "ibex")  # of pipeline.latency.timing
FLASHERS = ("dfu-util", "esptool", "gdb", "openocd", "platformio", "pyocd", "stm32flash")
# by whose registers, or (hosted) by what carries the bytes
UARTS = (
    "16550", "cmsdk", "descriptor", "esp32c3", "fe310", "gd32vf103", "lpuart", "nrf52", "pl011", "rtl", "socket",
    "stm32",
)  # fmt: skip

GUARD_BYTES = 0x10000  # below SRAM: firmware/port/riscv, where there is a PMP


def port_folders() -> tuple[str, ...]:
    """The folders of firmware/port."""
    return tuple(sorted(path.name for path in (asset_dir("firmware") / "port").iterdir() if path.is_dir()))


def check_name(table: Table, name: str) -> None:
    """Raises ConfigError for a name that could not be a folder's, or would be one elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise table.error("name", f"is '{name}'", hint="letters, digits, '.', '_' and '-': it names folders")


def check_folders(port: Table, folders: tuple[str, ...]) -> None:
    """Raises ConfigError for a folder that firmware/port does not have."""
    known = port_folders()
    for name in folders:
        if name not in known:
            raise port.error("folders", f"has '{name}'", hint=f"there are: {', '.join(known)}")


def check_flashers(flashers: Table) -> None:
    """Raises ConfigError for a kind that there is no flasher of."""
    for kind in flashers.names():
        if kind not in FLASHERS:
            raise flashers.error(kind, "is an unknown flasher", hint=f"there are: {', '.join(FLASHERS)}")


def check_apart(memory: Table, flash: tuple[int, int | None, int], sram: tuple[int, int | None, int]) -> None:
    """Raises ConfigError where flash and SRAM, each (origin, origin for data, bytes), overlap."""
    windows = [
        [(start, start + size) for start in dict.fromkeys((origin, data)) if start is not None]
        for origin, data, size in (flash, sram)
    ]
    for low, high in windows[0]:
        for start, end in windows[1]:
            if low < end and start < high:
                raise memory.sub("sram").error(
                    "origin",
                    f"puts it over the flash: {start:#x} to {end - 1:#x} and {low:#x} to {high - 1:#x}",
                    hint="the two memories must not overlap; check origin and bytes of both",
                )


def check_guard(memory: Table, flash: tuple[int, int | None, int], sram_origin: int) -> None:
    """Raises ConfigError where the PMP's guard below SRAM would lock the SRAM, or flash (origin, origin for data,
    bytes), up as well: a region of its size begins at a multiple of it, else the encoding is that of a larger one.
    """
    if sram_origin % GUARD_BYTES:
        raise memory.sub("sram").error(
            "origin",
            f"is {sram_origin:#x}, no multiple of {GUARD_BYTES:#x}: the PMP would lock it up with the stack's guard",
            hint="start the SRAM at a multiple, or leave PMP out of port.defines",
        )
    low = sram_origin - GUARD_BYTES
    for start in dict.fromkeys((flash[0], flash[0] if flash[1] is None else flash[1])):
        if start < sram_origin and low < start + flash[2]:
            raise memory.sub("sram").error(
                "origin",
                f"puts the stack's guard, {low:#x} to {sram_origin - 1:#x}, over the flash",
                hint="leave 64 kB between flash and SRAM, or leave PMP out of port.defines",
            )
