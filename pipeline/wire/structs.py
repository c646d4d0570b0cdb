"""How a message's declared fields become bytes, and declarations in C.

All integers are little-endian; structs have no padding.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self, get_type_hints

from pipeline.errors import LinkError

# A field's annotation has its struct format and its C type.
U8 = Annotated[int, "B", "uint8_t"]
U16 = Annotated[int, "H", "uint16_t"]
U32 = Annotated[int, "I", "uint32_t"]
U64 = Annotated[int, "Q", "uint64_t"]


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all payloads: fixed-size structs."""

    struct_name: ClassVar[str] = ""

    def pack(self) -> bytes:
        return _layout(type(self)).pack(*(getattr(self, f.name) for f in fields(self)))

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Raises LinkError where `payload` does not have the struct's size."""
        layout = _layout(cls)
        if len(payload) != layout.size:
            raise LinkError(f"{cls.__name__} has {layout.size} bytes, the device sent {len(payload)}")
        return cls(*layout.unpack(payload))

    @classmethod
    def size(cls) -> int:
        return _layout(cls).size


@dataclass(frozen=True, slots=True)
class VarintMessage(Message):
    """Base of payloads whose unsigned fields travel as LEB128 numbers: seven bits a byte, lowest first, bit 7
    set in all but the last. Most fields of an operator are small, so it takes half the bytes of a struct.
    """

    def pack(self) -> bytes:
        out = bytearray()
        for (_, code, _), field in zip(wire_fields(type(self)), fields(self), strict=True):
            value = getattr(self, field.name) & (1 << 8 * struct.calcsize(code)) - 1
            while value > 0x7F:
                out.append(value & 0x7F | 0x80)
                value >>= 7
            out.append(value)
        return bytes(out)

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        values, value, shift = [], 0, 0
        for byte in payload:
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                values.append(value)
                value = shift = 0
        codes = [code for _, code, _ in wire_fields(cls)]
        fits = len(values) == len(codes) and not shift
        if not fits or any(v >> 8 * struct.calcsize(c) for v, c in zip(values, codes, strict=True)):
            raise LinkError(f"{cls.__name__} is not what the device sent ({len(payload)} bytes)")
        return cls(*values)


_FIELDS: dict[str, tuple[tuple[str, str, str], ...]] = {}  # by struct name


def wire_fields(cls: type[Message]) -> tuple[tuple[str, str, str], ...]:
    """(field, struct format, C type) of each field in wire order."""
    if cls.struct_name in _FIELDS:
        return _FIELDS[cls.struct_name]
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for field in fields(cls):
        metadata: tuple[Any, ...] = hints[field.name].__metadata__
        found.append((field.name, metadata[0], metadata[1]))
    return _FIELDS.setdefault(cls.struct_name, tuple(found))


_LAYOUTS: dict[str, struct.Struct] = {}  # by struct name


def _layout(cls: type[Message]) -> struct.Struct:
    layout = _LAYOUTS.get(cls.struct_name)
    if layout is None:
        layout = struct.Struct("<" + "".join(code for _, code, _ in wire_fields(cls)))
        _LAYOUTS[cls.struct_name] = layout
    return layout


def c_fields(cls: type[Message]) -> list[str]:
    """C declarations of the struct's fields, e.g. `uint8_t build_id[8];`."""
    lines = []
    for name, _, ctype in wire_fields(cls):
        base, bracket, extent = ctype.partition("[")
        lines.append(f"{base} {name}{bracket}{extent};")
    return lines
