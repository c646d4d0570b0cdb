"""A simulated STM32 on a pseudo-terminal: the ROM bootloader of ST's AN3155, then the flashed program's hello."""

from __future__ import annotations

import os
import pty
import select
import threading
import time
import tty
from types import TracebackType
from typing import Self

from pipeline.wire.framing import Frame, FrameReader, encode
from pipeline.wire.messages import BUILD_ID_BYTES, PROTOCOL_VERSION, RESPONSE_BIT, HelloReply, Kind, Op

ACK, NACK = b"\x79", b"\x1f"
PAGE = 16384  # first sectors of an STM32F4
COMMANDS = (0x00, 0x01, 0x02, 0x11, 0x21, 0x31, 0x44)


class SimulatedStm32:
    """`memory` is the flash from `origin`. `reset` starts the bootloader again, as BOOT0 and reset would.

    `bad_writes`: so many first writes store a damaged byte. `build_id_at`: where the program's build id lies.
    """

    def __init__(self, *, origin: int = 0x08000000, chip: int = 0x421, size: int = 1 << 19) -> None:
        self.origin, self.chip = origin, chip
        self.memory = bytearray(b"\0" * size)
        self.board = "nucleo-f446re"
        self.build_id_at = 0
        self.bad_writes = 0
        self.silent = False
        self.started_at: int | None = None
        self.erased: list[int] = []
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(5.0)
        os.close(self._master)
        os.close(self._slave)

    def start_program(self) -> None:
        """As if `memory` had been flashed and started before."""
        self.started_at = self.origin

    def _run(self) -> None:
        try:
            self._bootloader()
            self._program()
        except InterruptedError:
            return

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if self._stop.is_set():
                raise InterruptedError
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    data += os.read(self._master, count - len(data))
                except OSError:  # nobody has the port open
                    time.sleep(0.01)
        return data

    def _give(self, data: bytes) -> None:
        if not self.silent:
            os.write(self._master, data)

    def _bootloader(self) -> None:
        while self.started_at is None and self._take(1) != b"\x7f":
            pass
        if self.started_at is None:
            self._give(ACK)
        while self.started_at is None:
            code = self._take(1)[0]
            if code == 0x7F:  # a second greeting is no command
                self._give(NACK)
                continue
            if self._take(1)[0] != code ^ 0xFF or code not in COMMANDS:
                self._give(NACK)
                continue
            self._give(ACK)
            self._command(code)

    def _command(self, code: int) -> None:
        if code == 0x00:
            self._give(bytes([len(COMMANDS), 0x31, *COMMANDS]) + ACK)
        elif code == 0x01:
            self._give(b"\x31\0\0" + ACK)
        elif code == 0x02:
            self._give(b"\x01" + self.chip.to_bytes(2, "big") + ACK)
        elif code == 0x11:
            offset = self._address()
            count = self._checked(1)[0] + 1
            self._give(ACK + bytes(self.memory[offset : offset + count]))
        elif code == 0x21:
            self.started_at = self._offset() + self.origin  # before the tool hears of it and ends
            self._give(ACK)
        elif code == 0x31:
            self._write(self._address())
        elif code == 0x44:
            self._erase()

    def _checked(self, count: int) -> bytes:
        """`count` bytes and their check byte: their exclusive or, the complement for a single one."""
        *data, check = self._take(count + 1)
        expected = 0xFF if count == 1 else 0
        for byte in data:
            expected ^= byte
        assert check == expected, f"bad check byte {check:02x} after {bytes(data).hex()}"
        return bytes(data)

    def _offset(self) -> int:
        offset = int.from_bytes(self._checked(4), "big") - self.origin
        assert 0 <= offset < len(self.memory), hex(offset + self.origin)
        return offset

    def _address(self) -> int:
        offset = self._offset()
        self._give(ACK)
        return offset

    def _write(self, offset: int) -> None:
        count = self._take(1)[0] + 1
        data = bytearray(self._take(count))
        check = count - 1
        for byte in data:
            check ^= byte
        assert self._take(1)[0] == check
        if self.bad_writes:
            self.bad_writes -= 1
            data[0] ^= 1
        self.memory[offset : offset + count] = data
        self._give(ACK)

    def _erase(self) -> None:
        count = int.from_bytes(self._take(2), "big")
        if count == 0xFFFF:
            self._take(1)
            self.memory[:] = b"\xff" * len(self.memory)
        else:
            pages = self._take(2 * (count + 1))
            self._take(1)
            for page in range(count + 1):
                number = int.from_bytes(pages[2 * page : 2 * page + 2], "big")
                self.erased.append(number)
                if number < 4:
                    self.memory[number * PAGE : (number + 1) * PAGE] = b"\xff" * PAGE
        self._give(ACK)

    def _program(self) -> None:
        reader = FrameReader()
        at = self.build_id_at - self.origin
        build_id = bytes(self.memory[at : at + BUILD_ID_BYTES])
        hello = HelloReply(PROTOCOL_VERSION, Kind.BENCH, 0, build_id, self.board.encode(), 0, 0).pack()
        while True:
            for frame in reader.feed(self._take(1)):
                if frame.op == Op.HELLO:
                    self._give(encode(Frame(Op.HELLO | RESPONSE_BIT, frame.seq, hello)))
