"""How bytes reach a target: QEMU, a serial port, a process on the host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.boards import Board
from pipeline.links.link import Link
from pipeline.links.process import ProcessLink
from pipeline.links.qemu import INSTRUCTION_NS, open_qemu
from pipeline.links.serial_port import SerialLink

__all__ = ["INSTRUCTION_NS", "Link", "ProcessLink", "SerialLink", "open_link"]


def open_link(
    board: Board, elf: Path, *, port: str | None = None, plugin_args: Sequence[str] | None = None
) -> Link:
    """A link to `board`: its emulator, booted with `elf`, or the serial port `port` where one is given.

    `plugin_args` go to QEMU's `-plugin`, one string each. Raises ToolError (no emulator), LinkError (no such
    port).
    """
    if port is not None:
        return SerialLink(port)
    return open_qemu(board, elf, plugin_args=plugin_args)
