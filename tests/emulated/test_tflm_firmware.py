"""The interpreter's firmware in QEMU, wherever a library is supplied: see docs/tflm.md."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.boards import load_board
from pipeline.errors import ToolError
from pipeline.export.reference import TflmReference
from pipeline.firmware.build import Build
from pipeline.links import Link, open_link
from pipeline.profiler.calibration import window
from pipeline.profiler.footprint import sample_graph, sample_network
from pipeline.profiler.tflm import TflmSession
from pipeline.space.budgets import Budgets
from pipeline.space.opspec import OP_KINDS, OpSpec
from pipeline.tflm import TflmDevice, find_library, operator_model
from pipeline.tflm.firmware import build_tflm, region_bytes
from pipeline.validate.tflm import validate_tflm
from pipeline.wire import Client, Kind, Op, Reason, RefusedError
from pipeline.wire.messages import CHUNK_BYTES, LoadModelRequest, PrepareRequest

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(
        not os.environ.get("TFLM_ROOT"),
        reason="TFLM_ROOT is not set: the firmware with TensorFlow Lite Micro is NOT tested here (docs/tflm.md)",
    ),
    pytest.mark.skipif(shutil.which("ninja") is None, reason="needs cmake and ninja"),
]

CONV = window("conv2d", 9, 7, 5, 6, (3, 3), 2)
OPERATORS = [
    CONV,
    window("conv2d", 7, 7, 16, 24, (1, 1), 1),
    OpSpec("conv2d", 8, 8, 4, 6, 6, 8, 3, 3, activation="relu6"),
    window("depthwise_conv2d", 8, 8, 4, 4, (5, 5), 1),
    OpSpec("fully_connected", 1, 1, 64, 1, 1, 10),
    OpSpec("add", 7, 7, 16, 7, 7, 16, in2_h=7, in2_w=7, in2_c=16),
    OpSpec("mul", 7, 7, 16, 7, 7, 16, in2_h=1, in2_w=1, in2_c=16),
    OpSpec("mean", 7, 5, 16, 1, 1, 16),
    window("avg_pool", 9, 7, 9, 9, (3, 3), 2),
    window("max_pool", 8, 8, 16, 16, (2, 2), 2),
    OpSpec("pad", 8, 8, 16, 10, 9, 16, pad_top=1, pad_left=1, pad_bottom=1),
    OpSpec("logistic", 1, 1, 33, 1, 1, 33),
    OpSpec("hard_swish", 4, 4, 8, 4, 4, 8),
    OpSpec("softmax", 1, 1, 10, 1, 1, 10),
    OpSpec("reshape", 4, 4, 8, 1, 1, 128),
]
TARGETS = [
    ("qemu-cortex-m4", "tflm"),
    ("qemu-cortex-m4", "tflm-cmsis-nn"),
    ("qemu-cortex-m7", "tflm"),
    ("qemu-rv32", "tflm"),
]


class Firmware:
    """A board, an engine, and the firmware built for them."""

    def __init__(self, name: str, engine: str, folder: Path) -> None:
        self.board, self.engine, self.folder = load_board(name), engine, folder
        self.built: Build = build_tflm(self.board, find_library(self.board, engine), folder)

    def open(self) -> Link:
        return open_link(self.board, self.built.elf)


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: "-".join(target))
def firmware(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Firmware:
    name, engine = request.param
    board = load_board(name)
    assert board.emulator is not None
    for program in (board.emulator.program, f"{board.core.toolchain}g++"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    try:
        find_library(board, engine)
    except ToolError as error:
        pytest.skip(f"{error.message}: {name} with {engine} is NOT tested here ({error.hint})")
    return Firmware(name, engine, tmp_path_factory.mktemp(f"{name}-{engine}"))


@pytest.fixture()
def link(firmware: Firmware) -> Iterator[Link]:
    with firmware.open() as opened:
        yield opened


def test_all_kinds_are_tried() -> None:
    assert {op.kind for op in OPERATORS} == set(OP_KINDS)


def test_says_who_it_is(link: Link, firmware: Firmware) -> None:
    client = Client(link)
    hello = client.hello(build_id=firmware.built.build_id)
    assert (hello.kind, hello.board, hello.fault_status) == (Kind.TFLM, firmware.board.name, 0)
    assert client.describe().pool_bytes == region_bytes(firmware.board)
    memory = client.memory()
    assert memory.static_bytes == firmware.built.static_ram_bytes
    assert memory.flash_bytes == firmware.built.flash_bytes


def test_no_constructors_are_waiting(firmware: Firmware) -> None:
    """The start-up code runs none; the interpreter is constructed on first use."""
    from elftools.elf.elffile import ELFFile

    with firmware.built.elf.open("rb") as stream:
        sizes = {s.name: s["sh_size"] for s in ELFFile(stream).iter_sections()}
    assert not any(size for name, size in sizes.items() if name.startswith((".init_array", ".ctors")))


def test_every_operator_byte_for_byte(link: Link) -> None:
    """One boot, many models; the reference is the wheel."""
    device = TflmDevice(link)
    for op in OPERATORS:
        model = operator_model(op, seed=2)
        x = np.random.default_rng(3).integers(-128, 128, (1, op.in_h, op.in_w, op.in_c)).astype(np.int8)
        prepared = device.load(model)
        assert (prepared.input_bytes, prepared.output_bytes, prepared.layers) == (
            op.in_bytes,
            op.out_bytes,
            1,
        )
        result = device.invoke(x)
        assert result.output == TflmReference(model).run(x).tobytes(), op.key
        (layer,) = device.layer_ticks()
        assert 0 < layer < result.ticks
    assert device.memory().stack_used_bytes < device.memory().stack_reserve_bytes


def test_whole_network(link: Link) -> None:
    model, layers = sample_network(sample_graph()), len(sample_graph().nodes)
    device = TflmDevice(link)
    prepared = device.load(model)
    assert prepared.layers == layers
    x = np.random.default_rng(1).integers(-128, 128, (2, 16, 16, 1)).astype(np.int8)
    results = [device.invoke(image) for image in x]
    assert [r.output for r in results] == [one.tobytes() for one in TflmReference(model).run(x)]
    ticks = device.layer_ticks()
    assert len(ticks) == layers and sum(ticks) < results[1].ticks


def test_refusals(link: Link) -> None:
    client = Client(link)
    client.hello()
    model, room = operator_model(CONV), client.describe().pool_bytes

    def refused(op: Op, payload: bytes = b"") -> Reason | int:
        with pytest.raises(RefusedError) as caught:
            client._line.request(op, payload)
        return caught.value.reason

    assert refused(Op.INVOKE, bytes(4)) == Reason.NO_MODEL
    assert refused(Op.LOAD_INPUT, bytes(8)) == Reason.NO_MODEL
    assert refused(Op.READ_OUTPUT, bytes(8)) == Reason.NO_RESULT
    assert refused(Op.PREPARE, bytes(7)) == Reason.BAD_LENGTH
    assert refused(Op.RUN_OP) == Reason.UNKNOWN_OP
    assert refused(Op.LOAD_MODEL, LoadModelRequest(room).pack() + b"x") == Reason.OUT_OF_RANGE
    assert refused(Op.PREPARE, PrepareRequest(room + 1, 0).pack()) == Reason.TOO_BIG
    client._line.request(
        Op.LOAD_MODEL, LoadModelRequest(CHUNK_BYTES).pack() + model[CHUNK_BYTES:][:CHUNK_BYTES]
    )
    assert refused(Op.PREPARE, PrepareRequest(len(model), zlib.crc32(model)).pack()) == Reason.NO_MODEL
    # tensors that no board of this size has room for: the interpreter says so, and lives on
    large = operator_model(OpSpec("logistic", 512, 512, 1, 512, 512, 1))
    with pytest.raises(RefusedError, match="PREPARE_FAILED"):
        client.load_model(large)
    client.load_model(model)
    assert client.invoke(bytes(CONV.in_bytes)).output


def test_session_counts_repeat(firmware: Firmware) -> None:
    with TflmSession(firmware.board, firmware.folder, firmware.engine) as session:
        first, second = session.measure(CONV), session.measure(CONV)
        assert first == second and session.starts == 1
    assert first.instructions > CONV.macs / 2 and first.cycles > first.instructions * 0.4
    counted = first.ticks * 1e9 / (firmware.board.counter.hz * 64)
    assert abs(counted - first.instructions) < 40 + first.instructions * 1e-3


def test_validation(firmware: Firmware) -> None:
    model = sample_network(sample_graph())
    x = np.random.default_rng(1).integers(-128, 128, (2, 16, 16, 1)).astype(np.int8)
    result = validate_tflm(model, firmware.board, x, None, Budgets(), firmware.folder, engine=firmware.engine)
    assert result.ok and result.mismatches == 0
    assert len(result.layer_cycles) == len(sample_graph().nodes)
    assert result.provenance == "modelled"
    assert sum(result.layer_cycles) / firmware.board.clock_hz * 1e3 <= result.latency_ms
    assert result.arena_used_bytes < result.sram_bytes < firmware.board.memory.sram.bytes
    assert result.flash_bytes > result.model_bytes
