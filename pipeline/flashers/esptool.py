"""esptool: the ROM serial bootloader of Espressif's chips."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import ClassVar

from pipeline.boards import Board
from pipeline.errors import ConfigError, ToolError
from pipeline.firmware.image import write_bin
from pipeline.flashers.flasher import ANY, Flasher, Target, find_program


class EspTool(Flasher):
    """`image`: "raw" (direct boot: the flash's bytes as linked) or "app" (for a second-stage bootloader)."""

    kind = "esptool"
    program = "esptool"
    remedy = "pip install 'esptool>=5'"
    keys: ClassVar = {"chip": None, "offset": "0x0", "baud": "460800", "image": "raw"}
    hints: ClassVar = {
        "no serial data received|wrong boot mode|failed to connect":
            "hold BOOT, press and release RESET, then try again",
        "could not open|port is busy|resource busy": "close what uses the port (a serial monitor?)",
        "this chip is": "this is another chip than the board file says",
    }  # fmt: skip
    needs_port = True

    def command(self, board: Board, elf: Path, target: Target = ANY) -> list[str]:
        settings = self.settings(board)
        return [
            self.program_of(board), "--chip", settings["chip"], "--port", target.port, "--baud", settings["baud"],
            "--before", "default-reset", "--after", "hard-reset",
            "write-flash", settings["offset"], str(_image_path(elf)),
        ]  # fmt: skip

    def image_command(self, board: Board, elf: Path) -> list[str]:
        """Makes an application image of `elf` for Espressif's second-stage bootloader."""
        chip = self.settings(board)["chip"]
        return [
            self.program_of(board),
            "--chip",
            chip,
            "elf2image",
            "--output",
            str(_image_path(elf)),
            str(elf),
        ]

    def prepare(self, board: Board, elf: Path) -> None:
        image = self.settings(board)["image"]
        if image == "raw":
            write_bin(elf, _image_path(elf))
        elif image == "app":
            _run_elf2image(self.image_command(board, elf), self.remedy)
        else:
            what = f"board {board.name}, [flashers.esptool]: image is '{image}'"
            raise ConfigError(what, hint="use raw or app")


def _image_path(elf: Path) -> Path:
    return elf.with_suffix(".esp.bin")


def _run_elf2image(arguments: list[str], remedy: str) -> None:
    program = find_program(arguments[0])
    if program is None:
        raise ToolError(f"{arguments[0]} is not installed", hint=remedy)
    done = subprocess.run([program, *arguments[1:]], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise ToolError(f"esptool cannot convert the ELF: {(done.stdout + done.stderr).strip()[-400:]}")
