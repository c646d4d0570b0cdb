"""QEMU as a target: the board's UART is one end of a socket pair."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.boards import Board
from pipeline.boards.board import Emulator
from pipeline.errors import ToolError
from pipeline.links.process import ProcessLink

ICOUNT_SHIFT = 6  # an instruction takes 2^6 ns of virtual time
INSTRUCTION_NS = 1 << ICOUNT_SHIFT

_PACKAGES = {"qemu-system-arm": "qemu-system-arm", "qemu-system-riscv32": "qemu-system-misc"}


def _emulator(board: Board) -> tuple[Emulator, str]:
    """The board's emulator and the path of its program; raises ToolError where either is missing."""
    if board.emulator is None:
        raise ToolError(f"board {board.name} has no emulator", hint="connect it and give its serial port")
    found = shutil.which(board.emulator.program)
    if found is None:
        package = _PACKAGES.get(board.emulator.program, "qemu-system")
        raise ToolError(f"{board.emulator.program} is not installed", hint=f"sudo apt install {package}")
    return board.emulator, found


def open_qemu(board: Board, elf: Path, *, plugin_args: Sequence[str] | None = None) -> ProcessLink:
    """Boots `elf` on the board's emulator.

    `plugin_args`: one `FILE,key=value,...` per TCG plugin. Virtual time follows the instruction count, so
    the device's timer is exact and repeatable; no `sleep=off`, which would burn a core while the firmware
    waits. Raises ToolError: no QEMU, no such ELF.
    """
    emulator, program = _emulator(board)
    if not elf.is_file():
        raise ToolError(f"no firmware at {elf}", hint="build it first: edgenas deploy, or edgenas flash")
    arguments = [
        program, "-M", emulator.machine, "-nodefaults", "-display", "none", "-monitor", "none",
        "-icount", f"shift={ICOUNT_SHIFT}", "-serial", "chardev:wire", "-kernel", str(elf),
    ]  # fmt: skip
    for plugin in plugin_args or ():
        arguments += ["-plugin", plugin]
    return ProcessLink(
        lambda fd: [*arguments, "-chardev", f"socket,id=wire,fd={fd}"],
        name=f"{emulator.program} ({board.name})",
    )
