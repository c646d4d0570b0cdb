"""Flash images from an ELF: raw binary and Intel HEX, as the flashing tools want them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from pipeline.errors import ToolError

ERASED = 0xFF  # what flash reads after erasing
LARGEST_IMAGE_BYTES = 1 << 27  # sections in two far-apart memories would otherwise fill the disk
_HEX_ROW_BYTES = 16


@dataclass(frozen=True, slots=True)
class Image:
    """Bytes to be placed at `address`; gaps between segments hold the erased value."""

    address: int
    data: bytes

    def hex_lines(self) -> Iterator[str]:
        """Intel HEX records (I32HEX), without line ends."""
        upper = -1
        for offset in range(0, len(self.data), _HEX_ROW_BYTES):
            address = self.address + offset
            # a row never crosses 64 KiB: images start at multiples of 16
            if address >> 16 != upper:
                upper = address >> 16
                yield _record(0, 4, upper.to_bytes(2, "big"))
            yield _record(address & 0xFFFF, 0, self.data[offset : offset + _HEX_ROW_BYTES])
        yield _record(0, 1, b"")


def read_image(elf: Path) -> Image:
    """What `elf` loads, by physical address. Raises ToolError: no ELF, nothing to load, or absurdly spread."""
    try:
        with elf.open("rb") as stream:
            pieces = [
                (segment["p_paddr"], segment.data())
                for segment in ELFFile(stream).iter_segments("PT_LOAD")
                if segment["p_filesz"]
            ]
    except (OSError, ELFError) as error:
        raise ToolError(f"cannot read firmware {elf}: {error}", hint="build it again") from error
    if not pieces:
        raise ToolError(f"{elf} loads nothing", hint="is it an object file?")
    start = min(address for address, _ in pieces) & ~(_HEX_ROW_BYTES - 1)
    end = max(address + len(data) for address, data in pieces)
    if end - start > LARGEST_IMAGE_BYTES:
        raise ToolError(f"{elf} spreads over {end - start} bytes", hint="a raw image holds one memory only")
    flat = bytearray([ERASED]) * (end - start)
    for address, data in pieces:
        flat[address - start : address - start + len(data)] = data
    return Image(start, bytes(flat))


def write_bin(elf: Path, out: Path) -> Image:
    """Writes the raw image of `elf` to `out` and returns it."""
    image = read_image(elf)
    out.write_bytes(image.data)
    return image


def write_hex(elf: Path, out: Path) -> Image:
    """Writes the Intel HEX image of `elf` to `out` and returns it."""
    image = read_image(elf)
    out.write_text("".join(f"{line}\n" for line in image.hex_lines()), encoding="ascii")
    return image


def _record(address: int, kind: int, data: bytes) -> str:
    body = bytes([len(data)]) + address.to_bytes(2, "big") + bytes([kind]) + data
    return f":{body.hex().upper()}{-sum(body) & 0xFF:02X}"
