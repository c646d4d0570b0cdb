"""The benchmark firmware in QEMU: boots, counts, refuses, survives, computes what a host build computes."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.assets import asset_dir
from pipeline.boards import Board, load_board
from pipeline.engine import kernel_sources
from pipeline.errors import LinkError
from pipeline.firmware import Build, build, render_bench
from pipeline.links import Link, ProcessLink, open_link
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.wire import Client, Kind, Reason, RefusedError
from pipeline.wire.framing import Frame, FrameReader, encode
from pipeline.wire.messages import RESPONSE_BIT, NakReply, Op, RunOpRequest

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

OPS = [
    OpSpec("conv2d", 28, 28, 1, 14, 14, 16, 3, 3, 2, 2, 1, 1, 0, 0, 1, 1, activation="relu6"),
    OpSpec("conv2d", 9, 7, 5, 9, 7, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1),
    OpSpec("conv2d", 7, 7, 16, 7, 7, 24),
    OpSpec("depthwise_conv2d", 14, 14, 8, 14, 14, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1),
    OpSpec("depthwise_conv2d", 14, 14, 8, 7, 7, 8, 5, 5, 2, 2, 1, 1, 1, 1, 2, 2),
    OpSpec("depthwise_conv2d", 10, 10, 3, 8, 8, 6, 3, 3),
    OpSpec("fully_connected", 1, 1, 64, 1, 1, 10),
    OpSpec("add", 7, 7, 16, 7, 7, 16, in2_h=7, in2_w=7, in2_c=16),
    OpSpec("mul", 7, 7, 16, 7, 7, 16, in2_h=1, in2_w=1, in2_c=16),
    OpSpec("mean", 7, 7, 16, 1, 1, 16),
    OpSpec("avg_pool", 8, 8, 16, 4, 4, 16, 2, 2, 2, 2),
    OpSpec("max_pool", 8, 8, 16, 4, 4, 16, 2, 2, 2, 2),
    OpSpec("pad", 8, 8, 16, 10, 10, 16, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
    OpSpec("logistic", 1, 1, 32, 1, 1, 32),
    OpSpec("softmax", 1, 1, 10, 1, 1, 10),
]


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board("qemu-cortex-m4")


@pytest.fixture(scope="module")
def bench(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(render_bench(board, tmp_path_factory.mktemp("bench")), board)


@pytest.fixture()
def link(board: Board, bench: Build) -> Iterator[Link]:
    with open_link(board, bench.elf) as opened:
        yield opened


@pytest.fixture()
def client(link: Link) -> Client:
    client = Client(link)
    client.hello()
    return client


def test_says_who_it_is(link: Link, board: Board, bench: Build) -> None:
    hello = Client(link).hello()
    assert (hello.kind, hello.board, hello.fault_status) == (Kind.BENCH, board.name, 0)
    assert hello.build_id == bench.build_id
    assert len(bench.build_id) == 8


def test_device_and_elf_agree_on_memory(client: Client, bench: Build, board: Board) -> None:
    memory = client.memory()
    assert memory.static_bytes == bench.static_ram_bytes
    assert memory.stack_reserve_bytes == bench.stack_bytes == board.stack_bytes
    assert memory.flash_bytes == bench.flash_bytes
    assert 0 < memory.stack_used_bytes < memory.stack_reserve_bytes
    # and with binutils' own count
    elf = str(bench.elf)
    out = subprocess.run(["arm-none-eabi-size", elf], check=True, capture_output=True, text=True).stdout
    text, data, bss = map(int, out.splitlines()[1].split()[:3])
    assert bench.flash_bytes == text + data
    assert abs(data + bss - bench.sram_bytes) <= 8  # the padding between sections


def test_ticks_repeat_exactly(board: Board, bench: Build) -> None:
    runs = []
    for _ in range(2):
        with open_link(board, bench.elf) as opened:
            client = Client(opened)
            client.hello()
            runs.append([client.run_op(op, seed=3) for op in OPS])
    assert runs[0] == runs[1]
    assert all(reply.ticks > 0 for reply in runs[0])


def test_repetitions_add_up(client: Client) -> None:
    for op in OPS[:3]:
        once = client.run_op(op)
        # the timer counts 1.6 ticks an instruction, so a region may be off by one tick either way
        assert abs(client.run_op(op, repetitions=5).ticks - 5 * once.ticks) <= 5


def test_computes_what_a_host_build_computes(client: Client, board: Board, tmp_path: Path) -> None:
    """The same sources through another compiler for another machine, with the sanitizers on."""
    folder = render_bench(board, tmp_path)
    program = tmp_path / "bench-on-host"
    sources = [
        *map(str, kernel_sources()), str(folder / "bench/bench.c"),  # the portable kernels, the board may have others
        str(folder / "wire/frame.c"), str(folder / "wire/server.c"),
        str(asset_dir("firmware") / "port/host/port.c"),
    ]  # fmt: skip
    (tmp_path / "build_id.h").write_text("#define EDGENAS_BUILD_ID {0}\n")
    includes = [f"-I{folder / name}" for name in ("engine/include", "bench", "wire", "port", "")]
    command = ["gcc", "-O1", "-std=gnu11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-w"]
    subprocess.run([*command, *includes, *sources, "-o", str(program)], check=True, timeout=120)
    with ProcessLink(lambda fd: ["env", f"EDGENAS_WIRE_FD={fd}", str(program)], name="bench on host") as host:
        on_host = Client(host)
        on_host.hello()
        for op in OPS:
            for seed in (1, 2):
                device, expected = client.run_op(op, seed=seed), on_host.run_op(op, seed=seed)
                assert (device.output_crc, device.output_bytes) == (expected.output_crc, op.out_bytes), op.key
        assert client.run_op(OPS[0], seed=1).output_crc != client.run_op(OPS[0], seed=2).output_crc


def test_rows_beyond_16_bits_are_added_as_one_long_row(tmp_path: Path) -> None:
    """In memory both are the same; the taller one's rows are 38,400 elements apart."""
    board = load_board("host")
    built = build(render_bench(board, tmp_path), board)
    tall, long = (
        OpSpec("add", h, w, 64, h, w, 64, in2_h=h, in2_w=w, in2_c=64) for h, w in ((2, 600), (1, 1200))
    )
    with open_link(board, built.elf) as opened:
        client = Client(opened)
        client.hello()
        assert client.run_op(tall).output_crc == client.run_op(long).output_crc


