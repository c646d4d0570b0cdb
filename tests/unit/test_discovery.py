"""Finding a board's port, opening it, and refusing whoever is not that board."""

from __future__ import annotations

import dataclasses
import os
import pty
import shutil
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import serial
from an3155 import SimulatedStm32
from serial import rfc2217

from pipeline.boards import load_board
from pipeline.doctor import examine, examine_boards
from pipeline.errors import ConfigError, LinkError
from pipeline.links import SerialLink
from pipeline.links.discovery import find_port, greet, serial_ports

BOARD = load_board("nucleo-f446re")
NO_USB = dataclasses.replace(BOARD, usb_ids=())


def port(device: str, usb_id: str = "", number: str | None = None, location: str | None = None) -> Any:
    """As pyserial's list_ports describes one."""
    vid, pid = (int(part, 16) for part in usb_id.split(":")) if usb_id else (None, None)
    return SimpleNamespace(device=device, vid=vid, pid=pid, serial_number=number, location=location,
                           description="n/a")  # fmt: skip


def listing(*ports: Any) -> Callable[[], list[Any]]:
    return lambda: list(ports)


PLAIN = port("/dev/ttyS0")
ADAPTER = port("/dev/ttyUSB0", "1a86:7523", None, "1-2")
FIRST = port("/dev/ttyACM1", "0483:374b", "0667FF01", "1-3")
SECOND = port("/dev/ttyACM0", "0483:374b", "0667FF02", "1-4")


# -- finding ---------------------------------------------------------------------------------------------


def test_a_board_is_found_by_its_usb_id() -> None:
    found = find_port(BOARD, comports=listing(PLAIN, ADAPTER, FIRST))
    assert (found.device, found.serial) == ("/dev/ttyACM1", "0667FF01")
    assert [one.device for one in serial_ports(listing(PLAIN, FIRST, SECOND))] == [
        "/dev/ttyACM0", "/dev/ttyACM1", "/dev/ttyS0",
    ]  # fmt: skip


def test_identical_boards_are_told_apart_by_serial_number() -> None:
    both = listing(FIRST, ADAPTER, SECOND)
    with pytest.raises(LinkError, match="2 ports could be nucleo-f446re") as caught:
        find_port(BOARD, comports=both)
    assert "--port /dev/ttyACM0 or --serial 0667FF02" in caught.value.hint
    assert "--port /dev/ttyACM1 or --serial 0667FF01" in caught.value.hint
    assert "ttyUSB0" not in caught.value.hint
    assert find_port(BOARD, serial="0667ff02", comports=both).device == "/dev/ttyACM0"
    with pytest.raises(LinkError, match="with serial number 0667FF09") as unknown:
        find_port(BOARD, serial="0667FF09", comports=both)
    assert "0667FF01" in unknown.value.hint
    assert "0667FF02" in unknown.value.hint


def test_clones_with_one_serial_number_are_told_apart_by_port() -> None:
    clones = listing(port("/dev/ttyACM0", "0483:374b", "1"), port("/dev/ttyACM1", "0483:374b", "1"))
    with pytest.raises(LinkError) as caught:
        find_port(BOARD, serial="1", comports=clones)
    assert caught.value.hint == "name one: --port /dev/ttyACM0; --port /dev/ttyACM1"


def test_no_board_names_what_is_there() -> None:
    with pytest.raises(LinkError, match="no port has USB id 0483:374b") as caught:
        find_port(BOARD, comports=listing(PLAIN, ADAPTER))
    assert "/dev/ttyUSB0 (1a86:7523, USB 1-2)" in caught.value.hint
    assert "/dev/ttyS0 (no USB device)" in caught.value.hint
    with pytest.raises(LinkError) as none:
        find_port(BOARD, comports=listing())
    assert "no serial ports at all" in none.value.hint


def test_a_board_behind_an_adapter_needs_its_port() -> None:
    with pytest.raises(ConfigError, match="no USB ids") as caught:
        find_port(NO_USB, comports=listing(ADAPTER))
    assert "/dev/ttyUSB0" in caught.value.hint
    assert find_port(NO_USB, port="/dev/ttyUSB0", comports=listing(ADAPTER)).usb_id == "1a86:7523"
    adapter = port("/dev/ttyUSB1", "0403:6001", "A50285BI")
    assert find_port(NO_USB, serial="A50285BI", comports=listing(ADAPTER, adapter)).device == "/dev/ttyUSB1"


