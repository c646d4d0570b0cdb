"""The firmware's codec and header, compiled for the host, against the Python end."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cobs import cobs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.assets import asset_dir
from pipeline.firmware.render import wire_header
from pipeline.wire import messages, structs
from pipeline.wire.framing import Frame, FrameReader, encode
from pipeline.wire.messages import MAX_PAYLOAD_BYTES, MESSAGES

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

# Feeds each length-prefixed chunk of stdin to the decoder; for every event prints a status byte and, after a
# complete frame, sends it back re-encoded.
ECHO = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "frame.h"
static uint8_t out[8192];
static size_t used;
static void write_out(const uint8_t *data, size_t count) { memcpy(out + used, data, count); used += count; }
int main(void) {
    static frame_decoder_t decoder;
    static uint8_t body[FRAME_BODY_BYTES];
    uint8_t prefix[4];
    while (fread(prefix, 1, 4, stdin) == 4) {
        uint32_t count = prefix[0] | prefix[1] << 8 | prefix[2] << 16 | (uint32_t)prefix[3] << 24;
        used = 0;
        uint8_t broken = 0;
        while (count-- > 0) {
            int byte = getchar();
            int state = frame_feed(&decoder, (uint8_t)byte);
            if (state == FRAME_COMPLETE) {
                memcpy(body, decoder.body, sizeof body);
                uint16_t seq = (uint16_t)(body[1] | body[2] << 8);
                frame_send(body, body[0], seq, decoder.payload_bytes, write_out);
            } else if (state != FRAME_PENDING) {
                ++broken;
            }
        }
        uint8_t head[5] = {broken, used & 255, used >> 8 & 255, used >> 16 & 255, 0};
        fwrite(head, 1, 5, stdout);
        fwrite(out, 1, used, stdout);
        fflush(stdout);
    }
    return 0;
}
"""


def compile_host(folder: Path, source: str, name: str) -> Path:
    (folder / "wire.h").write_text(wire_header())
    (folder / f"{name}.c").write_text(source)
    wire = asset_dir("firmware") / "wire"
    command = [
        "gcc", "-std=c11", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall",
        "-Wextra", "-Werror", f"-I{folder}", f"-I{wire}", str(folder / f"{name}.c"), str(wire / "frame.c"),
        "-o", str(folder / name),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return folder / name


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], tuple[int, bytes]]]:
    program = compile_host(tmp_path_factory.mktemp("echo"), ECHO, "echo")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def exchange(stream: bytes) -> tuple[int, bytes]:
            """(broken frames, bytes sent back)"""
            stdin.write(struct.pack("<I", len(stream)) + stream)
            stdin.flush()
            head = stdout.read(5)
            return head[0], stdout.read(int.from_bytes(head[1:5], "little"))

        yield exchange
        stdin.close()
        assert process.wait(10) == 0  # the sanitizers found nothing


frames = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 0xFFFF),
    # long runs without a zero and many zeros both matter to COBS
    st.one_of(st.binary(max_size=MAX_PAYLOAD_BYTES),
              st.integers(0, MAX_PAYLOAD_BYTES).map(lambda n: b"\x07" * n),
              st.integers(0, MAX_PAYLOAD_BYTES).map(bytes)),
)  # fmt: skip
bit_flips = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=3)
noises = st.one_of(st.binary(max_size=3000), st.integers(0, 3000).map(lambda n: b"\xff" * n))
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@relaxed
@given(frame=frames)
def test_device_decodes_and_encodes_as_the_host(device: Callable, frame: Frame) -> None:
    broken, back = device(encode(frame))
    assert broken == 0
    assert FrameReader().feed(back) == [frame]
    # and as the COBS package does
    body = struct.pack("<BH", frame.op, frame.seq) + frame.payload
    assert cobs.decode(back[1:-1]) == body + struct.pack("<I", zlib.crc32(body))


@relaxed
@given(frame=frames, flips=bit_flips)
def test_device_takes_no_damaged_frame(device: Callable, frame: Frame, flips: list[tuple[int, int]]) -> None:
    encoded = bytearray(encode(frame))
    for position, bit in flips:
        encoded[1 + position % (len(encoded) - 2)] ^= 1 << bit
    broken, back = device(bytes(encoded))
    if bytes(encoded) == encode(frame):  # two flips of the same bit
        assert (broken, FrameReader().feed(back)) == (0, [frame])
    else:
        assert broken >= 1
        assert back == b""


@relaxed
@given(noise=noises, frame=frames)
def test_device_survives_noise(device: Callable, noise: bytes, frame: Frame) -> None:
    device(noise)
    _, back = device(encode(frame))
    assert FrameReader().feed(back) == [frame]


def test_header_has_the_hosts_layouts_and_codes(tmp_path: Path) -> None:
    lines = []
    expected = {}
    for message in MESSAGES:
        struct_type = f"wire_{message.struct_name}_t"
        lines.append(f'printf("%s %zu\\n", "{struct_type}", sizeof({struct_type}));')
        expected[struct_type] = message.size()
        # a field's offset is the size of all that stand before it
        codes = [code for _, code, _ in structs.wire_fields(message)]
        for i, (name, _, _) in enumerate(structs.wire_fields(message)):
            key = f"{struct_type}.{name}"
            lines.append(f'printf("%s %zu\\n", "{key}", offsetof({struct_type}, {name}));')
            expected[key] = struct.calcsize("<" + "".join(codes[:i]))
    for enum, prefix in ((messages.Op, "OP"), (messages.Kind, "KIND"), (messages.Reason, "REASON"),
                         (messages.Verdict, "VERDICT")):  # fmt: skip
        for item in enum:
            name = f"WIRE_{prefix}_{item.name}"
            lines.append(f'printf("%s %d\\n", "{name}", {name});')
            expected[name] = int(item)
    for name in (
        "PROTOCOL_VERSION",
        "CHUNK_BYTES",
        "INLINE_BYTES",
        "MAX_PAYLOAD_BYTES",
        "RESPONSE_BIT",
        "BUILD_ID_BYTES",
    ):
        lines.append(f'printf("%s %d\\n", "WIRE_{name}", (int)WIRE_{name});')
        expected[f"WIRE_{name}"] = getattr(messages, name)
    body = "\n".join(lines)
    headers = '#include <stddef.h>\n#include <stdio.h>\n#include "wire.h"\n'
    source = f"{headers}int main(void) {{\n{body}\nreturn 0;\n}}\n"
    program = compile_host(tmp_path, source, "layout")
    text = subprocess.run([program], check=True, capture_output=True, text=True, timeout=10).stdout
    assert {k: int(v) for k, v in (line.split() for line in text.splitlines())} == expected
