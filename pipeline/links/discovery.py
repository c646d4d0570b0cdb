"""Which serial port a board is on, and whether it is that board which answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.boards import Board
from pipeline.errors import ConfigError, LinkError
from pipeline.links.link import Link
from pipeline.wire.client import Client, Hello

_NAME_CHARACTERS = 23  # of the board's name in a hello (pipeline.wire.messages), less the closing NUL

Comports = Callable[[], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A serial port of this machine; `usb_id` is "vid:pid", "" where it is no USB device."""

    device: str
    usb_id: str = ""
    serial: str = ""
    location: str = ""
    description: str = ""

    def __str__(self) -> str:
        facts = [self.usb_id]
        if self.serial:
            facts.append(f"serial {self.serial}")
        elif self.location:
            facts.append(f"USB {self.location}")
        return f"{self.device} ({', '.join(filter(None, facts)) or 'no USB device'})"


def serial_ports(comports: Comports | None = None) -> list[SerialPort]:
    """The serial ports of this machine, by name; `comports` stands in for pyserial's list in tests."""
    if comports is None:
        from serial.tools import list_ports

        comports = list_ports.comports
    found = [
        SerialPort(
            device=port.device,
            usb_id=f"{port.vid:04x}:{port.pid:04x}" if port.vid is not None else "",
            serial=port.serial_number or "",
            location=port.location or "",
            description=port.description or "",
        )
        for port in comports()
    ]
    return sorted(found, key=lambda port: port.device)


def candidates(board: Board, comports: Comports | None = None) -> list[SerialPort]:
    """The ports whose USB ids the board file lists."""
    return [port for port in serial_ports(comports) if port.usb_id in board.usb_ids]


def find_port(
    board: Board, *, port: str | None = None, serial: str | None = None, comports: Comports | None = None
) -> SerialPort:
    """The port that `board` is on: `port` if given, else the one with its USB ids (and serial number).

    Raises LinkError: no such board or port, several alike (all named), or a port with another serial number;
    ConfigError: the board file lists no USB ids and no port is given.
    """
    if port is not None:
        return _given(port, serial, comports)
    if not board.usb_ids and serial is None:
        raise ConfigError(
            f"{board.name} has no USB ids to find its serial port by",
            hint=f"name the port: --port PORT. There are: {_named(serial_ports(comports))}",
        )
    everything = serial_ports(comports)
    alike = [one for one in everything if not board.usb_ids or one.usb_id in board.usb_ids]
    if not alike:
        raise LinkError(
            f"no {board.name} is connected: no port has USB id {' or '.join(board.usb_ids)}",
            hint=f"check the cable, or name the port (--port). There are: {_named(everything)}",
        )
    matching = [one for one in alike if serial is None or one.serial.lower() == serial.lower()]
    if not matching:
        raise LinkError(f"no {board.name} with serial number {serial}", hint=f"there are: {_named(alike)}")
    if len(matching) > 1:
        raise LinkError(f"{len(matching)} ports could be {board.name}", hint=_choice(matching))
    return matching[0]


def greet(link: Link, board: Board, *, build_id: bytes | None = None, boot_s: float = 10.0) -> Hello:
    """Greets the device on `link` and checks that it is `board` (and runs the firmware with `build_id`).

    Raises LinkError, with the port's name, where nobody answers or another board or program does.
    """
    where = link.describe()
    try:
        hello = Client(link).hello(boot_s=boot_s)
    except LinkError as error:
        hint = error.hint or "is edgenas firmware on it? edgenas flash"
        raise LinkError(f"{where}: {error.message}", hint=hint) from error
    name = board.name[:_NAME_CHARACTERS]
    if hello.board != name:
        raise LinkError(
            f"{where} is the wrong board: {hello.board} answers, not {board.name}",
            hint=f"--board {hello.board}, or another --port",
        )
    if build_id is not None and hello.build_id != build_id:
        raise LinkError(
            f"{where} runs another program: build {hello.build_id.hex()}, not {build_id.hex()}",
            hint=f"edgenas flash --board {board.name}",
        )
    return hello


def _given(port: str, serial: str | None, comports: Comports | None) -> SerialPort:
    """A port that the user named; one that pyserial does not list (a URL, a pseudo-terminal) is fine too."""
    known = {one.device: one for one in serial_ports(comports)}
    real = str(Path(port).resolve()) if port.startswith("/") else port  # /dev/serial/by-id/... is a link
    found = known.get(port) or known.get(real)
    if found is None:
        if port.startswith("/") and not Path(port).exists():
            raise LinkError(f"there is no port {port}", hint=f"there are: {_named(known.values())}")
        return SerialPort(port, serial=serial or "")
    if serial is not None and found.serial.lower() != serial.lower():
        what = f"{port} has the serial number {found.serial or '(none)'}, not {serial}"
        raise LinkError(what, hint="give only one of --port and --serial")
    return found


def _named(ports: Iterable[SerialPort]) -> str:
    return ", ".join(map(str, ports)) or "no serial ports at all"


def _choice(ports: list[SerialPort]) -> str:
    """How to name each of several boards that are alike."""
    numbers = [port.serial for port in ports]
    ways = []
    for port in ports:
        by_number = f" or --serial {port.serial}" if port.serial and numbers.count(port.serial) == 1 else ""
        ways.append(f"--port {port.device}{by_number}")
    return "name one: " + "; ".join(ways)
