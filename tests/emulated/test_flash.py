"""Flashing for real: gdb into an empty QEMU, stm32flash into a simulated bootloader, PlatformIO without a network."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.boards import Board, board_names, load_board
from pipeline.errors import ConfigError, LinkError, ToolError
from pipeline.firmware import Build, build, read_sizes, render_bench
from pipeline.firmware.image import read_image
from pipeline.firmware.platformio import build_local, offline_environment, stage_firmware, write_project
from pipeline.flashers import check_firmware, flash_and_greet, flash_emulator
from pipeline.links import SerialLink, open_link
from pipeline.links.discovery import greet
from pipeline.links.qemu import FlashedQemu, boot_arguments, qemu_arguments
from pipeline.space.opspec import OpSpec
from pipeline.wire import Client, Kind

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from an3155 import SimulatedStm32

pytestmark = pytest.mark.emulated
OP = OpSpec("add", 4, 4, 8, 4, 4, 8, in2_h=4, in2_w=4, in2_c=8)


def emulated() -> list[str]:
    return [name for name in board_names() if "gdb" in load_board(name).flashers]


def require(board: Board) -> None:
    programs = [f"{board.core.toolchain}gcc", "cmake", "ninja", "gdb-multiarch"]
    if board.emulator:
        programs.append(board.emulator.program)
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"needs {program}")


_builds: dict[str, Build] = {}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("flash")
    _builds.clear()


def bench(board: Board, root: Path) -> Build:
    if board.name not in _builds:
        _builds[board.name] = build(render_bench(board, root / board.name), board)
    return _builds[board.name]


@pytest.fixture
def m4() -> Board:
    board = load_board("qemu-cortex-m4")
    require(board)
    return board


# -- gdb into QEMU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", emulated())
def test_gdb_flashes_an_empty_emulator(name: str, root: Path) -> None:
    board = load_board(name)
    require(board)
    firmware = bench(board, root)
    with flash_emulator(board, firmware.elf) as link:
        greet(link, board, build_id=firmware.build_id)
        flashed = Client(link).run_op(OP, seed=3)
        greet(link, board, build_id=firmware.build_id)
        Client(link).reset()  # what was flashed stays over a reset
        greet(link, board, build_id=firmware.build_id)
    with open_link(board, firmware.elf) as link:
        greet(link, board, build_id=firmware.build_id)
        booted = Client(link).run_op(OP, seed=3)
    assert (flashed.ticks, flashed.output_crc) == (booted.ticks, booted.output_crc)
    log = (firmware.elf.parent / "flash-gdb.log").read_text()
    assert "MIS-MATCHED" not in log


def test_nothing_answers_before_flashing(m4: Board) -> None:
    with FlashedQemu(m4) as link:
        assert link.alive()
        with pytest.raises(LinkError):
            greet(link, m4, boot_s=0.5)
        folder = Path(link.stub).parent
    assert not folder.exists()
    assert not link.alive()


def test_a_program_that_does_not_fit_the_machine_is_an_error(m4: Board, root: Path, tmp_path: Path) -> None:
    """Loaded to where the machine has no memory: gdb's exit status is 0, its output says it."""
    memory = m4.memory
    flash = dataclasses.replace(memory.flash, origin=0x60000000)
    elsewhere = dataclasses.replace(m4, memory=dataclasses.replace(memory, flash=flash))
    firmware = build(render_bench(elsewhere, tmp_path / "f"), elsewhere)
    with pytest.raises(ToolError, match="could not flash qemu-cortex-m4"):
        flash_emulator(elsewhere, firmware.elf)
    with pytest.raises(ToolError, match="is not for qemu-cortex-m4"):
        check_firmware(m4, firmware.elf)


def test_an_emulator_that_dies_at_once_is_reported(m4: Board) -> None:
    assert m4.emulator
    emulator = dataclasses.replace(m4.emulator, options=("-nonsense",))
    with pytest.raises(LinkError, match="gdb stub") as caught:
        FlashedQemu(dataclasses.replace(m4, emulator=emulator))
    assert "-nonsense" in caught.value.hint


def test_options_of_the_board_file_reach_qemu(m4: Board, root: Path) -> None:
    assert m4.emulator
    emulator = dataclasses.replace(m4.emulator, options=("-name", "mine", "-cpu", "cortex-m4"))
    board = dataclasses.replace(m4, emulator=emulator)
    assert qemu_arguments(board)[-4:] == ["-name", "mine", "-cpu", "cortex-m4"]
    with open_link(board, bench(m4, root).elf) as link:
        greet(link, m4)
    other = dataclasses.replace(board, core=dataclasses.replace(board.core, isa="rv32"))
    assert boot_arguments(other, Path("a,b.elf")) == ["-device", "loader,file=a,,b.elf,cpu-num=0"]


