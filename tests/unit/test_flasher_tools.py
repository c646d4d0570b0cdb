"""The flashing tools themselves, where they run."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from an3155 import SimulatedStm32
from flasher_standins import BOARD, with_flashers, write_elf

from pipeline.boards import board_names, load_board
from pipeline.errors import ConfigError, ToolError
from pipeline.firmware.image import read_image
from pipeline.flashers import FLASHERS, Target
from pipeline.flashers.openocd import OpenOcd


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    return write_elf(tmp_path / "firmware.elf", [(0x08000000, bytes(range(256)) * 5), (0x08000600, b"tail")])


needs_stm32flash = pytest.mark.skipif(not shutil.which("stm32flash"), reason="needs stm32flash")
needs_openocd = pytest.mark.skipif(not shutil.which("openocd"), reason="needs openocd")
# a pseudo-terminal has no parity
OVER_A_PTY = with_flashers({"stm32flash": {"mode": "8n1"}})


@needs_stm32flash
def test_stm32flash_writes_verifies_and_starts(elf: Path) -> None:
    with SimulatedStm32() as chip:
        FLASHERS["stm32flash"].flash(OVER_A_PTY, elf, Target(port=chip.port))
        image = read_image(elf).data
        assert bytes(chip.memory[: len(image)]) == image
        assert chip.erased == [0]
        assert chip.started_at == 0x08000000


@needs_stm32flash
def test_stm32flash_finds_a_byte_that_did_not_stick(elf: Path) -> None:
    with SimulatedStm32() as chip:
        chip.bad_writes = 1000  # it tries a block ten times
        with pytest.raises(ToolError, match="could not flash nucleo-f446re") as caught:
            FLASHERS["stm32flash"].flash(OVER_A_PTY, elf, Target(port=chip.port))
        assert "verify" in caught.value.message.lower()
        assert chip.started_at is None


@needs_stm32flash
def test_stm32flash_without_a_bootloader(elf: Path, tmp_path: Path) -> None:
    with SimulatedStm32() as chip:
        chip.silent = True
        with pytest.raises(ToolError) as caught:
            FLASHERS["stm32flash"].flash(OVER_A_PTY, elf, Target(port=chip.port))
        assert "BOOT0" in caught.value.hint
    with pytest.raises(ToolError) as gone:
        FLASHERS["stm32flash"].flash(OVER_A_PTY, elf, Target(port=str(tmp_path / "tty")))
    assert "cannot be opened" in gone.value.hint


OPENOCD_BOARDS = [name for name in board_names() if "openocd" in load_board(name).flashers]


@needs_openocd
@pytest.mark.parametrize("name", OPENOCD_BOARDS)
def test_openocd_knows_the_boards_configuration(name: str) -> None:
    command = OpenOcd().check_command(load_board(name))
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr


@needs_openocd
def test_openocd_without_a_probe(elf: Path) -> None:
    if Path("/sys/bus/usb/devices").is_dir() and any(
        path.read_text().strip() == "0483" for path in Path("/sys/bus/usb/devices").glob("*/idVendor")
    ):
        pytest.skip("an ST-LINK is connected")
    with pytest.raises(ToolError) as caught:
        FLASHERS["openocd"].flash(BOARD, elf)
    assert "no probe was found" in caught.value.hint, caught.value


def test_esptool_takes_the_arguments_and_makes_an_image(tmp_path: Path) -> None:
    pytest.importorskip("esptool")
    board = with_flashers({"esptool": {"chip": "esp32c3", "image": "app"}})
    elf = section_elf(tmp_path / "c3.elf", 0x42000020, b"\x13\0\0\0" * 64)
    flasher = FLASHERS["esptool"]
    flasher.prepare(board, elf)
    image = elf.with_suffix(".esp.bin").read_bytes()
    assert image[0] == 0xE9  # magic of an application image
    assert int.from_bytes(image[12:14], "little") == 5  # chip id of the ESP32-C3
    with pytest.raises(ToolError, match="esptool could not flash") as caught:
        flasher.flash(board, elf, Target(port=str(tmp_path / "tty")))
    assert "Usage" not in caught.value.message  # it accepted its arguments, and missed the port
    with pytest.raises(ConfigError, match="image is 'hex'"):
        flasher.prepare(with_flashers({"esptool": {"chip": "esp32c3", "image": "hex"}}), elf)


def section_elf(path: Path, address: int, code: bytes) -> Path:
    """A RISC-V ELF with one section, which esptool goes by."""
    write_elf(path, [(address, code)], machine=243)
    data = bytearray(path.read_bytes())
    names = b"\0.text\0.shstrtab\0"
    names_at, table_at = len(data), len(data) + len(names)
    sections = struct.pack("<10I", *[0] * 10)
    sections += struct.pack("<10I", 1, 1, 6, address, 84, len(code), 0, 0, 4, 0)
    sections += struct.pack("<10I", 7, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    data[32:36] = struct.pack("<I", table_at)  # e_shoff
    data[48:52] = struct.pack("<HH", 3, 2)  # e_shnum, e_shstrndx
    path.write_bytes(bytes(data) + names + sections)
    return path


def test_pyocd_knows_the_shipped_targets() -> None:
    pytest.importorskip("pyocd")
    done = subprocess.run(
        [sys.executable, "-m", "pyocd", "list", "--targets"], capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    known = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    for name in board_names():
        target = load_board(name).flashers.get("pyocd", {}).get("target")
        # the others come with a CMSIS pack, which the board file's comment names
        assert target is None or target in known or target.startswith("stm32")
