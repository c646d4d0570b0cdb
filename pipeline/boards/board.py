"""Board: core, clock, memories, UART, counter and emulator, read from one TOML file.

Nothing in the project branches on a board's name; code asks for capabilities (`core.features`,
`counter.counts`, `emulator`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.errors import ConfigError
from pipeline.tomltable import Table


@dataclass(frozen=True, slots=True)
class Core:
    name: str
    isa: str
    cflags: tuple[str, ...]
    toolchain: str  # prefix of the cross-compiler's programs
    timing: str  # module in pipeline/latency/timing
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Region:
    """One memory as the linker script sees it."""

    origin: int
    bytes: int
    wait_states: int = 0
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    flash: Region
    sram: Region


@dataclass(frozen=True, slots=True)
class Uart:
    driver: str
    base: int
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Counter:
    """The device's own time base; `counts` is "cycles" on real boards, "instructions" under -icount."""

    kind: str
    base: int
    hz: int
    counts: str
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Emulator:
    kind: str
    program: str
    machine: str
    reference: str = ""


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
    port_folder: str
    emulator: Emulator | None = None
    path: Path | None = None


def board_names() -> list[str]:
    """Names of all boards that ship, sorted."""
    return sorted(path.stem for path in asset_dir("boards").glob("*.toml"))


def load_board(name: str) -> Board:
    """The board called `name`, or described by the TOML file of that path.

    Raises ConfigError: no such board (with the closest name), a file that is not TOML, or a key that is
    missing, of the wrong type or out of range.
    """
    path = Path(name) if name.endswith(".toml") else asset_dir("boards") / f"{name}.toml"
    if not path.is_file():
        close = difflib.get_close_matches(name, board_names(), n=1)
        known = ", ".join(board_names())
        raise ConfigError(
            f"unknown board '{name}'",
            hint=(f"did you mean '{close[0]}'? " if close else "") + f"Boards that ship: {known}",
        )
    return _board(Table.read(path), path)


def _board(table: Table, path: Path) -> Board:
    memory = table.sub("memory")
    emulator = table.sub("emulator", required=False)
    board = Board(
        name=table.text("name"),
        description=table.text("description"),
        core=_core(table.sub("core")),
        clock_hz=table.sub("clock").integer("hz"),
        clock_reference=table.sub("clock").text("reference", ""),
        memory=Memory(_region(memory.sub("flash")), _region(memory.sub("sram"))),
        stack_bytes=memory.sub("stack").integer("bytes"),
        uart=_uart(table.sub("uart")),
        counter=_counter(table.sub("counter")),
        port_folder=table.sub("port").text("folder"),
        emulator=_emulator(emulator) if not emulator.empty else None,
        path=path,
    )
    if board.stack_bytes >= board.memory.sram.bytes:
        raise memory.sub("stack").error(
            "bytes", f"is {board.stack_bytes}, all of the SRAM", hint="reserve less"
        )
    table.close()
    return board


def _core(t: Table) -> Core:
    return Core(
        t.text("name"),
        t.text("isa"),
        t.strings("cflags"),
        t.text("toolchain"),
        t.text("timing"),
        t.strings("features", ()),
    )


def _region(t: Table) -> Region:
    return Region(
        t.integer("origin", minimum=0),
        t.integer("bytes"),
        t.integer("wait_states", 0, minimum=0),
        t.text("reference", ""),
    )


def _uart(t: Table) -> Uart:
    return Uart(t.text("driver"), t.integer("base", minimum=0), t.text("reference", ""))


def _counter(t: Table) -> Counter:
    counts = t.text("counts", choices=("cycles", "instructions"))
    return Counter(
        t.text("kind"), t.integer("base", minimum=0), t.integer("hz"), counts, t.text("reference", "")
    )


def _emulator(t: Table) -> Emulator:
    return Emulator(t.text("kind"), t.text("program"), t.text("machine"), t.text("reference", ""))
