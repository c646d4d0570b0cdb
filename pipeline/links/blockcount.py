"""Executed blocks of marked regions, counted by a plugin inside QEMU (firmware/emulator/blockcount.c)."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.errors import LinkError, ToolError
from pipeline.links.compiled import shared_library

_SOURCES = ("blockcount.c", "qemu_plugin_api.h")
_MAGIC = b"EDGB"
_VERSION = 1
_POLL_S = 0.01


@dataclass(frozen=True)
class BlockCount:
    """A straight run of instructions: `code` at address `pc`, run `runs` times.

    `taken`: after how many of these runs execution went on elsewhere than right behind the block.
    """

    pc: int
    code: bytes
    instructions: int
    runs: int
    taken: int


@dataclass(frozen=True)
class Region:
    """What ran between a begin and an end marker, the markers not included."""

    blocks: tuple[BlockCount, ...]

    @cached_property
    def instructions(self) -> int:
        """Executed instructions; those skipped inside an IT block count, as they do in the device's timer."""
        return sum(block.instructions * block.runs for block in self.blocks)


def plugin_library() -> Path:
    """The plugin as a shared library, compiled on first use and kept under a hash of its source.

    Raises ToolError: no C compiler on this machine, or it failed.
    """
    folder = asset_dir("firmware") / "emulator"
    return shared_library("blockcount", folder, _SOURCES, "QEMU's counting plugin")


def plugin_args(out: Path) -> list[str]:
    """What `open_link(plugin_args=...)` takes, and QEMU's `-plugin` option, to write the regions to `out`.

    Raises ToolError as `plugin_library` does, and for a path that QEMU's option syntax cannot hold.
    """
    library = plugin_library()
    for path in (library, out):
        if "," in str(path):
            raise ToolError(f"QEMU takes no comma in a plugin's path: {path}", hint="use another folder")
    return [f"{library},out={out.resolve()}"]


class RegionReader:
    """Reads regions while QEMU writes them; `out` need not exist yet.

    Raises LinkError for a file that is not the plugin's.
    """

    def __init__(self, out: Path) -> None:
        self._path = out
        self._offset = 0  # of the file, up to where `_pending` reaches
        self._pending = b""
        self._header_seen = False
        self._definitions: list[tuple[int, bytes, int]] = []

    def next(self, timeout: float) -> Region:
        """The next region; waits up to `timeout` seconds for it, else raises LinkError."""
        deadline = time.monotonic() + timeout
        while True:
            region = self._read_one()
            if region is not None:
                return region
            if time.monotonic() >= deadline:
                raise LinkError(
                    f"no counted region within {timeout:g} s",
                    hint="the firmware must run its begin and end markers; is QEMU still alive?",
                )
            time.sleep(_POLL_S)

    def read_all(self) -> list[Region]:
        """The regions that are complete by now and have not been read yet."""
        regions = []
        while (region := self._read_one()) is not None:
            regions.append(region)
        return regions

    def _read_one(self) -> Region | None:
        if self._path.is_file():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            self._offset += len(data)
            self._pending += data
        try:
            if not self._header_seen:
                self._read_header()
            while True:
                region = self._read_record()
                if region is not None:
                    return region
        except EOFError:  # the rest is still to be written
            return None

    def _peek(self, offset: int, count: int) -> bytes:
        if len(self._pending) < offset + count:
            raise EOFError
        return self._pending[offset : offset + count]

    def _read_header(self) -> None:
        if self._peek(0, 4) != _MAGIC:
            raise LinkError(f"{self._path} is not a block count file")
        version, length = struct.unpack("<II", self._peek(4, 8))
        if version != _VERSION:
            raise LinkError(f"{self._path}: block count format {version}, expected {_VERSION}")
        self._peek(12, length)
        self._pending = self._pending[12 + length :]
        self._header_seen = True

    def _read_record(self) -> Region | None:
        tag = self._peek(0, 1)
        region = None
        if tag == b"B":
            pc, size, instructions = struct.unpack("<QII", self._peek(1, 16))
            self._definitions.append((pc, self._peek(17, size), instructions))
            used = 17 + size
        elif tag == b"R":
            (count,) = struct.unpack("<I", self._peek(1, 4))
            used = 5 + 20 * count
            rows = struct.iter_unpack("<IQQ", self._peek(5, 20 * count))
            region = Region(tuple(self._block(*row) for row in rows))
        else:
            raise LinkError(f"{self._path}: unknown record {tag!r}")
        self._pending = self._pending[used:]
        return region

    def _block(self, number: int, runs: int, taken: int) -> BlockCount:
        if number >= len(self._definitions):
            raise LinkError(f"{self._path}: region names block {number}, which was not defined")
        pc, code, instructions = self._definitions[number]
        return BlockCount(pc, code, instructions, runs, taken)