def test_command_line(m4: Board, root: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli.main", "flash", "--board", m4.name, "--json"]
    done = subprocess.run(
        [*command, "--runs", str(root)], capture_output=True, text=True, timeout=120, check=True
    )
    document = json.loads(done.stdout)
    assert (document["board"], document["flasher"], document["kind"]) == (m4.name, "gdb", "bench")
    assert document["build_id"] == read_sizes(Path(document["elf"]), m4).build_id.hex()
    done = subprocess.run(
        [*command, "--elf", str(root / "none.elf")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "no firmware at" in json.loads(done.stdout)["error"]


# -- a real board's whole way, its chip simulated ----------------------------------------------------------


@pytest.mark.skipif(not shutil.which("stm32flash"), reason="needs stm32flash")
def test_from_the_bootloader_to_the_greeting(root: Path) -> None:
    board = load_board("nucleo-f446re")
    require(board)
    board = dataclasses.replace(board, flashers={"stm32flash": {"mode": "8n1"}})  # a pty has no parity
    firmware = bench(board, root)
    symbol = next(s for s in firmware.sizes.symbols if s.name == "edgenas_build_id")
    with SimulatedStm32() as chip:
        chip.build_id_at = symbol.address
        listed = SimpleNamespace(device=chip.port, vid=0x0483, pid=0x374B, serial_number="0667FF01",
                                 location=None, description="STM32 STLink")  # fmt: skip
        flashed = flash_and_greet(board, firmware.elf, comports=lambda: [listed])
        assert (flashed.where, flashed.flasher) == (chip.port, "stm32flash")
        assert flashed.hello.build_id == firmware.build_id
        image = read_image(firmware.elf)
        assert bytes(chip.memory[: len(image.data)]) == image.data
        assert chip.started_at == image.address


@pytest.mark.skipif(not shutil.which("stm32flash"), reason="needs stm32flash")
def test_another_board_behind_the_bootloader(root: Path) -> None:
    board = load_board("nucleo-f446re")
    require(board)
    board = dataclasses.replace(board, flashers={"stm32flash": {"mode": "8n1"}}, usb_ids=())
    firmware = bench(board, root)
    with pytest.raises(ConfigError, match="USB-serial adapter"):
        flash_and_greet(board, firmware.elf, comports=list)
    with SimulatedStm32() as chip:
        chip.board = "nucleo-f767zi"
        with pytest.raises(LinkError, match="is the wrong board: nucleo-f767zi"):
            flash_and_greet(board, firmware.elf, port=chip.port, comports=list)


def test_serial_link_to_a_tcp_chardev(m4: Board, root: Path) -> None:
    """The emulator's UART behind a TCP serial server, as a lab has it."""
    firmware = bench(m4, root)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*qemu_arguments(m4), *boot_arguments(m4, firmware.elf),
               "-chardev", f"socket,id=wire,host=127.0.0.1,port={port},server=on,wait=on"]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as qemu:
        try:
            link = connect(f"socket://127.0.0.1:{port}")
            with link:
                assert greet(link, m4, build_id=firmware.build_id).kind is Kind.BENCH
            qemu.kill()
        finally:
            qemu.kill()


def connect(url: str) -> SerialLink:
    for attempt in range(50):
        try:
            return SerialLink(url)
        except LinkError:
            if attempt == 49:
                raise
            import time

            time.sleep(0.1)
    raise AssertionError


# -- PlatformIO ------------------------------------------------------------------------------------------

needs_platformio = pytest.mark.skipif(
    not (importlib.util.find_spec("platformio") and importlib.util.find_spec("SCons")),
    reason="needs platformio and scons",
)


@needs_platformio
@pytest.mark.parametrize("name", ["qemu-cortex-m4", "nucleo-f446re"])
def test_platformio_builds_the_same_bytes_without_a_network(name: str, root: Path) -> None:
    board = load_board(name)
    require(board)
    firmware = bench(board, root)
    write_project(root / name, board, title="Operator benchmark")
    elf = build_local(root / name, board)
    assert read_image(elf) == read_image(firmware.elf)
    assert read_sizes(elf, board).build_id == firmware.build_id
    if board.emulator:
        with open_link(board, elf) as link:
            greet(link, board, build_id=firmware.build_id)
    # and CMake does not take PlatformIO's files for its own
    assert build(render_bench(board, root / name), board).build_id == firmware.build_id


@needs_platformio
def test_platformio_uploads_what_was_staged(m4: Board, root: Path) -> None:
    firmware = bench(m4, root)
    folder = root / m4.name
    write_project(folder, m4)
    stage_firmware(folder, firmware.elf)
    shutil.rmtree(folder / ".pio", ignore_errors=True)
    command = [sys.executable, "-m", "platformio", "run", "-d", str(folder), "-e", "local", "-t", "nobuild"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=offline_environment(folder),
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    built = folder / ".pio" / "build" / "local"
    assert (built / "firmware.elf").read_bytes() == firmware.elf.read_bytes()
    assert (built / "firmware.bin").read_bytes() == read_image(firmware.elf).data
    assert (built / "firmware.hex").read_text().endswith(":00000001FF\n")


@needs_platformio
def test_platformio_says_what_does_not_compile(m4: Board, tmp_path: Path) -> None:
    folder = render_bench(m4, tmp_path / "f")
    write_project(folder, m4)
    (folder / "bench" / "bench.c").write_text("int main(void) { return nonsense; }\n")
    with pytest.raises(ToolError, match="nonsense") as caught:
        build_local(folder, m4)
    assert "platformio.log" in caught.value.hint


def test_a_platformio_project_of_a_real_board(root: Path) -> None:
    board = load_board("teensy-4-1")
    options = {
        "platform": "teensy",
        "board": "teensy41",
        "upload_protocol": "teensy-cli",
        "ini": "a = b\nc = d",
    }
    board = dataclasses.replace(board, flashers={"platformio": options})
    folder = render_bench(board, root / "teensy")
    text = write_project(folder, board).read_text()
    for line in ("default_envs = teensy41", "[env:teensy41]", "platform = teensy", "board = teensy41",
                 "upload_protocol = teensy-cli", "a = b", "c = d", "[env:local]"):  # fmt: skip
        assert f"\n{line}\n" in text, text
    assert os.fspath(root) not in text  # the project may be moved
    with pytest.raises(ConfigError, match="no rendered firmware folder"):
        write_project(root / "nowhere", board)