def test_a_port_that_the_user_names(tmp_path: Path) -> None:
    assert find_port(BOARD, port="COM7", comports=listing()).device == "COM7"
    assert find_port(BOARD, port="socket://lab:4000", comports=listing()).device == "socket://lab:4000"
    with pytest.raises(LinkError, match="there is no port /dev/ttyACM9") as caught:
        find_port(BOARD, port="/dev/ttyACM9", comports=listing(FIRST))
    assert "/dev/ttyACM1" in caught.value.hint
    with pytest.raises(LinkError, match="has the serial number 0667FF01, not 0667FF02"):
        find_port(BOARD, port="/dev/ttyACM1", serial="0667FF02", comports=listing(FIRST, SECOND))
    device = tmp_path / "ttyACM1"
    device.touch()
    (tmp_path / "by-id").symlink_to(device)
    listed = listing(port(str(device), "0483:374b", "0667FF01"))
    assert find_port(BOARD, port=str(tmp_path / "by-id"), comports=listed).serial == "0667FF01"


# -- opening ---------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """A pseudo-terminal: our end, and the name of the other."""
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


def test_bytes_cross_a_terminal(terminal: tuple[int, str]) -> None:
    master, name = terminal
    with SerialLink(name) as link:
        link.write(b"ping\0\x11\x13\xff")  # software flow control must be off
        assert os.read(master, 100) == b"ping\0\x11\x13\xff"
        os.write(master, bytes(range(256)))
        got = b""
        while len(got) < 256 and (piece := link.read(2.0)):
            got += piece
        assert got == bytes(range(256))
        assert link.read(0.01) == b""


def test_a_busy_port_names_its_holder(terminal: tuple[int, str]) -> None:
    _, name = terminal
    with SerialLink(name), pytest.raises(LinkError, match="is busy: another program"):
        SerialLink(name)
    code = f"import serial, sys, time; p = serial.Serial({name!r}, exclusive=True); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout
            other.stdout.readline()
            with pytest.raises(LinkError, match=f"{name} is busy: process {other.pid} ") as caught:
                SerialLink(name)
            assert "close it" in caught.value.hint
        finally:
            other.kill()
    SerialLink(name).close()  # free again


def test_ports_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LinkError, match="there is no such port"):
        SerialLink("/dev/ttyACM99")
    with pytest.raises(LinkError, match="is no serial port"):
        SerialLink("teletype://x")
    with pytest.raises(LinkError, match="cannot open") as plain:
        SerialLink(str(tmp_path))
    assert plain.value.hint
    with pytest.raises(LinkError, match="cannot open socket") as caught:
        SerialLink(f"socket://127.0.0.1:{free_port()}")
    assert "server running" in caught.value.hint

    def denied(*_: Any, **__: Any) -> None:
        raise serial.SerialException(13, "could not open port /dev/ttyACM0: Permission denied")

    monkeypatch.setattr(serial, "serial_for_url", denied)
    with pytest.raises(LinkError, match="permission denied") as group:
        SerialLink("/dev/ttyACM0")
    assert "dialout" in group.value.hint


def test_an_unplugged_port_is_reported() -> None:
    master, slave = pty.openpty()
    link = SerialLink(os.ttyname(slave))
    os.close(slave)
    os.close(master)
    with pytest.raises(LinkError, match="has gone away"):
        link.read(1.0)
    with pytest.raises(LinkError, match="has gone away"):
        for _ in range(100):
            link.write(b"x" * 1000)
    link.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(handle: Callable[[socket.socket], None]) -> int:
    """Accepts one connection on a port of its own and hands it to `handle` in a thread."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with server, server.accept()[0] as peer:
            handle(peer)

    threading.Thread(target=run, daemon=True).start()
    return int(server.getsockname()[1])


def test_a_serial_server_on_tcp() -> None:
    def echo(peer: socket.socket) -> None:
        while data := peer.recv(4096):
            peer.sendall(data)
            if b"bye" in data:
                return

    with SerialLink(f"socket://127.0.0.1:{serve(echo)}") as link:
        sent = os.urandom(100_000).replace(b"b", b"c")
        started = time.monotonic()
        threading.Thread(target=link.write, args=(sent,), daemon=True).start()
        got = b""
        while len(got) < len(sent) and (piece := link.read(5.0)):
            got += piece
        assert got == sent
        assert time.monotonic() - started < 5.0
        link.write(b"bye")
        with pytest.raises(LinkError, match="has gone away"):
            while link.read(5.0):
                pass


def test_a_serial_server_with_rfc2217() -> None:
    """pyserial's own server end in front of a looped-back port."""
    bauds = []

    def bridge(peer: socket.socket) -> None:
        device = serial.serial_for_url("loop://", timeout=0.05)
        peer.settimeout(0.02)
        manager = rfc2217.PortManager(device, SimpleNamespace(write=peer.sendall))
        while True:
            try:
                data = peer.recv(4096)
                if not data:
                    return
                device.write(b"".join(manager.filter(data)))
            except TimeoutError:
                pass
            except OSError:
                return
            bauds.append(device.baudrate)
            if device.in_waiting:
                peer.sendall(b"".join(manager.escape(device.read(device.in_waiting))))

    with SerialLink(f"rfc2217://127.0.0.1:{serve(bridge)}", baud=57600) as link:
        sent = bytes(range(256)) * 8  # 0xff is telnet's escape
        link.write(sent)
        got = b""
        while len(got) < len(sent) and (piece := link.read(5.0)):
            got += piece
        assert got == sent
        started = time.monotonic()
        assert link.read(0.2) == b""
        assert time.monotonic() - started < 1.0
        assert bauds[-1] == 57600


