"""A memory system written down a second time, plainly: what firmware/emulator/memory/system.c is held against."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from dataclasses import astuple, dataclass, fields

from pipeline.boards.memory_system import Cache, MemorySystem, Window
from pipeline.links.memorysim import model_library

CYCLE = 256
MASK = 2**64 - 1
Event = tuple[
    str, int, int, int
]  # ("fetch", first, last, instructions), ("load" or "store", address, bytes, 0)


@dataclass
class Counts:
    """As memory_counts_t."""

    fetch_stall: int = 0
    data_stall: int = 0
    fetches: int = 0
    fetch_misses: int = 0
    prefetched: int = 0
    reads: int = 0
    read_misses: int = 0
    writes: int = 0
    write_misses: int = 0
    writebacks: int = 0

    @property
    def stall(self) -> int:
        return self.fetch_stall + self.data_stall


class Line:
    def __init__(self) -> None:
        self.parts: set[int] = set()
        self.dirty = False


class OracleCache:
    """Sets of lines, the last used at the end; ways by number, as a random choice is among ways."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.ways = cache.ways or cache.lines
        self.sets = cache.lines // self.ways if cache.lines else 0
        self.content: list[OrderedDict[int, Line]] = [OrderedDict() for _ in range(self.sets)]
        self.way_of: list[dict[int, int]] = [{} for _ in range(self.sets)]
        self.seed = 0x9E3779B97F4A7C15

    def place(self, address: int) -> tuple[int, int, int]:
        line = address // self.cache.line_bytes
        return line % self.sets, line, address % self.cache.line_bytes // self.cache.fill_bytes

    def there(self, address: int) -> bool:
        if not self.sets:
            return False
        number, line, part = self.place(address)
        found = self.content[number].get(line)
        return found is not None and part in found.parts

    def touch(self, address: int) -> Line:
        number, line, _ = self.place(address)
        self.content[number].move_to_end(line)
        return self.content[number][line]

    def choose(self, number: int) -> int:
        """The line that has to go."""
        if self.cache.replacement == "lru":
            return next(iter(self.content[number]))
        x = self.seed
        x ^= x << 13 & MASK
        x ^= x >> 7
        x ^= x << 17 & MASK
        self.seed = x
        wanted = x % self.ways
        return next(line for line, way in self.way_of[number].items() if way == wanted)

    def take(self, address: int) -> tuple[Line | None, bool]:
        if not self.sets:
            return None, False
        number, line, part = self.place(address)
        lines, ways, written = self.content[number], self.way_of[number], False
        if line not in lines:
            if len(lines) == self.ways:
                old = self.choose(number)
                written = lines.pop(old).dirty
                way = ways.pop(old)
            else:
                way = min(set(range(self.ways)) - set(ways.values()))
            lines[line], ways[line] = Line(), way
        lines[line].parts.add(part)
        return self.touch(address), written


class Oracle:
    def __init__(
        self, system: MemorySystem, windows: list[tuple[int, int, int, int, bool]], rate: int, prefetch: str
    ) -> None:
        self.icache, self.dcache = OracleCache(system.instructions), OracleCache(system.data)
        self.windows, self.rate, self.prefetch = windows, rate, prefetch
        self.now = self.free = 0
        self.current: int | None = None
        self.ahead: tuple[int, int] | None = None
        self.counts = Counts()

    def window(self, address: int) -> tuple[int, int, bool] | None:
        """Wait, busy in units, and whether stores allocate."""
        for origin, size, wait, busy, allocate in self.windows:
            if origin <= address < origin + size:
                return wait * CYCLE, busy * CYCLE, allocate
        return None

    def read(self, wait: int, busy: int) -> int:
        start = max(self.now, self.free)
        self.free = start + busy
        return start + wait

    def stall_until(self, time: int) -> int:
        waited = max(0, time - self.now)
        self.now += waited
        return waited

    def look_ahead(self, part: int) -> None:
        window = self.window(part)
        already = self.ahead is not None and self.ahead[0] == part
        if self.prefetch != "none" and window is not None and not self.icache.there(part) and not already:
            self.ahead = part, self.read(*window[:2])

    def fetch(self, first: int, last: int, instructions: int) -> None:
        width = self.icache.cache.fill_bytes
        for part in range(first // width * width, last + 1, width):
            window = self.window(part)
            entered = part != self.current
            self.current = part
            if not entered or window is None:
                continue
            self.counts.fetches += 1
            if self.icache.there(part):
                self.icache.touch(part)
                if self.prefetch == "eager":
                    self.look_ahead(part + width)
                continue
            if self.ahead is not None and self.ahead[0] == part:
                self.counts.prefetched += 1
                self.counts.fetch_stall += self.stall_until(self.ahead[1])
                self.ahead = None
            else:
                self.counts.fetch_misses += 1
                self.counts.fetch_stall += self.stall_until(self.read(*window[:2]))
            self.icache.take(part)
            self.look_ahead(part + width)
        self.now += instructions * self.rate

    def data(self, address: int, size: int, store: bool) -> None:
        window = self.window(address)
        if window is None:
            return
        wait, busy, allocate = window
        if store:
            self.counts.writes += 1
        else:
            self.counts.reads += 1
        width = self.dcache.cache.fill_bytes
        for part in range(address // width * width, address + size, width):
            line: Line | None
            if self.dcache.there(part):
                line = self.dcache.touch(part)
            else:
                if store:
                    self.counts.write_misses += 1
                    if not allocate:
                        continue
                    self.read(wait, busy)
                else:
                    self.counts.read_misses += 1
                    self.counts.data_stall += self.stall_until(self.read(wait, busy))
                line, written = self.dcache.take(part)
                if written:
                    self.counts.writebacks += 1
                    self.free += busy - wait
            if line is not None and store and allocate:
                line.dirty = True

    def run(self, events: list[Event]) -> Counts:
        for kind, a, b, c in events:
            if kind == "fetch":
                self.fetch(a, b, c)
            else:
                self.data(a, b, kind == "store")
        return self.counts


class CModel:
    """system.c through ctypes; ValueError for a description that it does not take."""

    def __init__(self, description: str) -> None:
        self.c = ctypes.CDLL(str(model_library()))
        self.c.memory_system_new.restype = ctypes.c_void_p
        self.system = ctypes.c_void_p(self.c.memory_system_new(description.encode()))
        if not self.system.value:
            raise ValueError(description)

    def run(self, events: list[Event]) -> Counts:
        for kind, a, b, c in events:
            if kind == "fetch":
                self.c.memory_fetch(self.system, ctypes.c_uint64(a), ctypes.c_uint64(b), ctypes.c_uint32(c))
            else:
                self.c.memory_data(
                    self.system, ctypes.c_uint64(a), ctypes.c_uint32(b), ctypes.c_int(kind == "store")
                )
        counts = (ctypes.c_uint64 * len(fields(Counts)))()
        self.c.memory_counts(self.system, counts)
        return Counts(*counts)

    def close(self) -> None:
        self.c.memory_system_free(self.system)


def c_counts(description: str, events: list[Event]) -> Counts:
    model = CModel(description)
    try:
        return model.run(events)
    finally:
        model.close()


def windows_of(description: str) -> list[tuple[int, int, int, int, bool]]:
    """Those that a description names."""
    found = []
    for line in description.splitlines():
        word, *values = line.split()
        if word == "window":
            origin, size, wait, busy, allocate = map(int, values)
            found.append((origin, size, wait, busy, bool(allocate)))
    return found


__all__ = ["CModel", "Counts", "Event", "Oracle", "Window", "astuple", "c_counts", "windows_of"]
