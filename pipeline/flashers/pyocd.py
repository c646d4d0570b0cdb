"""pyOCD: CMSIS-DAP, ST-LINK and J-Link probes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pipeline.boards import Board
from pipeline.flashers.flasher import ANY, Flasher, Target


class PyOcd(Flasher):
    """`target`: pyOCD's name of the chip (`pyocd list --targets`); `frequency` of SWD in Hz."""

    kind = "pyocd"
    program = "pyocd"
    remedy = "pip install pyocd"
    by_probe = True
    keys: ClassVar = {"target": None, "frequency": ""}
    hints: ClassVar = {
        "not recognized|unknown target": "pyocd pack install TARGET fetches the chip's CMSIS pack",
        "no (available|connected) (debug )?probe": "no probe was found: check the USB cable and its permissions",
        "multiple|which probe": "several probes are connected: name one with --serial",
    }

    def command(self, board: Board, elf: Path, target: Target = ANY) -> list[str]:
        settings = self.settings(board)
        arguments = [
            self.program_of(board),
            "load",
            "--no-wait",
            "--target",
            settings["target"],
            "--format",
            "elf",
        ]
        if settings["frequency"]:
            arguments += ["--frequency", settings["frequency"]]
        if target.serial:
            arguments += ["--uid", target.serial]
        return [*arguments, str(elf)]
