"""What an ELF places where: flash and RAM as the linker laid them out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from pipeline.boards import Board
from pipeline.boards.board import Region
from pipeline.errors import ToolError

_STACK_SECTION = ".stack"
_BUILD_ID_SYMBOL = "edgenas_build_id"


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    address: int
    bytes: int
    kind: str  # "func" or "object"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of one ELF. `flash_bytes`: everything loaded into flash, initial values of .data included."""

    flash_bytes: int
    static_ram_bytes: int  # .data, .bss and .noinit, with the padding between them
    stack_bytes: int
    sections: dict[str, int]
    symbols: tuple[Symbol, ...]
    build_id: bytes

    @property
    def sram_bytes(self) -> int:
        """Static RAM and the reserved stack."""
        return self.static_ram_bytes + self.stack_bytes


def read_sizes(elf: Path, board: Board) -> Sizes:
    """Sizes of `elf` on `board`, from its program headers and sections alone (no linker-script symbols).

    Raises ToolError where the file is no ELF.
    """
    try:
        with elf.open("rb") as stream:
            opened = ELFFile(stream)
            return _read_hosted(opened, board) if board.port.hosted else _read(opened, board)
    except (OSError, ELFError) as error:
        raise ToolError(f"cannot read firmware {elf}: {error}", hint="build it again") from error


def _inside(region: Region, address: int) -> bool:
    return region.origin <= address < region.origin + region.bytes


def _read(elf: ELFFile, board: Board) -> Sizes:
    flash, sram = board.memory.flash, board.memory.sram
    loaded = [
        segment["p_paddr"] + segment["p_filesz"]
        for segment in elf.iter_segments("PT_LOAD")
        if segment["p_filesz"] and _inside(flash, segment["p_paddr"])
    ]
    sections, ram_start, ram_end = {}, None, 0
    stack_bytes = 0
    for section in elf.iter_sections():
        if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC or not section["sh_size"]:
            continue
        sections[section.name] = section["sh_size"]
        if section.name == _STACK_SECTION:
            stack_bytes = section["sh_size"]
        elif _inside(sram, section["sh_addr"]):
            start = section["sh_addr"]
            ram_start = start if ram_start is None else min(ram_start, start)
            ram_end = max(ram_end, start + section["sh_size"])
    symbols = _symbols(elf)
    return Sizes(
        flash_bytes=max(loaded, default=flash.origin) - flash.origin,
        static_ram_bytes=ram_end - ram_start if ram_start is not None else 0,
        stack_bytes=stack_bytes,
        sections=sections,
        symbols=symbols,
        build_id=_build_id(elf, symbols),
    )


def _read_hosted(elf: ELFFile, board: Board) -> Sizes:
    """A program for an operating system, measured as firmware/port/host does: by the linker's own symbols."""
    sections = {
        section.name: section["sh_size"]
        for section in elf.iter_sections()
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section["sh_size"]
    }
    start, edata, data_start, end = _addresses(elf, "__executable_start", "edata", "data_start", "end")
    symbols = _symbols(elf)
    build_id = _build_id(elf, symbols)
    return Sizes(edata - start, end - data_start, board.stack_bytes, sections, symbols, build_id)


def _addresses(elf: ELFFile, *names: str) -> list[int]:
    table = elf.get_section_by_name(".symtab")
    found = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()} if table else {}
    if missing := [name for name in names if name not in found]:
        raise ELFError(f"no symbol {missing[0]}")
    return [found[name] for name in names]


def _symbols(elf: ELFFile) -> tuple[Symbol, ...]:
    table = elf.get_section_by_name(".symtab")
    if table is None:
        return ()
    kinds = {"STT_FUNC": "func", "STT_OBJECT": "object"}
    found = [
        Symbol(symbol.name, symbol["st_value"] & ~1 if kind == "STT_FUNC" else symbol["st_value"],
               symbol["st_size"], kinds[kind])
        for symbol in table.iter_symbols()
        if (kind := symbol["st_info"]["type"]) in kinds and symbol["st_size"]
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda symbol: (symbol.address, symbol.name)))


def _build_id(elf: ELFFile, symbols: tuple[Symbol, ...]) -> bytes:
    for symbol in symbols:
        if symbol.name == _BUILD_ID_SYMBOL:
            for section in elf.iter_sections():
                offset = symbol.address - section["sh_addr"]
                if section["sh_type"] == "SHT_PROGBITS" and 0 <= offset < section["sh_size"]:
                    return bytes(section.data()[offset : offset + symbol.bytes])
    return b""
