"""Capstone's disassembler as timing models use it: with details, and of each thread its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import capstone


class Decoder(threading.local):
    """Machine code of one instruction set to capstone's instructions.

    Targets are measured side by side, so blocks are decoded side by side, and a handle is not made for that: with
    one for all threads, instructions now and then came without the registers that they write.
    """

    def __init__(self, architecture: int, mode: int) -> None:
        """Called anew, with the same arguments, in every thread that uses it."""
        self.handle = capstone.Cs(architecture, mode)
        self.handle.detail = True

    def disasm(self, code: bytes, address: int) -> Iterator[Any]:
        """The instructions of `code`, whose first byte lies at `address`, up to the first that is none."""
        found: Iterator[Any] = self.handle.disasm(code, address)
        return found

    def register(self, number: int) -> str:
        """The name of capstone's register `number`."""
        return str(self.handle.reg_name(number))