def test_too_big_is_refused_with_the_bytes_needed(client: Client) -> None:
    for op in (
        OpSpec("conv2d", 128, 128, 64, 128, 128, 64),
        OpSpec("max_pool", 400, 400, 4, 200, 200, 4, 2, 2, 2, 2),
    ):
        with pytest.raises(RefusedError) as caught:
            client.run_op(op)
        assert caught.value.reason == Reason.TOO_BIG
        assert caught.value.detail >= op.in_bytes + op.out_bytes
    assert client.run_op(OPS[0]).ticks > 0


def test_bad_requests_are_refused(client: Client, link: Link) -> None:
    good = RunOpRequest.of(OPS[0], select(OPS[0]), seed=1, repetitions=1)
    request = good.pack()
    unknown = dataclasses.replace(good, kernel=99).pack()
    negative = dataclasses.replace(good, in_h=-5).pack()
    cases = [
        (Op.RUN_OP, unknown, Reason.UNKNOWN_KERNEL),
        (Op.RUN_OP, negative, Reason.BAD_ARGUMENT),
        (Op.RUN_OP, request[:-1], Reason.BAD_LENGTH),
        (Op.RUN_OP, request + b"\0", Reason.BAD_LENGTH),
        (Op.RUN_OP, request[:-1] + b"\xff\xff\xff\xff\x1f", Reason.BAD_LENGTH),  # beyond 32 bits
        (Op.INVOKE, b"", Reason.UNKNOWN_OP),
        (Op.MEMORY, b"x", Reason.BAD_LENGTH),
    ]
    for seq, (op, payload, reason) in enumerate(cases, 1000):
        link.write(encode(Frame(op, seq, payload)))
        reader, frames = FrameReader(), []
        while not frames:
            frames = reader.feed(link.read(5.0))
        nak = NakReply.unpack(frames[0].payload)
        assert (frames[0].op, frames[0].seq) == (Op.NAK | RESPONSE_BIT, seq)
        assert (nak.op, nak.reason) == (op, reason)


def test_damaged_frames_are_answered_and_survived(client: Client, link: Link) -> None:
    good = encode(Frame(Op.MEMORY, 7))
    damaged = bytearray(good)
    damaged[4] ^= 0x10
    for noise in (bytes(damaged), b"\0" + b"\x42" * 5000 + b"\0", b"\0\x01\0"):
        link.write(noise)
        reader, frames = FrameReader(), []
        while not frames:
            frames = reader.feed(link.read(5.0))
        assert NakReply.unpack(frames[0].payload).reason in (Reason.BAD_CRC, Reason.BAD_FRAME)
    assert client.memory().static_bytes > 0


def test_killed_emulator(client: Client, link: Link) -> None:
    assert isinstance(link, ProcessLink)
    os.kill(link.pid, signal.SIGKILL)
    with pytest.raises(LinkError) as caught:
        client.run_op(OPS[0])
    assert "SIGKILL" in caught.value.hint


def test_stopped_emulator_is_a_hang(bench: Build, board: Board) -> None:
    with open_link(board, bench.elf) as opened:
        assert isinstance(opened, ProcessLink)
        client = Client(opened, patience_s=1.0)
        client.hello()
        os.kill(opened.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(LinkError, match="hangs"):
            client.memory()
        assert time.monotonic() - started < 5.0


def test_reset_starts_over(client: Client) -> None:
    client.run_op(OPS[0])
    assert client.reset().fault_status == 0
    assert client.run_op(OPS[0]).ticks > 0


def test_hundred_operators_in_seconds(client: Client) -> None:
    started = time.monotonic()
    for seed in range(100):
        client.run_op(OPS[-1], seed=seed)
    assert time.monotonic() - started < 10.0
