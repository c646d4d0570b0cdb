"""Flashing tools: their arguments, which is chosen, and what becomes of their failures."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from flasher_standins import BOARD, tool, with_flashers, write_elf

from pipeline.boards import board_names, load_board
from pipeline.errors import ConfigError, ToolError
from pipeline.firmware.image import read_image, write_bin, write_hex
from pipeline.flashers import FLASHERS, Target, check_firmware, choose, flash_and_greet, flashers_of, job
from pipeline.flashers.openocd import OpenOcd

PORT = Target(port="/dev/ttyACM7", serial="0667FF")


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    return write_elf(tmp_path / "firmware.elf", [(0x08000000, bytes(range(256)) * 5), (0x08000600, b"tail")])


# -- images ----------------------------------------------------------------------------------------------


def test_image_fills_gaps_with_the_erased_value(elf: Path, tmp_path: Path) -> None:
    image = write_bin(elf, tmp_path / "out.bin")
    assert image.address == 0x08000000
    assert image.data == bytes(range(256)) * 5 + b"\xff" * 0x100 + b"tail"
    assert (tmp_path / "out.bin").read_bytes() == image.data


def test_hex_is_what_objcopy_reads_back(tmp_path: Path) -> None:
    objcopy = shutil.which("objcopy")
    if objcopy is None:
        pytest.skip("objcopy is not installed")
    data = os.urandom(1000)
    elf = write_elf(tmp_path / "a.elf", [(0x0800FF00, data)])  # crosses 64 KiB
    write_hex(elf, tmp_path / "a.hex")
    command = [objcopy, "-I", "ihex", "-O", "binary", str(tmp_path / "a.hex"), str(tmp_path / "a.bin")]
    subprocess.run(command, check=True, timeout=30)
    assert (tmp_path / "a.bin").read_bytes() == data


@pytest.mark.parametrize("content", [b"", b"\x7fELF nonsense", b"not an ELF"])
def test_image_of_a_file_that_is_no_elf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.elf"
    path.write_bytes(content)
    with pytest.raises(ToolError, match=r"bad\.elf"):
        read_image(path)


def test_image_that_loads_nothing_or_spreads_too_far(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="loads nothing"):
        read_image(write_elf(tmp_path / "empty.elf", []))
    with pytest.raises(ToolError, match="spreads over"):
        read_image(write_elf(tmp_path / "far.elf", [(0, b"x"), (0x20000000, b"y")]))


# -- arguments -------------------------------------------------------------------------------------------


def test_commands() -> None:
    elf = Path("/w/firmware.elf")
    board = with_flashers({
        "pyocd": {"target": "stm32f446retx"},
        "openocd": {"config": "interface/cmsis-dap.cfg target/nrf52.cfg", "commands": "adapter speed 1000"},
        "esptool": {"chip": "esp32c3"},
        "stm32flash": {"mode": "8n1", "init": "rts,-rts"},
        "dfu-util": {"ids": "0483:df11"},
        "gdb": {},
    })  # fmt: skip
    lines = {kind: " ".join(FLASHERS[kind].command(board, elf, PORT)) for kind in board.flashers}
    assert lines == {
        "pyocd": "pyocd load --no-wait --target stm32f446retx --format elf --uid 0667FF /w/firmware.elf",
        "openocd": "openocd -f interface/cmsis-dap.cfg -f target/nrf52.cfg -c adapter serial 0667FF "
                   "-c adapter speed 1000 -c program {/w/firmware.elf} verify reset exit",
        "esptool": "esptool --chip esp32c3 --port /dev/ttyACM7 --baud 460800 --before default-reset "
                   "--after hard-reset write-flash 0x0 /w/firmware.esp.bin",
        "stm32flash": "stm32flash -b 115200 -m 8n1 -i rts,-rts -w /w/firmware.bin -v -S 0x08000000 "
                      "-g 0x08000000 /dev/ttyACM7",
        "dfu-util": "dfu-util -d 0483:df11 -a 0 -S 0667FF -s 0x08000000:leave -D /w/firmware.bin",
        "gdb": "gdb-multiarch -nx -batch -ex set confirm off -ex set tcp connect-timeout 10 "
               "-ex target remote /dev/ttyACM7 -ex load -ex compare-sections -ex monitor system_reset "
               "-ex detach /w/firmware.elf",
    }  # fmt: skip


def test_openocd_may_need_a_command_once_connected() -> None:
    board = with_flashers({"openocd": {"config": "a.cfg", "connected": "jlink jtag 3"}})
    command = OpenOcd().command(board, Path("f.elf"))
    assert command[3:7] == ["-c", "init", "-c", "jlink jtag 3"]
    assert "init" not in OpenOcd().check_command(board)


def test_platformio_uploads_the_elf_as_it_is(tmp_path: Path) -> None:
    board = with_flashers({"platformio": {"platform": "ststm32", "board": "nucleo_f446re"}})
    (tmp_path / "port").mkdir()
    (tmp_path / "linker.ld").touch()
    command = FLASHERS["platformio"].command(board, tmp_path / "build" / "firmware.elf", PORT)
    assert command == ["pio", "run", "-d", str(tmp_path), "-e", "nucleo_f446re", "--upload-port",
                       "/dev/ttyACM7", "-t", "nobuild", "-t", "upload"]  # fmt: skip
    with pytest.raises(ToolError, match="no firmware folder"):
        FLASHERS["platformio"].command(board, Path("/firmware.elf"), PORT)


def test_a_core_without_a_vector_table_is_not_reset_after_loading() -> None:
    core = dataclasses.replace(BOARD.core, isa="rv32")
    board = with_flashers({"gdb": {"program": "my-gdb"}}, dataclasses.replace(BOARD, core=core))
    command = FLASHERS["gdb"].command(board, Path("f.elf"), Target(port="/s"))
    assert command[0] == "my-gdb"
    assert not any("reset" in word for word in command)


@pytest.mark.parametrize("name", board_names())
def test_every_shipped_board_has_usable_settings(name: str) -> None:
    board = load_board(name)
    for flasher in flashers_of(board):
        flasher.settings(board)


def test_settings_that_are_wrong() -> None:
    flasher = FLASHERS["dfu-util"]
    with pytest.raises(ConfigError, match="unknown key 'id'") as caught:
        flasher.settings(with_flashers({"dfu-util": {"id": "0483:df11"}}))
    assert "ids" in caught.value.hint
    with pytest.raises(ConfigError, match="'ids' is missing"):
        flasher.settings(with_flashers({"dfu-util": {}}))
    with pytest.raises(ConfigError, match=r"no \[flashers.dfu-util\]"):
        flasher.settings(with_flashers({}))
    with pytest.raises(ConfigError, match="unknown flasher 'jlink'"):
        flashers_of(with_flashers({"jlink": {}}))
    with pytest.raises(ToolError, match="cannot take the path"):
        FLASHERS["openocd"].command(with_flashers({"openocd": {"config": "a.cfg"}}), Path("/a{b}/f.elf"))


# -- choosing --------------------------------------------------------------------------------------------


def test_first_installed_tool_is_chosen(tmp_path: Path) -> None:
    here = tool(tmp_path, "there", "exit 0")
    board = with_flashers({
        "openocd": {"program": "/nonexistent/openocd", "config": "x.cfg"},
        "pyocd": {"program": here, "target": "x"},
        "dfu-util": {"program": here, "ids": "1:2"},
    })  # fmt: skip
    assert choose(board).kind == "pyocd"
    assert choose(board, "dfu-util").kind == "dfu-util"
    with pytest.raises(ConfigError, match="cannot be flashed with gdb") as caught:
        choose(board, "gdb")
    assert "openocd, pyocd, dfu-util" in caught.value.hint
    with pytest.raises(ConfigError, match="has no flashers"):
        choose(with_flashers({}))
    nothing = with_flashers({"openocd": {"program": "/nonexistent/openocd", "config": "x.cfg"}})
    with pytest.raises(ToolError, match="no tool to flash") as missing:
        choose(nothing)
    assert "apt install openocd" in missing.value.hint


@pytest.mark.parametrize("option", ["port", "upload_port", "serial"])
def test_an_emulated_board_is_at_no_port(option: str, elf: Path) -> None:
    """It would be flashed all the same, and the board at that port left as it is."""
    with pytest.raises(ConfigError, match="qemu-cortex-m4 is emulated") as caught:
        flash_and_greet(load_board("qemu-cortex-m4"), elf, **{option: "/dev/ttyACM0"})
    assert "--upload-port" in caught.value.hint


def test_whose_serial_number_a_tool_gets(tmp_path: Path, elf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port's number is the probe's; a DFU bootloader has its own, which only the user can know."""
    monkeypatch.setattr(job, "check_firmware", lambda *_: b"12345678")
    stlink = SimpleNamespace(device="/dev/ttyACM0", vid=0x0483, pid=0x374B, serial_number="0667", location="",
                             description="")  # fmt: skip
    adapter = SimpleNamespace(device="/dev/ttyUSB0", vid=0x1A86, pid=0x7523, serial_number=None, location="",
                              description="")  # fmt: skip
    failing = tool(tmp_path, "tool", 'echo "$@"; exit 1')
    board = with_flashers({
        "openocd": {"program": failing, "config": "x.cfg"}, "dfu-util": {"program": failing, "ids": "0483:df11"},
    })  # fmt: skip

    def arguments(kind: str, **options: str) -> str:
        with pytest.raises(ToolError) as caught:
            flash_and_greet(board, elf, kind=kind, comports=lambda: [stlink, adapter], **options)
        return caught.value.message

    assert "adapter serial 0667" in arguments("openocd")
    assert "adapter serial 0667" in arguments("openocd", serial="0667")
    assert "-S" not in arguments("dfu-util")
    assert "-S" not in arguments("dfu-util", serial="0667")
    assert "adapter serial" not in arguments("openocd", port="/dev/ttyUSB0")
    assert "-S 3000" in arguments("dfu-util", port="/dev/ttyUSB0", serial="3000")


