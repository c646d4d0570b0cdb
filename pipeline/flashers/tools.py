"""The tools that there are, and which of them serves a board."""

from __future__ import annotations

from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ConfigError, ToolError
from pipeline.flashers.dfu_util import DfuUtil
from pipeline.flashers.esptool import EspTool
from pipeline.flashers.flasher import Flasher, Target
from pipeline.flashers.gdb import Gdb
from pipeline.flashers.openocd import OpenOcd
from pipeline.flashers.platformio import PlatformIo
from pipeline.flashers.pyocd import PyOcd
from pipeline.flashers.stm32flash import Stm32Flash
from pipeline.links import Link
from pipeline.links.qemu import FlashedQemu

FLASHERS: dict[str, Flasher] = {
    flasher.kind: flasher
    for flasher in (PlatformIo(), PyOcd(), OpenOcd(), EspTool(), Stm32Flash(), DfuUtil(), Gdb())
}


def flashers_of(board: Board) -> list[Flasher]:
    """The board's flashers in its order of preference. Raises ConfigError for a kind that does not exist."""
    unknown = [kind for kind in board.flashers if kind not in FLASHERS]
    if unknown:
        known = ", ".join(FLASHERS)
        raise ConfigError(f"board {board.name}: unknown flasher '{unknown[0]}'", hint=f"there are: {known}")
    return [FLASHERS[kind] for kind in board.flashers]


def choose(board: Board, kind: str | None = None) -> Flasher:
    """The flasher called `kind`, or the board's first whose tool is installed.

    Raises ConfigError: the board has none, or not this one; ToolError: no tool is installed (with each remedy).
    """
    possible = flashers_of(board)
    if not possible:
        hint = "its program is started, not flashed"
        if board.port.hosted and board.emulator is None:
            hint += f": edgenas profile --board {board.name} --port ssh://user@host copies and starts it"
        raise ConfigError(f"board {board.name} has no flashers", hint=hint)
    if kind is not None:
        for flasher in possible:
            if flasher.kind == kind:
                return flasher
        names = ", ".join(flasher.kind for flasher in possible)
        raise ConfigError(f"{board.name} cannot be flashed with {kind}", hint=f"it can with: {names}")
    for flasher in possible:
        if flasher.available(board).path:
            return flasher
    remedies = "; or ".join(flasher.remedy for flasher in possible)
    names = ", ".join(flasher.program_of(board) for flasher in possible)
    raise ToolError(f"no tool to flash {board.name} is installed ({names})", hint=remedies)


def flash_emulator(board: Board, elf: Path) -> Link:
    """Starts the board's QEMU empty, loads `elf` through gdb, resets, and returns the link to that same QEMU.

    Raises ToolError (QEMU or gdb is missing, or gdb failed) and LinkError (QEMU died).
    """
    link = FlashedQemu(board)
    try:
        FLASHERS["gdb"].flash(board, elf, Target(port=link.stub))
    except BaseException:
        link.close()
        raise
    return link
