"""How bytes reach a target: an emulator, a simulator, a process, a serial port, another machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import LinkError
from pipeline.links.link import Link
from pipeline.links.process import ProcessLink
from pipeline.links.qemu import INSTRUCTION_NS, open_qemu
from pipeline.links.serial_port import SerialLink

__all__ = ["INSTRUCTION_NS", "Link", "ProcessLink", "SerialLink", "check_reachable", "open_link"]


def open_link(
    board: Board, elf: Path, *, port: str | None = None, plugin_args: Sequence[str] | None = None
) -> Link:
    """A link to `board`: its emulator or simulator, started with `elf`; what `port` names; or where it is found.

    `port`: a serial port or pyserial URL; `renode` for a simulation of a real board; `ssh://user@host` or
    `local` for a board with an operating system.
    `plugin_args` go to QEMU's `-plugin`, one string each. Raises ToolError (a program that is missing),
    LinkError (no such port), ConfigError (none given, and the board is not found or not told from another).
    """
    if _own_system(board):
        return _open_hosted(board, elf, port)
    if port == "renode":
        from pipeline.links.renode import RenodeLink

        return RenodeLink(board, elf)
    if port is not None:
        return SerialLink(port, baud=board.uart.baud)
    kind = board.emulator.kind if board.emulator else ""
    if kind == "qemu":
        return open_qemu(board, elf, plugin_args=plugin_args)
    if kind == "verilator":
        from pipeline.links.rtl import open_rtl

        return open_rtl(board, elf)
    if kind == "wheel":
        from pipeline.links.wheel import open_wheel

        return open_wheel(board)
    from pipeline.links.discovery import find_port

    return SerialLink(find_port(board).device, baud=board.uart.baud)


def check_reachable(board: Board, ports: Sequence[str | None]) -> None:
    """Raises what `open_link` would where nothing says how to reach one of `board`, or the port does not exist; opens
    none, so before a build."""
    for port in ports:
        if _own_system(board):
            _check_hosted(board, port)
        elif port != "renode" and (port is not None or board.emulator is None):
            from pipeline.links.discovery import find_port

            find_port(board, port=port)


def _own_system(board: Board) -> bool:
    """Whether what is measured runs as a program under an operating system, with no emulator around it."""
    return board.port.hosted and (board.emulator is None or board.emulator.kind == "process")


def _check_hosted(board: Board, port: str | None) -> None:
    if board.emulator is None and port != "local" and not (port or "").startswith("ssh://"):
        raise LinkError(
            f"board {board.name} is another machine",
            hint="--port ssh://user@host, or --port local on the board itself",
        )


def _open_hosted(board: Board, elf: Path, port: str | None) -> Link:
    _check_hosted(board, port)
    if port is not None and port.startswith("ssh://"):
        from pipeline.links.ssh import open_ssh

        return open_ssh(board, elf, port)
    from pipeline.links.native import open_native

    return open_native(board, elf)