# -- failures --------------------------------------------------------------------------------------------


def test_failure_comes_with_the_last_lines_a_hint_and_a_log(tmp_path: Path, elf: Path) -> None:
    script = 'for i in $(seq 50); do echo "line $i"; done; echo "Error: open failed" >&2; exit 1'
    program = tool(tmp_path, "openocd", script)
    board = with_flashers({"openocd": {"program": program, "config": "x.cfg"}})
    with pytest.raises(ToolError) as caught:
        FLASHERS["openocd"].flash(board, elf)
    assert "exit status 1" in caught.value.message
    assert "Error: open failed" in caught.value.message
    assert "line 50" in caught.value.message
    assert "line 30\n" not in caught.value.message
    assert "no probe was found" in caught.value.hint
    log = (tmp_path / "flash-openocd.log").read_text()
    assert "line 1\n" in log
    assert log.startswith(f"$ {program}")


def test_a_tool_that_hangs_is_ended(tmp_path: Path, elf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = with_flashers(
        {"openocd": {"program": tool(tmp_path, "o", "echo waiting; exec sleep 60"), "config": "x"}}
    )
    monkeypatch.setattr(OpenOcd, "timeout_s", 0.5)
    with pytest.raises(ToolError, match=r"took over 0\.5 s") as caught:
        FLASHERS["openocd"].flash(board, elf)
    assert "waiting" in caught.value.message


def test_what_is_missing_is_said_first(tmp_path: Path, elf: Path) -> None:
    board = with_flashers(
        {"stm32flash": {"program": "/nonexistent/stm32flash"}, "esptool": {"chip": "esp32c3"}}
    )
    with pytest.raises(ToolError, match="no firmware at"):
        FLASHERS["stm32flash"].flash(board, tmp_path / "none.elf")
    with pytest.raises(ToolError, match="is not installed") as caught:
        FLASHERS["stm32flash"].flash(board, elf)
    assert "apt install stm32flash" in caught.value.hint
    board = with_flashers({"stm32flash": {"program": tool(tmp_path, "s", "exit 0")}})
    with pytest.raises(ToolError, match="needs the serial port"):
        FLASHERS["stm32flash"].flash(board, elf)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("Loading section .text\nStart address 0x0, load size 4\nSection .text, range 0 -- 4: matched.", ""),
        ("Start address 0x0, load size 4\nSection .text, range 0 -- 4: MIS-MATCHED!", "differs"),
        ("/tmp/stub: Connection refused.", "nothing was loaded"),
        ("Start address 0x0, load size 4", "nothing was read back"),
    ],
)
def test_gdbs_output_is_read_because_its_status_says_little(said: str, problem: str) -> None:
    assert problem in FLASHERS["gdb"].problem(0, said)
    assert bool(FLASHERS["gdb"].problem(0, said)) == bool(problem)


def test_dfu_util_may_fail_after_the_last_byte() -> None:
    flasher = FLASHERS["dfu-util"]
    said = (
        "File downloaded successfully\nTransitioning to dfuMANIFEST state\nError during download get_status"
    )
    assert flasher.problem(74, said) == ""
    assert "exit status 74" in flasher.problem(74, "No DFU capable USB device available")
    assert "never said" in flasher.problem(0, "")


def test_firmware_of_another_board_is_refused(elf: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="holds no build id"):
        check_firmware(BOARD, elf)
    other = write_elf(tmp_path / "other.elf", [(0x90000000, b"code")])
    with pytest.raises(ToolError, match="is not for nucleo-f446re: it loads 0x90000000"):
        check_firmware(BOARD, other)
