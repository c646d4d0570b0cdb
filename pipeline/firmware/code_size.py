"""How many bytes of flash each kernel brings along, and what an application takes without any."""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from pipeline.boards import Board
from pipeline.firmware.app import render_app
from pipeline.firmware.build import build
from pipeline.firmware.elf import Symbol, read_sizes
from pipeline.space.budgets import Budgets
from pipeline.space.kernels import KERNELS

_MODEL_H = """\
#ifndef MODEL_H
#define MODEL_H
#include <stdint.h>
#define MODEL_INPUT_BYTES 4u
#define MODEL_OUTPUT_BYTES 4u
#define MODEL_ARENA_BYTES 16u
#define MODEL_LAYERS 1u
int8_t *model_input(void);
const int8_t *model_output(void);
void model_invoke(void);
#endif
"""
_MODEL_C = """\
#include "model.h"
#include "edgenas/kernels.h"
static int8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
int8_t *model_input(void) { return arena; }
const int8_t *model_output(void) { return arena + 4; }
"""


@dataclass(frozen=True, slots=True)
class CodeSize:
    """Flash and static RAM of an application as its parts.

    `base_flash_bytes` and `base_static_ram_bytes` are those of the whole program around a model without
    layers (the arena, 4 bytes a layer for its time stamp, code of the calls and constants left out).
    `pieces` maps each kernel to the functions and tables that it alone or with others pulls in, in bytes as
    the linker places them.
    """

    base_flash_bytes: int
    base_static_ram_bytes: int
    pieces: Mapping[str, Mapping[str, int]]

    def kernels_bytes(self, names: Iterable[str]) -> int:
        """Flash that a set of kernels takes together: what they share counts once."""
        together: dict[str, int] = {}
        for name in names:
            if name:
                together |= self.pieces[name]
        return sum(together.values())


@lru_cache(maxsize=8)
def code_size(board: Board) -> CodeSize:
    """Measured by linking two small applications for `board` (about a second; then remembered).

    Raises ToolError where there is no cross-compiler.
    """
    with tempfile.TemporaryDirectory(prefix="edgenas-size-") as folder:
        base = _link(board, Path(folder) / "base", "void model_invoke(void) {}\n", ())
        references = ", ".join(f"(kernel_t){name}" for name in KERNELS)
        every = (
            "typedef void (*kernel_t)(void);\n"
            f"static const kernel_t kernels[] = {{{references}}};\n"
            "void model_invoke(void) { for (volatile unsigned i = 0; i < 1u; ++i) { kernels[i](); } }\n"
        )
        full = _link(board, Path(folder) / "full", every, ("-Wl,--emit-relocs",))
        sizes = read_sizes(base, board)
        present = {symbol.name for symbol in sizes.symbols}
        return CodeSize(
            base_flash_bytes=sizes.flash_bytes,
            # less the stand-in's arena and time stamp
            base_static_ram_bytes=sizes.static_ram_bytes - 16 - 4,
            pieces=_pieces(full, board, present),
        )


def kernel_text_bytes(board: Board) -> dict[str, int]:
    """Flash of each kernel with all that it calls, the application's own functions left out.

    Kernels share helpers, so a sum of these counts them twice; `code_size(board).kernels_bytes(names)`
    does not.
    """
    measured = code_size(board)
    return {name: measured.kernels_bytes([name]) for name in KERNELS}


def base_flash_bytes(board: Board) -> int:
    """Flash of an application around a model without layers."""
    return code_size(board).base_flash_bytes


def static_ram_bytes(board: Board, arena_bytes: int, layers: int) -> int:
    """Static RAM of an application, exactly: its arena, a time stamp for each layer, and all else."""
    return code_size(board).base_static_ram_bytes + -(-arena_bytes // 4) * 4 + 4 * layers


def _link(board: Board, folder: Path, invoke: str, link_flags: tuple[str, ...]) -> Path:
    sources = {"model.h": _MODEL_H, "model.c": _MODEL_C + invoke}
    # budgets that are set, as in a real run: an absent one is compiled away
    budgets = Budgets(latency_ms=50.0, sram_bytes=200_000, flash_bytes=400_000)
    render_app(sources, board, budgets, folder, 1.5)
    return build(folder, board, link_flags=link_flags).elf


def _pieces(elf: Path, board: Board, in_base: set[str]) -> dict[str, dict[str, int]]:
    symbols = _in_flash(read_sizes(elf, board).symbols, board)
    by_name = {symbol.name: symbol for symbol in symbols}
    edges = _edges(elf, symbols)
    found = {}
    for name in KERNELS:
        reached: dict[str, int] = {}
        todo = [by_name[name]]
        while todo:
            symbol = todo.pop()
            key = f"{symbol.name}@{symbol.address:x}"  # static functions may share a name
            if key in reached or symbol.name in in_base:
                continue
            reached[key] = -(-symbol.bytes // 4) * 4  # sections are aligned to 4
            todo += edges.get(symbol, ())
        found[name] = reached
    return found


def _in_flash(symbols: Iterable[Symbol], board: Board) -> list[Symbol]:
    return [symbol for symbol in symbols if board.memory.flash.holds(symbol.address)]


def _edges(elf: Path, symbols: list[Symbol]) -> dict[Symbol, set[Symbol]]:
    """Which symbol refers to which, from the relocations that the linker was told to keep."""
    starts = [symbol.address for symbol in symbols]

    def at(address: int) -> Symbol | None:
        i = bisect.bisect_right(starts, address) - 1
        if i < 0 or address >= symbols[i].address + symbols[i].bytes:
            return None
        return symbols[i]

    edges: dict[Symbol, set[Symbol]] = {}
    with elf.open("rb") as stream:
        parsed = ELFFile(stream)
        table = parsed.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            return edges
        for section in parsed.iter_sections():
            if section["sh_type"] not in ("SHT_REL", "SHT_RELA"):
                continue
            for relocation in section.iter_relocations():
                source = at(relocation["r_offset"])
                target = at(_target(parsed, table, relocation.entry))
                if source is not None and target is not None and source != target:
                    edges.setdefault(source, set()).add(target)
    return edges


def _target(parsed: ELFFile, table: SymbolTableSection, relocation: Mapping[str, int]) -> int:
    symbol = table.get_symbol(relocation["r_info_sym"])
    address: int = symbol["st_value"]
    if symbol["st_info"]["type"] != "STT_SECTION":
        return address & ~1 if symbol["st_info"]["type"] == "STT_FUNC" else address
    if "r_addend" in relocation:
        return address + relocation["r_addend"]
    # against a section, in REL form: a literal holds the final address
    for section in parsed.iter_sections():
        offset = relocation["r_offset"] - section["sh_addr"]
        if section["sh_type"] == "SHT_PROGBITS" and 0 <= offset <= section["sh_size"] - 4:
            return int.from_bytes(section.data()[offset : offset + 4], "little") & ~1
    return -1
