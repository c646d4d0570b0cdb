"""MemorySystem: what lies between a core and memories that are slower than it: caches, flash accelerator, wait states.

Data only, read from `[memory.system]` of a board file (docs/add-a-board.md); firmware/emulator/memory/system.c runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.tomltable import Table

REPLACEMENTS = ("lru", "random")
PREFETCHES = ("none", "kept", "eager")


@dataclass(frozen=True, slots=True)
class Cache:
    """`lines` of `line_bytes` (0: there is none), filled in parts of `fill_bytes`; `ways` 0 is fully associative."""

    lines: int
    line_bytes: int
    fill_bytes: int
    ways: int
    replacement: str


@dataclass(frozen=True, slots=True)
class Window:
    """How a memory answers, in core cycles.

    `path_cycles`: to the memory and back, beyond its wait states: the least that is possible, what is likely, and the
    most. `tail_cycles`: from the answer until the next read can begin. `skip_bytes` at its start answer at once.
    """

    path_cycles: tuple[int, int, int]
    tail_cycles: int
    skip_bytes: int = 0
    allocate: bool = False


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to read the documents: index into `path_cycles`, and other policies ("": as told)."""

    path: int = 1
    prefetch: str = ""
    replacement: str = ""


LIKELY = Variant()


@dataclass(frozen=True, slots=True)
class MemorySystem:
    """`prefetch` of instructions: `kept` (of the part behind one that was read), `eager` (also behind one that was
    cached), `none`. `wait_state_hz`: up to which clock of the flash 0, 1, ...
    wait states do. `flash_divider`: core cycles a cycle of the flash."""

    instructions: Cache
    data: Cache
    prefetch: str
    flash: Window
    sram: Window | None
    wait_state_hz: tuple[int, ...]
    flash_divider: int = 1
    reference: str = ""
    doubted: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)  # policy: other readings

    def wait_states(self, clock_hz: int) -> int:
        """Of the flash, at a core clock of `clock_hz`; ConfigError beyond the last."""
        flash_hz = clock_hz / self.flash_divider
        for states, most in enumerate(self.wait_state_hz):
            if flash_hz <= most:
                return states
        raise ConfigError(
            f"no number of wait states lets the flash answer at {flash_hz:.0f} Hz",
            hint=f"memory.system.wait_state_hz ends at {self.wait_state_hz[-1]}; lower clock.hz",
        )

    def variants(self) -> tuple[Variant, ...]:
        """All readings of the documents, each alone, the likely one first."""
        windows = [window for window in (self.flash, self.sram) if window is not None]
        ends = [Variant(path=i) for i in (0, 2) if any(w.path_cycles[i] != w.path_cycles[1] for w in windows)]
        others = [Variant(prefetch=name) for name in self.doubted.get("prefetch", ())]
        others += [Variant(replacement=name) for name in self.doubted.get("replacement", ())]
        return (LIKELY, *ends, *others)

    def describe(
        self,
        wait_states: int,
        flash: tuple[int, int],
        sram: tuple[int, int],
        *,
        cycles_per_instruction: float = 1.0,
        variant: Variant = LIKELY,
    ) -> str:
        """As firmware/emulator/memory/system.h has it. `flash`, `sram`: origin and bytes where the code really runs."""
        replacement = variant.replacement
        lines = [
            _cache_line("icache", self.instructions, replacement),
            _cache_line("dcache", self.data, replacement),
            f"prefetch {variant.prefetch or self.prefetch}",
            f"rate {max(1, round(256 * cycles_per_instruction))}",
            _window_line(self.flash, flash, self.flash_divider * wait_states, variant.path),
        ]
        if self.sram is not None:
            lines.append(_window_line(self.sram, sram, 0, variant.path))
        return "\n".join(lines) + "\n"


def _cache_line(name: str, cache: Cache, replacement: str) -> str:
    policy = replacement or cache.replacement
    return f"{name} {cache.lines} {cache.line_bytes} {cache.fill_bytes} {cache.ways} {policy}"


def _window_line(window: Window, place: tuple[int, int], wait_cycles: int, path: int) -> str:
    origin, size = place
    wait = window.path_cycles[path] + wait_cycles
    busy = wait + window.tail_cycles if wait else 0
    skipped = min(window.skip_bytes, size)
    return f"window {origin + skipped} {size - skipped} {wait} {busy} {int(window.allocate)}"


# -- board files -------------------------------------------------------------------------------------------


def read_memory_system(t: Table) -> MemorySystem | None:
    """From `[memory.system]`, None where it is empty. Raises ConfigError naming the key."""
    if t.empty:
        return None
    sram = t.sub("sram", required=False)
    doubted = t.sub("doubted", required=False)
    hz = t.integers("wait_state_hz")
    if not hz or any(b <= a for a, b in zip((0, *hz), hz, strict=False)):
        raise t.error(
            "wait_state_hz", "must be clocks that grow", hint="the highest for 0, 1, 2 ... wait states"
        )
    return MemorySystem(
        instructions=_cache(t.sub("instructions")),
        data=_cache(t.sub("data")),
        prefetch=t.text("prefetch", "none", choices=PREFETCHES),
        flash=_window(t.sub("flash")),
        sram=None if sram.empty else _window(sram),
        wait_state_hz=hz,
        flash_divider=t.integer("flash_divider", 1),
        reference=t.text("reference"),
        doubted={
            key: _choices(doubted, key, known)
            for key, known in (("prefetch", PREFETCHES), ("replacement", REPLACEMENTS))
        },
    )


def _choices(t: Table, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
    found = t.strings(key, ())
    for name in found:
        if name not in known:
            raise t.error(key, f"has '{name}'", hint=f"choose from: {', '.join(known)}")
    return found


def _cache(t: Table) -> Cache:
    lines, line, fill = t.integer("lines", minimum=0), t.integer("line_bytes"), t.integer("fill_bytes")
    ways = t.integer("ways", 0, minimum=0)
    powers: dict[str, Any] = {"line_bytes": line, "fill_bytes": fill}
    for key, value in powers.items():
        if value & (value - 1):
            raise t.error(key, f"is {value}", hint="it must be a power of two")
    if not fill <= line <= 64 * fill:
        raise t.error("fill_bytes", f"is {fill}, lines have {line}", hint="a line has 1 to 64 parts")
    if ways and lines % ways:
        raise t.error("ways", f"is {ways}", hint=f"the {lines} lines must be a multiple of it")
    return Cache(lines, line, fill, ways, t.text("replacement", "lru", choices=REPLACEMENTS))


def _window(t: Table) -> Window:
    path = t.integers("path_cycles")
    if len(path) != 3 or not 0 <= path[0] <= path[1] <= path[2]:
        raise t.error(
            "path_cycles", "must be three that do not fall", hint="least, likely, most: [8, 14, 24]"
        )
    return Window(
        path_cycles=(path[0], path[1], path[2]),
        tail_cycles=t.integer("tail_cycles", minimum=0),
        skip_bytes=t.integer("skip_bytes", 0, minimum=0),
        allocate=t.flag("allocate", False),
    )
