"""A board on a serial port (or anything else that pyserial has a URL for)."""

from __future__ import annotations

import serial

from pipeline.errors import LinkError
from pipeline.links.link import Link


class SerialLink(Link):
    """`port` is a device path or a pyserial URL; raises LinkError where it cannot be opened."""

    def __init__(self, port: str, *, baud: int = 115200) -> None:
        try:
            self._port = serial.serial_for_url(port, baudrate=baud, timeout=0.1, write_timeout=10.0)
        except (serial.SerialException, ValueError) as error:
            raise LinkError(f"cannot open {port}: {error}", hint="edgenas doctor lists the ports") from error
        self._name = port

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except serial.SerialException as error:
            raise LinkError(f"{self._name} has gone away: {error}", hint="is the board connected?") from error

    def read(self, timeout_s: float) -> bytes:
        try:
            self._port.timeout = max(0.0, timeout_s)
            first: bytes = self._port.read(1)
            return first + self._port.read(self._port.in_waiting) if first else b""
        except (serial.SerialException, OSError) as error:
            raise LinkError(f"{self._name} has gone away: {error}", hint="is the board connected?") from error

    def close(self) -> None:
        self._port.close()

    def alive(self) -> bool:
        return bool(self._port.is_open)

    def describe(self) -> str:
        return self._name
