"""OpenOCD: nearly any probe; flashing, verifying and reset in one `program` command."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pipeline.boards import Board
from pipeline.errors import ToolError
from pipeline.flashers.flasher import ANY, Flasher, Target


class OpenOcd(Flasher):
    """`config`: configuration files, spaces between; `commands`: more of them, before `init`; `connected`: after it."""

    kind = "openocd"
    program = "openocd"
    remedy = "sudo apt install openocd"
    by_probe = True
    keys: ClassVar = {"config": None, "commands": "", "connected": ""}
    hints: ClassVar = {
        "can't find ": "this OpenOCD has no such configuration file: install a newer one",
        "open failed|no device found|unable to open": "no probe was found: check the USB cable and permissions",
        "libusb.*access": "the probe may not be opened: install OpenOCD's udev rules (60-openocd.rules)",
        "examination failed|init mode failed": "the chip does not answer: power, or hold reset while starting",
    }

    def command(self, board: Board, elf: Path, target: Target = ANY) -> list[str]:
        connected = self.settings(board)["connected"]
        steps = ["-c", "init", "-c", connected] if connected else []
        return [*self._setup(board, target), *steps, "-c", f"program {_tcl(elf)} verify reset exit"]

    def check_command(self, board: Board) -> list[str]:
        """Only reads the configuration and ends: tells whether this OpenOCD knows the chip and the probe."""
        return [*self._setup(board, ANY), "-c", "shutdown"]

    def _setup(self, board: Board, target: Target) -> list[str]:
        settings = self.settings(board)
        arguments = [self.program_of(board)]
        for config in settings["config"].split():
            arguments += ["-f", config]
        if target.serial:
            arguments += ["-c", f"adapter serial {target.serial}"]
        if settings["commands"]:
            arguments += ["-c", settings["commands"]]
        return arguments


def _tcl(path: Path) -> str:
    """`path` as one Tcl word."""
    if any(bad in str(path) for bad in "{}\\"):
        raise ToolError(f"OpenOCD cannot take the path {path}", hint="use a folder without braces")
    return f"{{{path}}}"
