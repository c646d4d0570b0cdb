"""Boards, programs and firmware that tests of flashing tools work with."""

from __future__ import annotations

import dataclasses
import stat
import struct
from collections.abc import Mapping
from pathlib import Path

from pipeline.boards import Board, load_board

BOARD = load_board("nucleo-f446re")


def with_flashers(flashers: Mapping[str, Mapping[str, str]], board: Board = BOARD) -> Board:
    return dataclasses.replace(board, flashers=flashers)


def write_elf(path: Path, pieces: list[tuple[int, bytes]], machine: int = 40) -> Path:
    """A 32-bit little-endian ELF (default: Arm) with one segment for each (address, data)."""
    header, entry = 52, 32
    offset = header + entry * len(pieces)
    table, body = b"", b""
    for address, data in pieces:
        table += struct.pack(
            "<8I", 1, offset + len(body), address, address, len(data), len(data), 5, 4
        )  # fmt: skip
        body += data
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    start = pieces[0][0] if pieces else 0
    fields = struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, start, header, 0, 0, header, entry, len(pieces),
                         40, 0, 0)  # fmt: skip
    path.write_bytes(ident + fields + table + body)
    return path


def tool(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)
