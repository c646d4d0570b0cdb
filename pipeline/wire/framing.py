"""Frames: `0x00 | COBS(op u8, seq u16, payload, CRC-32 little-endian) | 0x00`."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from cobs import cobs

from pipeline.wire.messages import MAX_PAYLOAD_BYTES

HEADER = struct.Struct("<BH")
OVERHEAD_BYTES = HEADER.size + 4
# COBS adds one byte, and one more per 254
MAX_ENCODED_BYTES = MAX_PAYLOAD_BYTES + OVERHEAD_BYTES + 1 + (MAX_PAYLOAD_BYTES + OVERHEAD_BYTES) // 254

_NOISE_BYTES = 40


@dataclass(frozen=True, slots=True)
class Frame:
    op: int
    seq: int
    payload: bytes = b""


class FrameError(ValueError):
    """Bytes between two delimiters that are not a frame."""


def encode(frame: Frame) -> bytes:
    """The bytes of `frame` on the wire; raises FrameError where the payload exceeds MAX_PAYLOAD_BYTES."""
    if len(frame.payload) > MAX_PAYLOAD_BYTES:
        raise FrameError(f"payload of {len(frame.payload)} bytes, at most {MAX_PAYLOAD_BYTES}")
    body = HEADER.pack(frame.op, frame.seq) + frame.payload
    return b"\0" + cobs.encode(body + struct.pack("<I", zlib.crc32(body))) + b"\0"


def decode(encoded: bytes) -> Frame:
    """The frame in `encoded`, delimiters left out; raises FrameError for anything damaged."""
    try:
        body = cobs.decode(encoded)
    except cobs.DecodeError as error:
        raise FrameError(f"not COBS: {error}") from error
    if not OVERHEAD_BYTES <= len(body) <= OVERHEAD_BYTES + MAX_PAYLOAD_BYTES:
        raise FrameError(f"{len(body)} bytes is no frame's length")
    if zlib.crc32(body[:-4]) != int.from_bytes(body[-4:], "little"):
        raise FrameError("CRC-32 differs")
    op, seq = HEADER.unpack_from(body)
    return Frame(op, seq, body[HEADER.size : -4])


class FrameReader:
    """Cuts a byte stream into frames; damaged ones are counted and dropped.

    `noise` keeps the end of the last piece that was no frame, for messages.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self.complete = 0
        self.damaged = 0
        self.noise = b""

    def feed(self, data: bytes) -> list[Frame]:
        frames = []
        *complete, rest = (bytes(self._pending) + data).split(b"\0")
        # without a delimiter in sight, only as much is kept as a frame can be long
        self._pending = bytearray(rest[-(MAX_ENCODED_BYTES + 1) :])
        for encoded in filter(None, complete):
            try:
                frames.append(decode(encoded))
            except FrameError:
                self.damaged += 1
                self.noise = encoded[-_NOISE_BYTES:]
        self.complete += len(frames)
        return frames

    def strange(self) -> bytes:
        """What came in, if bytes did but not one frame; else nothing."""
        return b"" if self.complete else self.noise or bytes(self._pending[-_NOISE_BYTES:])
