"""Flashers: how a program gets into a board, one small class per tool, chosen by the board file."""

from pipeline.flashers.flasher import ANY, Availability, Flasher, Target
from pipeline.flashers.job import Flashed, check_firmware, flash_and_greet
from pipeline.flashers.tools import FLASHERS, choose, flash_emulator, flashers_of

__all__ = [
    "ANY", "FLASHERS", "Availability", "Flashed", "Flasher", "Target", "check_firmware", "choose",
    "flash_and_greet", "flash_emulator", "flashers_of",
]  # fmt: skip
