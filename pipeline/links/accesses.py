"""Which memory each load and store reached, counted by a plugin inside QEMU (firmware/emulator/accesses)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.errors import LinkError, ToolError
from pipeline.links.compiled import shared_library


@dataclass(frozen=True, slots=True)
class Accesses:
    """Of one load or store instruction in one region."""

    flash: int
    all: int


Regional = Mapping[int, Accesses]  # by the instruction's address


def plugin_library() -> Path:
    """The plugin, compiled on first use. Raises ToolError: no C compiler on this machine, or it failed."""
    sources = ("qemu_plugin_api.h", "accesses/plugin.c")
    folder = asset_dir("firmware") / "emulator"
    return shared_library("accesses", folder, sources, "QEMU's plugin that tells memories apart")


def access_args(board: Board, out: Path) -> list[str]:
    """QEMU's `-plugin` option to write to `out` what reached the flash of `board`.

    Raises ToolError as `plugin_library` does, and for a path that QEMU's option syntax cannot hold.
    """
    library, flash = plugin_library(), board.memory.flash
    for path in (library, out):
        if "," in str(path):
            raise ToolError(f"QEMU takes no comma in a plugin's path: {path}", hint="use another folder")
    return [f"{library},out={out.resolve()},origin={flash.origin:#x},bytes={flash.bytes}"]


def read_accesses(path: Path) -> list[Regional]:
    """Of each region that ended so far. Raises LinkError for a file that is not the plugin's."""
    if not path.is_file():
        raise LinkError(f"the plugin wrote no {path.name}", hint="did QEMU start?")
    regions: list[Regional] = []
    for line in path.read_text(encoding="ascii", errors="replace").split("\n")[:-1]:  # the last is unfinished
        region = {}
        for item in line.split():
            try:
                pc, flash, total = (int(part, 16) for part in item.split(":"))
            except ValueError as error:
                raise LinkError(f"{path} is not a file of accesses: {item[:60]!r}") from error
            region[pc] = Accesses(flash, total)
        regions.append(region)
    return regions
