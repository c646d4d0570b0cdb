"""The firmware as a process on this machine."""

from __future__ import annotations

from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ToolError
from pipeline.links.process import ProcessLink

WIRE_FD = "EDGENAS_WIRE_FD"  # read by firmware/port/host


def open_native(board: Board, elf: Path) -> ProcessLink:
    """Starts `elf`, a program for this machine.

    A program for another kind of processor runs where the system knows an interpreter for it (binfmt with
    qemu-user). Raises ToolError: no such program, or it cannot be started.
    """
    if not elf.is_file():
        raise ToolError(f"no firmware at {elf}", hint="build it first: edgenas deploy, or edgenas flash")
    return ProcessLink(
        lambda fd: ["env", f"{WIRE_FD}={fd}", str(elf.resolve())],
        name=f"process ({board.name})",
        hint="is it built for this machine's processor?",
    )
