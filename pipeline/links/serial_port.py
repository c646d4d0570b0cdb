"""A board on a serial port (or anything else that pyserial has a URL for)."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path

import serial

from pipeline.errors import LinkError
from pipeline.links.link import Link

_POLL_S = 0.05
_READ_BYTES = 65536
_HINT_LIST = "edgenas doctor lists the ports"


class SerialLink(Link):
    """`port`: /dev/tty*, COM*, socket://host:port, rfc2217://host:port; opened for this process alone.

    8 data bits, no parity, 1 stop bit, no flow control. Raises LinkError where it cannot be opened: it is
    missing, in use (with the process that holds it, where the system tells), or not permitted.
    """

    def __init__(self, port: str, *, baud: int = 115200) -> None:
        self._name = port
        scheme = port.split("://", 1)[0].lower() if "://" in port else ""
        # pyserial passes every change of the timeout on to an RFC 2217 server, a round trip each
        self._polled = scheme == "rfc2217"
        self._stream = scheme == "socket"  # its in_waiting only tells whether there is something
        self.real_time = not scheme  # who knows what answers behind a URL
        options = {} if scheme else {"exclusive": True, "write_timeout": 10.0}
        try:
            self._port = serial.serial_for_url(port, baudrate=baud, timeout=_POLL_S, **options)
        except (serial.SerialException, ValueError, OSError) as error:
            raise _cannot_open(port, error) from error

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (serial.SerialException, OSError) as error:
            raise self._gone(error) from error

    def read(self, timeout_s: float) -> bytes:
        try:
            first = self._first(max(0.0, timeout_s))
            return first + self._rest() if first else b""
        except (serial.SerialException, OSError, TypeError) as error:
            # TypeError: pyserial's own, where the port is closed under a read
            raise self._gone(error) from error

    def _first(self, timeout_s: float) -> bytes:
        if not self._polled:
            self._port.timeout = timeout_s
            return bytes(self._port.read(1))
        deadline = time.monotonic() + timeout_s
        while not (first := bytes(self._port.read(1))) and time.monotonic() < deadline:
            pass
        return first

    def _rest(self) -> bytes:
        if self._stream:
            self._port.timeout = 0
            return bytes(self._port.read(_READ_BYTES))
        return bytes(self._port.read(self._port.in_waiting))

    def _gone(self, error: Exception) -> LinkError:
        return LinkError(f"{self._name} has gone away: {error}", hint="is the board connected?")

    def close(self) -> None:
        self._port.close()

    def alive(self) -> bool:
        return bool(self._port.is_open)

    def describe(self) -> str:
        return self._name


def holder(port: str) -> str:
    """`process 1234 (minicom)` that has `port` open, "" where that cannot be found out (Linux only)."""
    try:
        device = Path(port).stat().st_rdev
    except OSError:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("/dev/") and Path(target).stat().st_rdev == device:
                    name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    return f"process {process.name} ({name})"
        except OSError:  # it ended meanwhile, or belongs to someone else
            continue
    return ""


def _cannot_open(port: str, error: Exception) -> LinkError:
    code, text = getattr(error, "errno", None), str(error)
    if isinstance(error, ValueError):
        return LinkError(
            f"{port} is no serial port: {error}", hint="a device path, COM*, socket:// or rfc2217://"
        )
    # Windows reports a port in use as a denied access
    in_use = code in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in text or "Access is denied" in text
    if in_use:
        who = holder(port)
        return LinkError(f"{port} is busy: " + (f"{who} has it open" if who else "another program has it open"),
                         hint="close it (a serial monitor? another edgenas?) and try again")  # fmt: skip
    if code == errno.EACCES:
        return LinkError(f"{port}: permission denied",
                         hint="sudo usermod -a -G dialout $USER, then log in again")  # fmt: skip
    if code == errno.ENOENT or "FileNotFoundError" in text:
        return LinkError(f"cannot open {port}: there is no such port", hint=_HINT_LIST)
    if re.match(r"(socket|rfc2217)://", port):
        return LinkError(f"cannot open {port}: {text}", hint="is the serial server running and reachable?")
    return LinkError(f"cannot open {port}: {text}", hint=_HINT_LIST)
