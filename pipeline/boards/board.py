"""Board: core, clock, memories, UART, counter, port, emulator and flashers, read from one TOML file.

Nothing in the project branches on a board's name; code asks for capabilities (`core.features`,
`counter.counts`, `emulator`). docs/add-a-board.md explains every key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards.known import (
    ISAS,
    TIMINGS,
    UARTS,
    check_apart,
    check_flashers,
    check_folders,
    check_guard,
    check_name,
)
from pipeline.boards.memory_system import MemorySystem, read_memory_system
from pipeline.boards.power import Power, read_power
from pipeline.errors import ConfigError
from pipeline.figures import Provenance
from pipeline.tomltable import Table


@dataclass(frozen=True, slots=True)
class Core:
    name: str
    isa: str
    cflags: tuple[str, ...]
    toolchain: str  # prefix of the cross-compiler's programs; "" for the machine's own compiler
    timing: str = ""  # module in pipeline/latency/timing; needed where the counter counts instructions
    features: tuple[str, ...] = ()

    @property
    def array_alignment(self) -> int:
        """Bytes that its compiler aligns (and so pads) arrays of 4-byte numbers to."""
        return 8 if self.isa == "aarch64" else 4


@dataclass(frozen=True, slots=True)
class Region:
    """One memory as the linker script sees it.

    `data_origin`: where loads see the same memory, if not where instructions are fetched from.
    """

    origin: int
    bytes: int
    wait_states: int = 0
    reference: str = ""
    data_origin: int | None = None

    def holds(self, address: int) -> bool:
        """Whether `address` lies in this memory, in either of its windows."""
        origins = (self.origin, self.origin if self.data_origin is None else self.data_origin)
        return any(origin <= address < origin + self.bytes for origin in origins)


@dataclass(frozen=True, slots=True)
class Memory:
    """`system`: what makes the core wait for them; None where nothing does, or nobody has described it."""

    flash: Region
    sram: Region
    system: MemorySystem | None = None


@dataclass(frozen=True, slots=True)
class Uart:
    driver: str
    base: int
    baud: int = 115_200
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Counter:
    """The device's own time base.

    `counts`: "cycles" of the core, "instructions" (an emulator's virtual time), or "time" (a wall clock).
    """

    kind: str
    base: int
    hz: int
    counts: str
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Emulator:
    """What stands in for a board: "qemu", "verilator" (RTL), "process" (native), "wheel" (TFLM's Python)."""

    kind: str
    program: str = ""
    machine: str = ""
    options: tuple[str, ...] = ()
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """Folders of firmware/port that make this board's firmware, and what they are told.

    `linker`: template of the linker script, or "none" where an operating system loads the program.
    `defines`: numbers for board.h, such as PLL dividers and pins.
    """

    folders: tuple[str, ...]
    linker: str = "linker.ld"
    defines: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def hosted(self) -> bool:
        return self.linker == "none"


@dataclass(frozen=True, slots=True)
class Board:
    name: str
    description: str
    core: Core
    clock_hz: int
    clock_reference: str
    memory: Memory
    stack_bytes: int
    uart: Uart
    counter: Counter
    port: Port
    emulator: Emulator | None = None
    power: Power | None = None
    usb_ids: tuple[str, ...] = ()  # "vid:pid", four hexadecimal digits each
    flashers: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict, hash=False
    )  # in order of preference
    notes: str = ""
    path: Path | None = None

    @property
    def latency_provenance(self) -> Provenance:
        """How a duration on this board came about."""
        if self.emulator is None or self.emulator.kind in ("process", "wheel"):
            return "measured"
        return "cycle-accurate" if self.emulator.kind == "verilator" else "modelled"

    @property
    def running(self) -> Power | None:
        """What it draws at its clock; None where that is not known."""
        return self.power if self.power is not None and self.power.clock_hz == self.clock_hz else None

    @property
    def counts_instructions(self) -> bool:
        """Whether a timing model must turn the device's count into cycles."""
        return self.counter.counts == "instructions"


def board_names() -> list[str]:
    """Names of all boards that ship, sorted."""
    return sorted(path.stem for path in asset_dir("boards").glob("*.toml"))


def load_board(name: str) -> Board:
    """The board called `name`, or described by the TOML file of that path.

    Raises ConfigError: no such board (with the closest name), a file that is not TOML, or a key that is
    missing, of the wrong type or out of range, or names something that there is not.
    """
    path = Path(name) if name.endswith(".toml") else asset_dir("boards") / f"{name}.toml"
    if not path.is_file():
        if name.endswith(".toml"):
            hint = "give a board's name or the path of its file; `edgenas boards` lists those that ship"
            raise ConfigError(f"there is no board file {name}", hint=hint)
        close = difflib.get_close_matches(name, board_names(), n=1)
        known = ", ".join(board_names())
        raise ConfigError(
            f"unknown board '{name}'",
            hint=(f"did you mean '{close[0]}'? " if close else "") + f"Boards that ship: {known}",
        )
    return _board(Table.read(path, {"": "docs/add-a-board.md"}), path)


def _board(table: Table, path: Path) -> Board:
    memory = table.sub("memory")
    emulator = table.sub("emulator", required=False)
    power = table.sub("power", required=False)
    usb, notes = table.sub("usb", required=False), table.sub("notes", required=False)
    clock_hz = table.sub("clock").integer("hz")
    board = Board(
        name=table.text("name"),
        description=table.text("description"),
        core=_core(table.sub("core")),
        clock_hz=clock_hz,
        clock_reference=table.sub("clock").text("reference", ""),
        memory=_memory(memory),
        stack_bytes=memory.sub("stack").integer("bytes"),
        uart=_uart(table.sub("uart")),
        counter=_counter(table.sub("counter")),
        port=_port(table.sub("port")),
        emulator=_emulator(emulator) if not emulator.empty else None,
        power=read_power(power, clock_hz) if not power.empty else None,
        usb_ids=_usb_ids(usb) if not usb.empty else (),
        flashers=_flashers(table.sub("flashers", required=False)),
        notes=notes.text("text") if not notes.empty else "",
        path=path,
    )
    if board.counts_instructions and not board.core.timing:
        raise table.sub("core").error(
            "timing", "is missing", hint="a counter of instructions needs a timing model of the core"
        )
    check_name(table, board.name)
    if not board.port.hosted:  # an operating system places the program itself
        flash, sram = board.memory.flash, board.memory.sram
        check_apart(
            memory,
            (flash.origin, flash.data_origin, flash.bytes),
            (sram.origin, sram.data_origin, sram.bytes),
        )
        if "PMP" in board.port.defines:
            check_guard(memory, (flash.origin, flash.data_origin, flash.bytes), sram.origin)
    _check_wait_states(board, memory)
    if board.stack_bytes >= board.memory.sram.bytes:
        raise memory.sub("stack").error(
            "bytes", f"is {board.stack_bytes}, all of the SRAM", hint="reserve less"
        )
    table.close()
    return board


def _memory(t: Table) -> Memory:
    system = read_memory_system(t.sub("system", required=False))
    return Memory(_region(t.sub("flash")), _region(t.sub("sram")), system)


def _check_wait_states(board: Board, memory: Table) -> None:
    """Too few of them are a board that does not run; more than needed is a choice."""
    system, states = board.memory.system, board.memory.flash.wait_states
    if system is not None and states < (needed := system.wait_states(board.clock_hz)):
        raise memory.sub("flash").error(
            "wait_states",
            f"is {states}, but {board.clock_hz} Hz need {needed}",
            hint="see memory.system.wait_state_hz",
        )


def _core(t: Table) -> Core:
    return Core(
        t.text("name"),
        t.text("isa", choices=ISAS),
        t.strings("cflags"),
        t.text("toolchain"),
        t.text("timing", "", choices=("", *TIMINGS)),
        t.strings("features", ()),
    )


def _region(t: Table) -> Region:
    return Region(
        t.integer("origin", minimum=0),
        t.integer("bytes"),
        t.integer("wait_states", 0, minimum=0),
        t.text("reference", ""),
        t.integer("data_origin", minimum=0) if "data_origin" in t.names() else None,
    )


def _uart(t: Table) -> Uart:
    return Uart(
        t.text("driver", choices=UARTS),
        t.integer("base", 0, minimum=0),
        t.integer("baud", 115_200),
        t.text("reference", ""),
    )


def _counter(t: Table) -> Counter:
    counts = t.text("counts", choices=("cycles", "instructions", "time"))
    return Counter(
        t.text("kind"), t.integer("base", 0, minimum=0), t.integer("hz"), counts, t.text("reference", "")
    )


def _emulator(t: Table) -> Emulator:
    return Emulator(
        t.text("kind", choices=("qemu", "verilator", "process", "wheel")),
        t.text("program", ""),
        t.text("machine", ""),
        t.strings("options", ()),
        t.text("reference", ""),
    )


def _port(t: Table) -> Port:
    folders = t.strings("folders")
    check_folders(t, folders)
    linker = t.text("linker", "linker.ld")
    defines = t.sub("defines", required=False)
    numbers = {}
    for name in defines.names():
        if not re.fullmatch("[A-Z][A-Z0-9_]*", name):
            raise defines.error(name, "is no name for a C macro", hint="capitals, digits and underscores")
        numbers[name] = defines.integer(name, minimum=0)
    return Port(folders, linker, numbers)


def _usb_ids(t: Table) -> tuple[str, ...]:
    ids = t.strings("ids")
    t.text("reference", "")
    for text in ids:
        if not re.fullmatch("[0-9a-f]{4}:[0-9a-f]{4}", text):
            raise t.error("ids", f"has '{text}'", hint="write VID:PID as in '0483:374b', lower case")
    return ids


def _flashers(t: Table) -> dict[str, dict[str, str]]:
    found = {}
    check_flashers(t)
    for kind in t.names():
        one = t.sub(kind)
        found[kind] = {key: one.text(key) for key in one.names()}
    return found
