"""What a core waits for its memories, simulated inside QEMU (firmware/emulator/memory)."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board, Variant
from pipeline.boards.memory_system import LIKELY
from pipeline.errors import ConfigError, LinkError, ToolError
from pipeline.links.compiled import shared_library

_SOURCES = ("system.h", "system.c")
_CYCLE = 256  # the simulator's unit of time is a part of a cycle


@dataclass(frozen=True, slots=True)
class Waits:
    """One region. Stalls in cycles; fetches are parts of lines that were entered."""

    fetch_stall: float
    data_stall: float
    fetches: int
    fetch_misses: int
    prefetched: int
    reads: int
    read_misses: int
    writes: int
    write_misses: int
    writebacks: int

    @property
    def cycles(self) -> float:
        return self.fetch_stall + self.data_stall

    def __add__(self, other: Waits) -> Waits:
        return Waits(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def model_library() -> Path:
    """The simulator alone, without QEMU. Raises ToolError: no C compiler, or it failed."""
    folder = asset_dir("firmware") / "emulator" / "memory"
    return shared_library("memory-model", folder, _SOURCES, "the model of memory systems")


def plugin_library() -> Path:
    """QEMU's plugin around it. Raises ToolError as `model_library`."""
    folder = asset_dir("firmware") / "emulator"
    sources = ("qemu_plugin_api.h", *(f"memory/{name}" for name in (*_SOURCES, "plugin.c")))
    return shared_library("memory-plugin", folder, sources, "QEMU's plugin that models memory systems")


@dataclass(frozen=True, slots=True)
class Simulated:
    """The memory system of `board`, for code that an emulated board with the same core runs in its place.

    `variants` all see the same run. `wait_states` None: those of the board file. `cycles_per_instruction`: how fast
    time passes for a prefetch.
    """

    board: Board
    cycles_per_instruction: float
    variants: tuple[Variant, ...] = (LIKELY,)
    wait_states: int | None = None

    def descriptions(self, emulated: Board) -> list[str]:
        """One a variant, for memories where `emulated` has them.

        Raises ConfigError: the board file describes no memory system.
        """
        memory = self.board.memory
        if memory.system is None:
            raise ConfigError(
                f"{self.board.name} has no [memory.system]",
                hint="see docs/add-a-board.md, or measure the board",
            )
        states = memory.flash.wait_states if self.wait_states is None else self.wait_states
        flash = (emulated.memory.flash.origin, min(memory.flash.bytes, emulated.memory.flash.bytes))
        sram = (emulated.memory.sram.origin, min(memory.sram.bytes, emulated.memory.sram.bytes))
        rate = self.cycles_per_instruction
        return [
            memory.system.describe(states, flash, sram, cycles_per_instruction=rate, variant=variant)
            for variant in self.variants
        ]

    def plugin_args(self, emulated: Board, folder: Path) -> list[str]:
        """QEMU's `-plugin` option to write the regions into `folder`. Raises ToolError as `model_library`."""
        files = [folder.resolve() / f"waits-{i}.system" for i in range(len(self.variants))]
        for path, text in zip(files, self.descriptions(emulated), strict=True):
            path.write_text(text, encoding="utf-8")
        library = plugin_library()
        for path in (library, folder):
            if "," in str(path):
                raise ToolError(f"QEMU takes no comma in a plugin's path: {path}", hint="use another folder")
        return [",".join((str(library), f"out={_out(folder)}", *(f"system={path}" for path in files)))]

    def read(self, folder: Path) -> list[tuple[Waits, ...]]:
        """Of each region that ended so far, the waits of each variant. LinkError: not the plugin's file."""
        waits = read_waits(_out(folder))
        size = len(self.variants)
        return [tuple(waits[i : i + size]) for i in range(0, len(waits) // size * size, size)]


def _out(folder: Path) -> Path:
    return folder.resolve() / "waits.txt"


def read_waits(path: Path) -> list[Waits]:
    """Line by line. Raises LinkError for a file that is not the plugin's."""
    if not path.is_file():
        raise LinkError(f"the memory plugin wrote no {path.name}", hint="did QEMU start?")
    regions = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # the last is unfinished or empty
        try:
            fetch, data, *counts = map(int, line.split())
            regions.append(Waits(fetch / _CYCLE, data / _CYCLE, *counts))
        except (ValueError, TypeError) as error:
            raise LinkError(f"{path} is not a file of waits: {line[:60]!r}") from error
    return regions
