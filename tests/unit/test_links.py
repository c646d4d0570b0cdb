"""Links to processes and serial ports, and the client's behaviour over bad ones."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.boards import load_board
from pipeline.errors import EdgeNasError, LinkError, ToolError
from pipeline.latency import emulated
from pipeline.latency.emulated import refuse_wrapped
from pipeline.links import INSTRUCTION_NS, ProcessLink, SerialLink, open_link
from pipeline.tflm.device import TflmDevice
from pipeline.wire import Client, Reason, RefusedError, exchange
from pipeline.wire import client as client_module
from pipeline.wire.client import WrongFirmwareError
from pipeline.wire.framing import Frame, FrameReader, encode
from pipeline.wire.messages import (
    PROTOCOL_VERSION,
    RESPONSE_BIT,
    DescribeReply,
    HelloReply,
    InvokeReply,
    Kind,
    NakReply,
    Op,
    PrepareReply,
)

ECHO = "import os, sys; fd = int(sys.argv[1])\nwhile data := os.read(fd, 65536): os.write(fd, data)"


def python_link(code: str) -> ProcessLink:
    return ProcessLink(lambda fd: [sys.executable, "-c", code, str(fd)], name="child")


def test_bytes_come_back() -> None:
    with python_link(ECHO) as link:
        sent = bytes(range(256)) * 100
        link.write(sent)
        got = b""
        while len(got) < len(sent) and (piece := link.read(5.0)):
            got += piece
        assert got == sent
        assert link.alive()
        assert link.read(0.01) == b""
    assert not link.alive()


def test_child_that_dies_is_reported_with_its_last_words() -> None:
    code = "import sys; sys.stderr.write('cannot map flash\\n'); sys.exit(3)"
    with python_link(code) as link, pytest.raises(LinkError) as caught:
        link.read(10.0)
    assert "exit code 3" in caught.value.hint
    assert "cannot map flash" in caught.value.hint


def test_killed_child_is_reported() -> None:
    with python_link(ECHO) as link:
        link.write(b"x")
        assert link.read(5.0) == b"x"
        os.kill(link.pid, signal.SIGKILL)
        with pytest.raises(LinkError) as caught:
            link.read(5.0)
        assert "SIGKILL" in caught.value.hint


def test_missing_program() -> None:
    with pytest.raises(ToolError, match="cannot start"):
        ProcessLink(lambda fd: ["/nonexistent/emulator"], name="none", hint="install it")


def test_missing_emulator_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError) as caught:
        open_link(load_board("qemu-cortex-m4"), tmp_path / "firmware.elf")
    assert "apt install qemu-system-arm" in caught.value.hint


def test_a_real_board_without_a_port_is_looked_for(tmp_path: Path) -> None:
    board = dataclasses.replace(load_board("qemu-cortex-m4"), emulator=None)
    with pytest.raises(EdgeNasError) as caught:
        open_link(board, tmp_path / "firmware.elf")
    assert "--port" in caught.value.hint


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="relies on Linux' parent-death signal")
def test_child_dies_with_a_killed_parent() -> None:
    code = textwrap.dedent("""
        import sys, time
        from pipeline.links import ProcessLink
        link = ProcessLink(lambda fd: ["sleep", "60"], name="child")
        print(link.pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait(5)
    for _ in range(100):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child outlived its parent")


def test_serial_port_that_is_not_there() -> None:
    with pytest.raises(LinkError, match="cannot open"):
        SerialLink("/dev/nonexistent-port")


def test_serial_link_over_pyserials_loopback() -> None:
    with SerialLink("loop://") as link:
        link.write(b"hello")
        assert link.read(1.0) == b"hello"
        assert link.read(0.01) == b""


class Device:
    """A device at the far end of a line that damages, drops and repeats bytes."""

    def __init__(self, error_rate: float, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.error_rate = error_rate
        self.reader = FrameReader()
        self.out = b""
        self.executed: list[int] = []
        self.kept: tuple[Frame, bytes] | None = None
        self.silent = False

    def noise(self, data: bytes) -> bytes:
        out = bytearray()
        for byte in data:
            draw = self.random.random()
            if draw < self.error_rate / 3:
                continue
            damaged = draw < 2 * self.error_rate / 3
            out.append(byte ^ (1 << self.random.randrange(8)) if damaged else byte)
            if 2 * self.error_rate / 3 <= draw < self.error_rate:
                out.append(byte)
        return bytes(out)

    def write(self, data: bytes) -> None:
        if self.silent:
            return
        damaged = self.reader.damaged
        for frame in self.reader.feed(self.noise(data)):
            if self.kept is None or self.kept[0] != frame:
                self.executed.append(frame.op)
                self.kept = (frame, self.answer(frame))
            self.out += self.noise(self.kept[1])
        if self.reader.damaged > damaged:
            nak = NakReply(0, Reason.BAD_CRC, 0).pack()
            self.out += self.noise(encode(Frame(Op.NAK | RESPONSE_BIT, 0, nak)))

    def answer(self, frame: Frame) -> bytes:
        if frame.op == Op.HELLO:
            reply = HelloReply(PROTOCOL_VERSION, Kind.APP, 0, b"12345678", b"paper-board", 0, 0).pack()
        elif frame.op == Op.LOAD_INPUT:
            reply = b""
        else:
            nak = NakReply(frame.op, Reason.UNKNOWN_OP, 7).pack()
            return encode(Frame(Op.NAK | RESPONSE_BIT, frame.seq, nak))
        return encode(Frame(frame.op | RESPONSE_BIT, frame.seq, reply))

    def read(self, timeout_s: float) -> bytes:
        if not self.out:
            time.sleep(min(timeout_s, 0.01))
        out, self.out = self.out, b""
        return out

    def alive(self) -> bool:
        return True

    def exit_code(self) -> int | None:
        return None

    def stderr_tail(self) -> str:
        return "last words"

    def describe(self) -> str:
        return "paper device"


def test_hello_tells_who_answers() -> None:
    hello = Client(Device(0.0)).hello()
    assert (hello.kind, hello.board, hello.build_id) == (Kind.APP, "paper-board", b"12345678")


def test_another_kind_of_firmware_says_what_helps() -> None:
    """What runs the benchmark is flashed; an interpreter that no flash can replace has an option."""

    class Interpreter(Device):
        def answer(self, frame: Frame) -> bytes:
            reply = HelloReply(PROTOCOL_VERSION, Kind.TFLM, 0, b"12345678", b"paper-board", 0, 0).pack()
            return encode(Frame(frame.op | RESPONSE_BIT, frame.seq, reply))

    for device, hint in ((Device(0.0), "edgenas flash"), (Interpreter(0.0), "--engine tflm")):
        with pytest.raises(WrongFirmwareError, match="not BENCH") as caught:
            Client(device).hello(kind=Kind.BENCH)
        assert hint in caught.value.hint


def test_requests_survive_a_bad_line_and_run_once() -> None:
    device = Device(1e-3)
    client = Client(device, patience_s=20.0)
    client.load_input(bytes(range(256)) * 40)  # 20 chunks of 512 bytes
    assert set(device.executed) == {Op.LOAD_INPUT}
    assert len(device.executed) >= 20
    assert client.retransmissions > 0


def test_refusal_is_not_sent_again() -> None:
    device = Device(0.0)
    with pytest.raises(RefusedError, match="UNKNOWN_OP") as caught:
        Client(device).memory()
    assert caught.value.detail == 7
    assert device.executed == [Op.MEMORY]


def test_silence_becomes_an_error_within_the_patience() -> None:
    device = Device(0.0)
    device.silent = True
    started = time.monotonic()
    with pytest.raises(LinkError, match="hangs") as caught:
        Client(device, patience_s=0.5).memory()
    assert time.monotonic() - started < 3.0
    assert "last words" in caught.value.hint


@pytest.mark.parametrize(("took_s", "wrapped"), [(8.9, False), (9.1, True), (20.0, True)])
def test_an_inference_beyond_the_counter_is_not_reported_as_a_short_one(
    took_s: float, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Cortex-M7 at 480 MHz: 32 bits of cycles last 8.95 seconds."""
    now = [0.0]
    monkeypatch.setattr(client_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Computing(Device):
        real_time = True

        def answer(self, frame: Frame) -> bytes:
            if frame.op == Op.INVOKE:
                now[0] += took_s
                reply = InvokeReply(int(took_s * 480e6) % 2**32, zlib.crc32(b"ab"), 2).pack() + b"ab"
            elif frame.op == Op.DESCRIBE:
                reply = DescribeReply(480_000_000, 480_000_000, 65536, 0, 0, 4, 2, 100, 1, 0).pack()
            else:
                return super().answer(frame)
            return encode(Frame(frame.op | RESPONSE_BIT, frame.seq, reply))

    device = Computing(0.0)
    if wrapped:
        with pytest.raises(LinkError, match=r"its counter begins anew after 8\.9 s"):
            Client(device).invoke(b"1234")
    else:
        assert Client(device).invoke(b"1234").ticks == int(took_s * 480e6)
    device.real_time = False  # an emulator's seconds are not the device's
    assert Client(device).invoke(b"1234").output == b"ab"


class Layered(Device):
    """Its two layers take `each` ticks, and its counter of the whole inference has 32 bits."""

    def __init__(self, each: tuple[int, int]) -> None:
        super().__init__(0.0)
        self.each = each

    def answer(self, frame: Frame) -> bytes:
        if frame.op == Op.INVOKE:
            reply = InvokeReply((sum(self.each) + 7) % 2**32, zlib.crc32(b"ab"), 2).pack() + b"ab"
        elif frame.op == Op.DESCRIBE:
            reply = DescribeReply(480_000_000, 480_000_000, 65536, 0, 0, 4, 2, 100, 2, 0).pack()
        elif frame.op == Op.LAYER:
            reply = struct.pack("<2I", *self.each)
        else:
            return super().answer(frame)
        return encode(Frame(frame.op | RESPONSE_BIT, frame.seq, reply))

    def __enter__(self) -> Layered:
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize(
    ("each", "wrapped"),
    [((2**31, 2**31 - 8), False), ((2**31, 2**31), True), ((2**32 - 1, 5), True), ((3, 2**32 - 1), True)],
)
def test_layers_tell_on_any_link_that_an_inference_outlasted_the_counter(
    each: tuple[int, int], wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose host's clock says nothing of the device's time: a network port, a simulator."""
    monkeypatch.setattr(emulated, "open_link", lambda board, elf, *, port: Layered(each))
    board = load_board("host")  # counts its layers itself
    device = TflmDevice(cast(Any, LayeredInterpreter(each)))
    device.load(b"model")
    if wrapped:
        with pytest.raises(LinkError, match="its counter begins anew after 4,294,967,296"):
            emulated.emulated_inference(board, Path("app"), b"1234")
        device.invoke(b"1234")
        with pytest.raises(LinkError, match="its counter begins anew"):
            device.layer_ticks()
    else:
        seen = emulated.emulated_inference(board, Path("app"), b"1234")
        assert [layer.cycles for layer in seen.layers] == [
            t * board.clock_hz / board.counter.hz for t in each
        ]
        assert seen.ticks == sum(each) + 7
        device.invoke(b"1234")
        assert device.layer_ticks() == list(each)


class LayeredInterpreter(Layered):
    def answer(self, frame: Frame) -> bytes:
        if frame.op == Op.HELLO:
            reply = HelloReply(PROTOCOL_VERSION, Kind.TFLM, 0, b"12345678", b"paper-board", 0, 0).pack()
        elif frame.op == Op.LOAD_MODEL:
            reply = b""
        elif frame.op == Op.PREPARE:
            reply = PrepareReply(100, 4, 2, 2).pack()
        else:
            return super().answer(frame)
        return encode(Frame(frame.op | RESPONSE_BIT, frame.seq, reply))


def test_an_emulated_inference_beyond_the_counter_is_refused() -> None:
    """An instruction takes 64 ns of QEMU's time, a tick 40 ns: 32 bits of ticks are 2.7 thousand million of them."""
    board = load_board("qemu-cortex-m4")
    a_tick = 1e9 / (board.counter.hz * INSTRUCTION_NS)
    for ticks in (1, 1000, 2**32 - 1):
        refuse_wrapped(board, ticks, int(ticks * a_tick))
        with pytest.raises(LinkError, match="begins anew"):
            refuse_wrapped(board, ticks, int((ticks + 2**32) * a_tick))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that an exchange sees, in seconds: only what a device adds to it passes."""
    now = [0.0]
    monkeypatch.setattr(exchange, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_device_that_prints_without_a_pause_is_quoted_within_the_patience(clock: list[float]) -> None:
    """Another firmware's log, on a link that always has more of it."""

    class Printing(Device):
        def read(self, timeout_s: float) -> bytes:
            clock[0] += 1e-4
            assert clock[0] < 10.0, "read for ever"
            return b"tick\r\n"

    with pytest.raises(LinkError, match=r"no frames \(b'.*tick"):
        Client(Printing(0.0), patience_s=0.5).memory()
    assert clock[0] < 1.0


def test_a_reply_that_is_coming_in_when_the_wait_ends_is_waited_for(clock: list[float]) -> None:
    class Slow(Device):
        """Nothing for as long as a first attempt waits, then byte after byte."""

        def read(self, timeout_s: float) -> bytes:
            clock[0] += timeout_s + 1e-4
            out, self.out = self.out[:1], self.out[1:]
            return out

    device = Slow(0.0)
    client = Client(device)
    client.hello()
    assert (device.executed, client.retransmissions) == ([Op.HELLO], 0)
