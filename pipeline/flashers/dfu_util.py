"""dfu-util: USB DFU bootloaders (STM32 ROM, GD32VF103) with ST's DfuSe addresses."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pipeline.boards import Board
from pipeline.firmware.image import write_bin
from pipeline.flashers.flasher import ANY, Flasher, Target


class DfuUtil(Flasher):
    """`ids`: VID:PID of the bootloader, which is another one than the running board's."""

    kind = "dfu-util"
    program = "dfu-util"
    remedy = "sudo apt install dfu-util"
    keys: ClassVar = {"ids": None, "alt": "0", "address": ""}
    hints: ClassVar = {
        "no dfu capable usb device": "start the bootloader: hold BOOT0 while pressing reset, over its USB port",
        "cannot open dfu device|libusb_error_access": "no permission for the USB device: a udev rule is needed",
        "more than one dfu capable": "several bootloaders are connected: name one with --serial",
    }

    def command(self, board: Board, elf: Path, target: Target = ANY) -> list[str]:
        settings = self.settings(board)
        address = settings["address"] or f"0x{board.memory.flash.origin:08x}"
        arguments = [self.program_of(board), "-d", settings["ids"], "-a", settings["alt"]]
        if target.serial:
            arguments += ["-S", target.serial]
        return [*arguments, "-s", f"{address}:leave", "-D", str(_image_path(elf))]

    def prepare(self, board: Board, elf: Path) -> None:
        write_bin(elf, _image_path(elf))

    def problem(self, status: int, output: str) -> str:
        # after ":leave" the chip is gone before dfu-util can ask for its state, which it reports as an error
        if "File downloaded successfully" in output:
            return ""
        return super().problem(status, output) or "it never said that the file was downloaded"


def _image_path(elf: Path) -> Path:
    return elf.with_suffix(".bin")
