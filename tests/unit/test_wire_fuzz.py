"""A million random and mutated frames against both decoders: no crash, no hang, nothing accepted that is not valid.

What is valid is told by the COBS package, zlib and the protocol's sizes alone. EDGENAS_FUZZ_FRAMES sets another number.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cobs import cobs

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.engine import kernel_sources
from pipeline.errors import LinkError
from pipeline.firmware import render_bench
from pipeline.firmware.render import wire_header
from pipeline.links import ProcessLink
from pipeline.space.kernels import KernelChoice
from pipeline.space.opspec import OpSpec
from pipeline.wire.framing import Frame, FrameError, FrameReader, decode, encode
from pipeline.wire.messages import (
    MAX_PAYLOAD_BYTES,
    MESSAGES,
    RESPONSE_BIT,
    NakReply,
    Op,
    Reason,
    RunOpRequest,
)

FRAMES = int(os.environ.get("EDGENAS_FUZZ_FRAMES", "1000000"))
BATCH = 20_000
SHORTEST, LONGEST = 7, 7 + MAX_PAYLOAD_BYTES

# Feeds stdin to the decoder; for each frame that it accepts prints its length (2 bytes), op, seq and payload,
# and at the end how many pieces it refused (4 bytes).
HARNESS = r"""
#include <stdio.h>
#include "frame.h"
int main(void) {
    static frame_decoder_t decoder;
    uint32_t refused = 0;
    for (int byte; (byte = getchar_unlocked()) != EOF;) {
        const int state = frame_feed(&decoder, (uint8_t)byte);
        if (state == FRAME_COMPLETE) {
            const uint32_t length = FRAME_HEADER_BYTES + decoder.payload_bytes;
            const uint8_t head[2] = {length & 255u, length >> 8};
            fwrite(head, 1, sizeof head, stdout);
            fwrite(decoder.body, 1, length, stdout);
        } else if (state != FRAME_PENDING) {
            ++refused;
        }
    }
    const uint8_t tail[6] = {0, 0, refused & 255u, refused >> 8 & 255u, refused >> 16 & 255u, refused >> 24};
    fwrite(tail, 1, sizeof tail, stdout);
    return 0;
}
"""

# For each length-prefixed payload on stdin prints 1 and the fields, or 0.
VARINTS = r"""
#include <stdio.h>
#include <stdlib.h>
#include "frame.h"
#define FIELDS (sizeof(wire_run_op_request_t) / sizeof(uint32_t))
int main(void) {
    uint8_t size[2];
    while (fread(size, 1, 2, stdin) == 2) {
        const uint32_t count = size[0] | (uint32_t)size[1] << 8;
        uint8_t *payload = malloc(count + !count); /* of this size, so that a byte too far is caught */
        uint32_t fields[FIELDS];
        if (fread(payload, 1, count, stdin) != count) {
            return 1;
        }
        const uint8_t taken = (uint8_t)varint_read(payload, count, fields, FIELDS);
        putchar(taken);
        if (taken) {
            uint8_t again[10 * FIELDS], *end = again;
            for (uint32_t i = 0; i < FIELDS; ++i) {
                end = varint_write(end, fields[i]);
            }
            fwrite(fields, 1, sizeof fields, stdout);
            putchar((int)(end - again));
            fwrite(again, 1, (size_t)(end - again), stdout);
        }
        free(payload);
    }
    return 0;
}
"""


def valid(piece: bytes) -> bytes | None:
    """op, seq and payload, if what stands between two delimiters is a frame."""
    try:
        body = cobs.decode(piece)
    except cobs.DecodeError:
        return None
    if not SHORTEST <= len(body) <= LONGEST or zlib.crc32(body[:-4]) != struct.unpack("<I", body[-4:])[0]:
        return None
    return body[:-4]


def random_body(draw: random.Random) -> bytes:
    """op, seq and payload of a frame: usual ones, empty ones, long ones, all zeros, no zeros, too long ones."""
    kind = draw.randrange(12)
    if kind < 5:
        size = draw.choice(MESSAGES).size()
    elif kind < 8:
        size = draw.randrange(48)
    elif kind < 11:
        size = 0
    else:
        size = draw.choice(
            (512, 516, MAX_PAYLOAD_BYTES - 1, MAX_PAYLOAD_BYTES, 247, 248, 249, 250, 502, 503, 504)
        )
    head = bytes((draw.choice(list(Op)) if draw.random() < 0.8 else draw.randrange(256),)) + draw.randbytes(2)
    style = draw.randrange(4)
    if style == 0:
        return head + bytes(size)
    if style == 1:
        return head + b"\x01" * size
    return head + draw.randbytes(size)


def piece_of(draw: random.Random) -> bytes:
    """What stands between two delimiters: a frame, or something that looks like one."""
    kind = draw.randrange(16)
    if kind == 0:  # noise
        return draw.randbytes(draw.randrange(1, 40))
    if kind == 1:  # a good sum over a bad length
        body = draw.randbytes(draw.choice((0, 1, 2, LONGEST - 3, LONGEST - 2, LONGEST, 600, 1200)))
        return cobs.encode(body + struct.pack("<I", zlib.crc32(body)))
    if kind == 2:  # COBS codes that point too far, or nowhere
        return draw.choice(
            (b"\xff", b"\xff" * draw.randrange(1, 700), b"\x01" * draw.randrange(1, 700), b"\x02")
        )
    body = random_body(draw)
    sent = cobs.encode(body + struct.pack("<I", zlib.crc32(body)))
    if kind == 3:  # a piece is missing
        cut = draw.randrange(len(sent))
        return sent[:cut] + sent[cut + draw.randrange(1, 4) :]
    if kind == 4:  # a frame within a frame
        at = draw.randrange(len(sent))
        return sent[:at] + sent + sent[at:]
    return sent


def streams(count: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Byte streams that hold `count` pieces in all, and how many each holds."""
    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    while count > 0:
        here = min(count, BATCH)
        # pieces are drawn once and used several times: each copy is mutated on its own
        drawn = [piece_of(draw) for _ in range(here // 5 + 1)]
        chosen = [drawn[i] for i in numbers.integers(0, len(drawn), here)]
        stream = np.frombuffer(b"\0" + b"\0".join(chosen) + b"\0", np.uint8).copy()
        # one mutation in some 200 bytes, of each kind
        hits = numbers.random(stream.size) < 1 / 200
        stream[hits] ^= (1 << numbers.integers(0, 8, int(hits.sum()))).astype(np.uint8)
        hits = numbers.random(stream.size) < 1 / 400
        stream[hits] = numbers.integers(0, 256, int(hits.sum()), dtype=np.uint8)
        keep = numbers.random(stream.size) > 1 / 400
        stream = np.repeat(stream[keep], 1 + (numbers.random(int(keep.sum())) < 1 / 400))
        # longer than any frame without a delimiter
        if draw.random() < 0.3:
            stream = np.append(stream, numbers.integers(1, 256, 3000, dtype=np.uint8))
        yield bytes(stream) + b"\0", here
        count -= here


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("fuzz")
    return compile_sanitized(folder, HARNESS, "harness")


def compile_sanitized(folder: Path, source: str, name: str) -> Path:
    (folder / "wire.h").write_text(wire_header())
    (folder / f"{name}.c").write_text(source)
    wire = asset_dir("firmware") / "wire"
    command = [
        "gcc", "-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall",
        "-Wextra", "-Werror", f"-I{folder}", f"-I{wire}", str(folder / f"{name}.c"), str(wire / "frame.c"), "-o",
        str(folder / name),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return folder / name


def by_device(harness: Path, stream: bytes) -> tuple[list[bytes], int]:
    """Frames that the firmware's decoder accepts, and how many pieces it refuses."""
    done = subprocess.run([harness], input=stream, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    accepted, at, out = [], 0, done.stdout
    while size := int.from_bytes(out[at : at + 2], "little"):
        accepted.append(out[at + 2 : at + 2 + size])
        at += 2 + size
    assert len(out) == at + 6
    return accepted, int.from_bytes(out[at + 2 :], "little")


def body_of(frame: Frame) -> bytes:
    return struct.pack("<BH", frame.op, frame.seq) + frame.payload


@pytest.mark.timeout(600)
def test_a_million_frames(harness: Path) -> None:
    good = bad = 0
    started = time.monotonic()
    reader = FrameReader()
    for number, (stream, _) in enumerate(streams(FRAMES, seed=2024)):
        pieces = [piece for piece in stream.split(b"\0") if piece]
        expected = [body for piece in pieces if (body := valid(piece)) is not None]
        damaged = reader.damaged
        # the host's, in portions as a link would deliver them
        cuts = [0, *range(7 + number % 11, len(stream), 4096), len(stream)]
        found = [frame for a, b in itertools.pairwise(cuts) for frame in reader.feed(stream[a:b])]
        assert [body_of(frame) for frame in found] == expected
        assert reader.damaged - damaged == len(pieces) - len(expected)
        assert by_device(harness, stream) == (expected, len(pieces) - len(expected))
        good, bad = good + len(expected), bad + len(pieces) - len(expected)
    # mutations add and remove delimiters, so the pieces are about as many as were made; both kinds are common
    assert 0.9 * FRAMES < good + bad < 1.3 * FRAMES
    assert good > 0.2 * FRAMES and bad > 0.2 * FRAMES
    print(f"{good + bad:,} pieces, {good:,} of them frames, in {time.monotonic() - started:.1f} s")


def test_single_pieces_through_the_hosts_decode() -> None:
    """`decode` alone: it raises FrameError, and nothing else, for whatever is no frame."""
    draw = random.Random(7)
    for _ in range(20_000):
        piece = piece_of(draw)
        if b"\0" in piece:
            continue
        try:
            found: bytes | None = body_of(decode(piece))
        except FrameError:
            found = None
        assert found == valid(piece)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_both_ends_take_the_same_operators(tmp_path: Path) -> None:
    """RUN_OP's numbers of varying length: right ones, cut, mutated, too many, too big."""
    program = compile_sanitized(tmp_path, VARINTS, "varints")
    draw, fields = random.Random(11), RunOpRequest.size() // 4
    payloads = []
    for _ in range(50_000):
        payload = bytearray(
            RunOpRequest(*(draw.getrandbits(draw.choice((3, 7, 8, 16, 32))) for _ in range(fields))).pack()
        )
        match draw.randrange(5):
            case 0:
                payload[draw.randrange(len(payload))] ^= 0x80
            case 1:
                payload = payload[: draw.randrange(len(payload))]
            case 2:
                payload += draw.randbytes(draw.randrange(1, 9))
            case 3:
                payload = bytearray(draw.randbytes(draw.randrange(300)))
        payloads.append(bytes(payload))
    sent = b"".join(struct.pack("<H", len(payload)) + payload for payload in payloads)
    done = subprocess.run([program], input=sent, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    out, taken = io.BytesIO(done.stdout), 0
    for payload in payloads:
        try:
            expected: RunOpRequest | None = RunOpRequest.unpack(payload)
        except LinkError:
            expected = None
        assert out.read(1) == bytes([expected is not None])
        if expected is not None:
            taken += 1
            assert RunOpRequest(*struct.unpack(f"<{fields}I", out.read(4 * fields))) == expected
            assert out.read(out.read(1)[0]) == expected.pack()
    assert out.read() == b""
    assert 5_000 < taken < 45_000


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_server_answers_every_intact_frame_and_stays_up(tmp_path: Path) -> None:
    """The benchmark firmware on the host, under the sanitizers: any op, any payload, with a good sum."""
    folder = render_bench(load_board("qemu-cortex-m4"), tmp_path)
    (folder / "build_id.h").write_text("#define EDGENAS_BUILD_ID {0}\n")
    sources = [
        *map(str, kernel_sources()),
        *(str(folder / name) for name in ("bench/bench.c", "wire/frame.c", "wire/server.c")),
        str(asset_dir("firmware") / "port/host/port.c"),
    ]  # fmt: skip
    includes = [f"-I{folder / name}" for name in ("engine/include", "bench", "wire", "port", "")]
    program = folder / "server"
    command = ["gcc", "-O1", "-std=gnu11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-w"]
    subprocess.run([*command, *includes, *sources, "-o", str(program)], check=True, timeout=120)
    draw = random.Random(5)
    good = RunOpRequest.of(
        OpSpec("softmax", 1, 1, 10, 1, 1, 10), KernelChoice("edgenas_softmax"), seed=1, repetitions=1
    )
    with ProcessLink(lambda fd: ["env", f"EDGENAS_WIRE_FD={fd}", str(program)], name="server") as link:
        reader, greeted = FrameReader(), False
        for seq in range(10_000):
            op = draw.choice([*Op, draw.randrange(256)])
            payload = draw.randbytes(draw.choice((0, 0, 1, 4, 8, 25, draw.randrange(MAX_PAYLOAD_BYTES + 1))))
            if op == Op.RUN_OP and draw.random() < 0.5:
                payload = good.pack()
            if op == Op.RESET:
                payload = b"x"  # refused; the host's port would end
            link.write(encode(Frame(op, seq & 0xFFFF, payload)))
            frames: list[Frame] = []
            while not frames:
                frames = reader.feed(link.read(10.0))
            (frame,) = frames
            assert frame.seq == seq & 0xFFFF and frame.op in (op | RESPONSE_BIT, Op.NAK | RESPONSE_BIT)
            greeted = greeted or op == Op.HELLO
            if frame.op == Op.NAK | RESPONSE_BIT:
                nak = NakReply.unpack(frame.payload)
                assert nak.op == op and nak.reason in list(Reason)
                assert (nak.reason == Reason.NOT_GREETED) == (not greeted and op not in (Op.FAULT, Op.RESET))
            else:
                assert greeted or op == Op.FAULT
        assert reader.damaged == 0
