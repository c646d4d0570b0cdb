"""From an ELF to a board that has answered with its build id."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ConfigError, LinkError, ToolError
from pipeline.firmware.elf import read_sizes
from pipeline.firmware.image import read_image
from pipeline.flashers.flasher import Flasher, Target
from pipeline.flashers.tools import choose, flash_emulator
from pipeline.links.discovery import Comports, SerialPort, find_port, greet
from pipeline.links.link import Link
from pipeline.links.serial_port import SerialLink
from pipeline.wire.client import Hello

_REAPPEAR_S = 8.0  # a USB device enumerates again, and permissions are set, within a few seconds


@dataclass(frozen=True, slots=True)
class Flashed:
    """What was flashed with what, and who answered where."""

    elf: Path
    flasher: str
    log: Path
    where: str
    hello: Hello


def flash_and_greet(
    board: Board,
    elf: Path,
    *,
    kind: str | None = None,
    port: str | None = None,
    upload_port: str | None = None,
    serial: str | None = None,
    comports: Comports | None = None,
) -> Flashed:
    """Flashes `elf` with the board's first usable tool (or `kind`), greets the device and checks the build id.

    `port` is where the device answers; `upload_port`, where different, is where its bootloader listens (an
    adapter on other pins). `serial` picks one of several boards. Raises ConfigError, ToolError, LinkError.
    """
    if board.emulator is not None and (port or upload_port or serial):
        raise ConfigError(
            f"{board.name} is emulated: it is at no port and has no serial number",
            hint="leave out --port, --upload-port and --serial, or name the board that is connected: edgenas boards",
        )
    flasher = choose(board, kind)
    build_id = check_firmware(board, elf)
    if board.emulator is not None:
        with flash_emulator(board, elf) as link:
            return _answer(link, board, elf, flasher, build_id)
    place = _find_before(board, port, serial, comports)
    own = place.usb_id in board.usb_ids  # the port of the board's probe, not of some adapter
    # a bootloader is another USB device than the probe, with a number of its own
    number = (place.serial if flasher.by_probe else "") if own else serial or ""
    flasher.flash(board, elf, Target(upload_port or place.device, number))
    with _reopen(board, port, place.serial if own else "", comports) as link:
        return _answer(link, board, elf, flasher, build_id)


def check_firmware(board: Board, elf: Path) -> bytes:
    """The build id of `elf`. Raises ToolError: no ELF, not of edgenas, or linked for other memories."""
    if not elf.is_file():
        raise ToolError(f"no firmware at {elf}", hint="leave --elf out to build the benchmark firmware")
    image = read_image(elf)
    flash, sram = board.memory.flash, board.memory.sram
    end = image.address + len(image.data)
    if not any(r.origin <= image.address and end <= r.origin + r.bytes for r in (flash, sram)):
        raise ToolError(
            f"{elf} is not for {board.name}: it loads 0x{image.address:08x} to 0x{end:08x}, the board's flash is "
            f"0x{flash.origin:08x} to 0x{flash.origin + flash.bytes:08x}",
            hint="build it for this board: edgenas deploy",
        )
    build_id = read_sizes(elf, board).build_id
    if not build_id:
        raise ToolError(f"{elf} holds no build id", hint="only firmware that edgenas built can be checked")
    return build_id


def _find_before(board: Board, port: str | None, serial: str | None, comports: Comports | None) -> SerialPort:
    """The port before flashing; an error here costs less than one after it."""
    if port is None and not board.usb_ids:
        raise ConfigError(
            f"{board.name} answers on a USB-serial adapter, which edgenas cannot recognize",
            hint=f"name its port: edgenas flash --board {board.name} --port PORT (edgenas doctor lists them)",
        )
    return find_port(board, port=port, serial=None if port else serial, comports=comports)


def _reopen(board: Board, port: str | None, serial: str, comports: Comports | None) -> Link:
    """The board's port after flashing: a reset may make it go, and come back under another name."""
    deadline = time.monotonic() + _REAPPEAR_S
    while True:
        try:
            place = find_port(board, port=port, serial=None if port else serial or None, comports=comports)
            return SerialLink(place.device, baud=board.uart.baud)
        except LinkError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _answer(link: Link, board: Board, elf: Path, flasher: Flasher, build_id: bytes) -> Flashed:
    hello = greet(link, board, build_id=build_id)
    return Flashed(elf, flasher.kind, flasher.log_path(elf), link.describe(), hello)
