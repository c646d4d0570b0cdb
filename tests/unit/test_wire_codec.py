"""Frames: round trips, damage, and the message layouts against independent packing."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LinkError
from pipeline.space.kernels import KERNELS, KernelChoice
from pipeline.space.opspec import OpSpec
from pipeline.wire.framing import Frame, FrameError, FrameReader, decode, encode
from pipeline.wire.messages import (
    MAX_PAYLOAD_BYTES,
    MESSAGES,
    CheckReply,
    HelloReply,
    RunOpReply,
    RunOpRequest,
)
from pipeline.wire.structs import c_fields

frames = st.builds(Frame, st.integers(0, 255), st.integers(0, 0xFFFF), st.binary(max_size=MAX_PAYLOAD_BYTES))


def cobs_by_the_paper(data: bytes) -> bytes:
    """Cheshire and Baker (1999), section 3, written out byte by byte."""
    out, block = bytearray(), bytearray()
    for byte in data + b"\0":
        if byte == 0:
            out += bytes([len(block) + 1]) + block
            block.clear()
            continue
        block.append(byte)
        if len(block) == 254:
            out += b"\xff" + block
            block.clear()
    return bytes(out)


def test_known_frame() -> None:
    # CRC-32's check value (ITU-T V.42; "123456789" gives 0xCBF43926)
    assert zlib.crc32(b"123456789") == 0xCBF43926
    body = b"\x01\x00\x03abc" + bytes(600)[: MAX_PAYLOAD_BYTES - 3]
    crc = struct.pack("<I", zlib.crc32(body))
    assert encode(Frame(1, 0x0300, body[3:])) == b"\0" + cobs_by_the_paper(body + crc) + b"\0"


@given(frames)
def test_round_trip(frame: Frame) -> None:
    encoded = encode(frame)
    assert encoded[0] == encoded[-1] == 0
    assert 0 not in encoded[1:-1]
    assert decode(encoded[1:-1]) == frame


@given(st.lists(frames, max_size=4), st.integers(1, 50))
def test_reader_finds_frames_whatever_the_pieces(sent: list[Frame], piece: int) -> None:
    stream = b"".join(map(encode, sent))
    reader = FrameReader()
    found = [f for i in range(0, len(stream), piece) for f in reader.feed(stream[i : i + piece])]
    assert found == sent
    assert reader.damaged == 0


@given(frames, st.data())
def test_no_damaged_frame_is_taken(frame: Frame, data: st.DataObject) -> None:
    encoded = bytearray(encode(frame))
    position = data.draw(st.integers(1, len(encoded) - 2))
    encoded[position] ^= 1 << data.draw(st.integers(0, 7))
    reader = FrameReader()
    assert reader.feed(bytes(encoded)) == []
    assert reader.damaged >= 1
    # and the next one is
    assert reader.feed(encode(frame)) == [frame]


@given(st.binary(max_size=4000), frames)
def test_reader_survives_noise(noise: bytes, frame: Frame) -> None:
    reader = FrameReader()
    reader.feed(noise)
    assert reader.feed(encode(frame))[-1:] == [frame]


def test_oversized_payload_is_refused() -> None:
    with pytest.raises(FrameError, match="at most"):
        encode(Frame(1, 1, bytes(MAX_PAYLOAD_BYTES + 1)))


def test_run_op_request_is_the_opspec_in_its_order() -> None:
    op = OpSpec("depthwise_conv2d", *range(1, 20), activation="relu6")
    choice = KernelChoice(KERNELS[3], scratch_bytes=1234)
    request = RunOpRequest.of(op, choice, seed=77, repetitions=2)
    # LEB128: 1234 = 9 * 128 + 82
    assert request.pack() == bytes([3, 2, 77, 0x80 | 82, 9, 1, *range(1, 20), 2])
    assert RunOpRequest.unpack(request.pack()) == request


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3))
def test_varints_round_trip(ticks: int, others: list[int]) -> None:
    reply = RunOpReply(ticks, *others)
    assert RunOpReply.unpack(reply.pack()) == reply
    assert len(reply.pack()) == sum(max(1, -(-n.bit_length() // 7)) for n in (ticks, *others))


@pytest.mark.parametrize(
    "payload",
    [b"", b"\1\1\1", b"\1\1\1\1\1", b"\1\1\1\x81", b"\1\1\1\xff\xff\xff\xff\x1f", b"\x80" * 500],
)
def test_bad_varints_are_refused(payload: bytes) -> None:
    with pytest.raises(LinkError, match="RunOpReply"):
        RunOpReply.unpack(payload)


def test_reply_of_another_size_is_refused() -> None:
    with pytest.raises(LinkError, match="HelloReply"):
        HelloReply.unpack(b"\0" * (HelloReply.size() - 1))


def test_layouts() -> None:
    assert HelloReply.size() == 2 + 1 + 1 + 8 + 24 + 4 + 4
    assert "uint8_t build_id[8];" in c_fields(HelloReply)
    assert CheckReply(*range(8)).pack() == struct.pack("<8I", *range(8))
    names = [m.struct_name for m in MESSAGES]
    assert len(set(names)) == len(names)
    assert all(m.size() <= MAX_PAYLOAD_BYTES for m in MESSAGES)


def test_a_measurement_takes_few_bytes_on_the_wire() -> None:
    """For the whole table that ships; benchmarks/results/wire_bytes.md is its output.

    At 115,200 baud the bytes once took less time than the operators; since kernels got faster they take more.
    """
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "wire_bytes.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    everything = next(line for line in done.stdout.splitlines() if line.startswith("| **all** |"))
    assert float(everything.split("|")[6]) < 60  # bytes a run, there and back
    taken = re.search(r"The bytes take ([\d.]+) s", done.stdout)
    assert taken is not None and float(taken[1]) < 4.5
