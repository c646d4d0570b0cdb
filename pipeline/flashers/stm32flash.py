"""stm32flash: the STM32's ROM bootloader on a UART (ST application note AN3155)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pipeline.boards import Board
from pipeline.firmware.image import write_bin
from pipeline.flashers.flasher import ANY, Flasher, Target


class Stm32Flash(Flasher):
    """`address` defaults to the board's flash; `init`: stm32flash's -i, how DTR and RTS drive BOOT0 and reset."""

    kind = "stm32flash"
    program = "stm32flash"
    remedy = "sudo apt install stm32flash"
    keys: ClassVar = {"address": "", "baud": "115200", "mode": "8e1", "init": ""}
    hints: ClassVar = {
        "failed to init device": "start the bootloader: BOOT0 high, then reset",
        "permission denied": "join the group that owns the port: sudo usermod -a -G dialout $USER",
        "error probing interface|no such file": "the port cannot be opened; edgenas doctor lists the ports",
        "read-?protect|unprotect": "the flash is protected: stm32flash -k PORT removes that, erasing it",
    }
    needs_port = True

    def command(self, board: Board, elf: Path, target: Target = ANY) -> list[str]:
        settings = self.settings(board)
        address = settings["address"] or f"0x{board.memory.flash.origin:08x}"
        arguments = [self.program_of(board), "-b", settings["baud"], "-m", settings["mode"]]
        if settings["init"]:
            arguments += ["-i", settings["init"]]
        arguments += ["-w", str(_image_path(elf)), "-v", "-S", address, "-g", address]
        return [*arguments, target.port]

    def prepare(self, board: Board, elf: Path) -> None:
        write_bin(elf, _image_path(elf))


def _image_path(elf: Path) -> Path:
    return elf.with_suffix(".bin")