# -- greeting --------------------------------------------------------------------------------------------


def program(chip: SimulatedStm32, board: str) -> None:
    """The board as it is after flashing."""
    chip.board, chip.build_id_at = board, chip.origin
    chip.memory[:8] = b"build-01"
    chip.start_program()


def test_greeting_accepts_only_this_board_and_this_build() -> None:
    with SimulatedStm32() as chip:
        program(chip, BOARD.name)
        with SerialLink(chip.port) as link:
            assert greet(link, BOARD, build_id=b"build-01").build_id == b"build-01"
            with pytest.raises(LinkError, match="runs another program: build 6275696c642d3031") as other:
                greet(link, BOARD, build_id=b"build-02")
            assert chip.port in other.value.message
            assert "edgenas flash" in other.value.hint


def test_the_wrong_board_is_named_with_its_port() -> None:
    with SimulatedStm32() as chip:
        program(chip, "nucleo-f767zi")
        with SerialLink(chip.port) as link, pytest.raises(LinkError) as caught:
            greet(link, BOARD)
        assert (
            f"{chip.port} is the wrong board: nucleo-f767zi answers, not nucleo-f446re"
            in caught.value.message
        )


def test_a_board_with_a_long_name_is_known_by_what_fits() -> None:
    board = dataclasses.replace(BOARD, name="a-board-whose-name-is-longer-than-the-field")
    with SimulatedStm32() as chip:
        program(chip, board.name[:23])
        with SerialLink(chip.port) as link:
            assert greet(link, board).board == board.name[:23]


def test_nobody_answers(terminal: tuple[int, str]) -> None:
    _, name = terminal
    with SerialLink(name) as link, pytest.raises(LinkError, match=name) as caught:
        greet(link, BOARD, boot_s=0.5)
    assert caught.value.hint


# -- doctor ----------------------------------------------------------------------------------------------


def test_doctor_says_what_each_board_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (bare,) = examine_boards(["nucleo-f446re"], listing())
    assert not (bare.can_build or bare.can_flash or bare.can_run)
    assert "gcc-arm-none-eabi" in bare.gaps[0]
    assert "apt install openocd" in bare.gaps[1]
    assert bare.gaps[2] == "connect the board"
    for name in ("arm-none-eabi-gcc", "dfu-util", "qemu-system-arm", "gdb-multiarch"):
        fake = tmp_path / name
        fake.write_text("#!/bin/sh\necho fake 1.0\n")
        fake.chmod(0o755)
    (ready,) = examine_boards(["nucleo-f446re"], listing(FIRST))
    assert ready.can_run
    assert ready.gaps == []
    assert [part.name for part in ready.parts if part.part == "flasher" and part.ok] == ["dfu-util"]
    (emulated,) = examine_boards(["qemu-cortex-m4"], listing())
    assert emulated.can_run
    assert emulated.can_flash


def test_doctor_survives_a_bad_board_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n')
    (check,) = examine_boards([str(path)], listing())
    assert check.problem
    assert not check.can_build
    assert any(str(path) in one.name and not one.ok for one in examine([check]))
    text = (BOARD.path or path).read_text().replace("[flashers.openocd]", "[flashers.jtag]")
    path.write_text(text)
    (unknown,) = examine_boards([str(path)], listing())
    assert "'flashers.jtag' is an unknown flasher" in unknown.problem and "openocd" in unknown.problem


def test_doctor_of_a_board_with_an_operating_system_asks_for_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for name in ("aarch64-linux-gnu-gcc", "ssh"):
        (without,) = examine_boards(["raspberry-pi-3"], listing())
        assert not without.can_run
        (tmp_path / name).write_text("#!/bin/sh\necho fake 1.0\n")
        (tmp_path / name).chmod(0o755)
    assert "openssh-client" in without.gaps[-1] and "--port local" in without.gaps[-1]
    (ready,) = examine_boards(["raspberry-pi-3"], listing())
    assert ready.can_run
    (link,) = [part for part in ready.parts if part.part == "link"]
    assert "--port ssh://user@host" in link.found  # which machine it is, nobody can know


@pytest.mark.skipif(not shutil.which("qemu-system-arm"), reason="needs qemu-system-arm")
def test_doctor_asks_qemu_for_the_machine(tmp_path: Path) -> None:
    board = load_board("qemu-cortex-m4")
    path = tmp_path / "mine.toml"
    assert board.path
    path.write_text(board.path.read_text().replace('machine = "mps2-an386"', 'machine = "mps9"'))
    (check,) = examine_boards([str(path)], listing())
    assert not check.can_run
    assert any("mps9" in part.found for part in check.parts)
