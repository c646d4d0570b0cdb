"""TensorFlow Lite Micro through the wheel: the requests, the session and the commands that its firmware takes too."""

from __future__ import annotations

import importlib
import json
import os
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.boards import Board, load_board
from pipeline.cli.main import app
from pipeline.errors import ConfigError, ModelError, ToolError
from pipeline.export.reference import TflmReference
from pipeline.latency.lut import Lut
from pipeline.links import Link, open_link
from pipeline.profiler import profile
from pipeline.profiler.calibration import calibration_operators, window
from pipeline.profiler.engines import engine_named
from pipeline.profiler.footprint import sample_graph, sample_network
from pipeline.profiler.profile import lut_path
from pipeline.profiler.tflm import TflmSession
from pipeline.progress import Reporter
from pipeline.space.budgets import Budgets
from pipeline.space.opspec import OpSpec
from pipeline.tflm import TflmDevice, operator_model
from pipeline.validate.tflm import validate_tflm
from pipeline.wire import Client, Kind, Op, Reason, RefusedError, RestartedError, WrongFirmwareError
from pipeline.wire.messages import CHUNK_BYTES, LoadModelRequest, PrepareRequest

pytest.importorskip("tflite_micro", reason="needs the tflite-micro wheel")

CONV = window("conv2d", 9, 7, 5, 6, (3, 3), 2)
OPERATORS = [
    CONV,
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


@pytest.fixture(scope="module")
def board() -> Board:
    return load_board("host-tflm")


@pytest.fixture()
def link(board: Board) -> Iterator[Link]:
    with open_link(board, Path()) as opened:
        yield opened


def an_input(op: OpSpec, seed: int = 0) -> np.ndarray:
    shape = (1, op.in_h, op.in_w, op.in_c)
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def test_says_who_it_is(link: Link, board: Board) -> None:
    client = Client(link)
    hello = client.hello()
    assert (hello.kind, hello.board, hello.fault_status) == (Kind.TFLM, "host-tflm", 0)
    described = client.describe()
    assert (described.counter_hz, described.pool_bytes) == (board.counter.hz, board.memory.sram.bytes)
    assert client.reset().build_id == hello.build_id


def test_operators_one_after_the_other(link: Link, board: Board) -> None:
    """One process, many models, no restart: outputs are those of a fresh interpreter."""
    device = TflmDevice(link)
    for op in OPERATORS:
        model, x = operator_model(op, seed=2), an_input(op)
        prepared = device.load(model)
        assert (prepared.input_bytes, prepared.output_bytes, prepared.layers) == (
            op.in_bytes,
            op.out_bytes,
            1,
        )
        assert prepared.arena_used_bytes > op.out_bytes
        result = device.invoke(x)
        assert result.output == TflmReference(model).run(x).tobytes()
        assert device.layer_ticks() == [result.ticks]
        assert result.ticks > 0


def test_nothing_for_a_host_that_has_not_greeted(link: Link) -> None:
    client = Client(link)
    with pytest.raises(RestartedError):
        client.describe()
    client.hello()
    assert client.describe().pool_bytes


def test_another_build_is_named(link: Link) -> None:
    with pytest.raises(WrongFirmwareError, match="not 0102"):
        TflmDevice(link, build_id=bytes(range(1, 9)))


def test_whole_network(link: Link, board: Board) -> None:
    model = sample_network(sample_graph())
    device = TflmDevice(link)
    prepared = device.load(model)
    assert prepared.layers == len(sample_graph().nodes)
    x = np.random.default_rng(1).integers(-128, 128, (3, 16, 16, 1)).astype(np.int8)
    expected = TflmReference(model).run(x)
    assert [device.invoke(image).output for image in x] == [one.tobytes() for one in expected]
    assert device.layer_ticks() == []  # the wheel has no profiler


def refused(client: Client, op: Op, payload: bytes = b"") -> tuple[Reason | int, int]:
    with pytest.raises(RefusedError) as caught:
        client._line.request(op, payload)
    return caught.value.reason, caught.value.detail


def test_refusals(link: Link, board: Board) -> None:
    client = Client(link)
    client.hello()
    model = operator_model(CONV)
    assert refused(client, Op.INVOKE, bytes(4))[0] == Reason.NO_MODEL
    assert refused(client, Op.LOAD_INPUT, bytes(8))[0] == Reason.NO_MODEL
    assert refused(client, Op.READ_OUTPUT, bytes(8))[0] == Reason.NO_RESULT
    assert refused(client, Op.PREPARE, bytes(7))[0] == Reason.BAD_LENGTH
    assert refused(client, Op.RUN_OP)[0] == Reason.UNKNOWN_OP
    end = board.memory.sram.bytes
    assert refused(client, Op.LOAD_MODEL, LoadModelRequest(end).pack() + b"x") == (Reason.OUT_OF_RANGE, end)
    assert refused(client, Op.PREPARE, PrepareRequest(end + 1, 0).pack())[0] == Reason.TOO_BIG
    # a chunk is missing
    client._line.request(
        Op.LOAD_MODEL, LoadModelRequest(CHUNK_BYTES).pack() + model[CHUNK_BYTES : 2 * CHUNK_BYTES]
    )
    reason, detail = refused(client, Op.PREPARE, PrepareRequest(len(model), zlib.crc32(model)).pack())
    assert reason == Reason.NO_MODEL and detail != zlib.crc32(model)
    # intact on the way, but no model
    with pytest.raises(RefusedError, match="PREPARE_FAILED"):
        client.load_model(b"no model at all".ljust(64))
    client.load_model(model)  # and none of it did harm
    assert client.invoke(an_input(CONV).tobytes()).output


def test_session_survives_a_death(board: Board, tmp_path: Path) -> None:
    with TflmSession(board, tmp_path, "tflm") as session:
        first = session.measure(CONV)
        os.kill(session._device.link.pid, signal.SIGKILL)  # type: ignore[union-attr]
        second = session.measure(CONV)
        assert session.starts == 2
    assert first.output_crc == second.output_crc
    assert first.cycles > 0 < second.cycles


def test_operator_without_a_tflite_form_is_recorded(board: Board, tmp_path: Path) -> None:
    odd = OpSpec("conv2d", 8, 8, 4, 9, 9, 8, 3, 3, pad_top=2, pad_left=2, pad_bottom=1, pad_right=1)
    with TflmSession(board, tmp_path, "tflm") as session:
        assert "neither SAME nor VALID" in session.measure(odd).refused
        assert session.starts == 0


def test_profile_writes_a_table(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = calibration_operators()[::40]
    profile_module = importlib.import_module("pipeline.profiler.profile")
    monkeypatch.setattr(profile_module, "calibration_operators", lambda: few)
    out = lut_path(board, tmp_path, "tflm")
    assert out == tmp_path / "host-tflm" / "tflm.csv"
    arguments = {"journal": tmp_path / "journal.sqlite", "reporter": Reporter(quiet=True), "out": out}
    lut = profile(board, [CONV], engine="tflm", **arguments)  # type: ignore[arg-type]
    assert lut == Lut.load(out, engine_named("tflm").identity(board))
    assert CONV in lut and lut.provenance != "modelled"
    assert lut.identity.engine == "tflm" and lut.identity.counter == "time"
    assert lut.flash is None
    assert lut.predict(sample_graph()).total_cycles > 0


def test_unknown_engines(board: Board, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown engine 'tvm'"):
        engine_named("tvm")
    with pytest.raises(ConfigError, match="tflm only"):
        TflmSession(board, tmp_path, "tflm-cmsis-nn")


def test_without_a_library_firmware_boards_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m4 = load_board("qemu-cortex-m4")
    monkeypatch.delenv("TFLM_ROOT", raising=False)
    with pytest.raises(ToolError, match="TFLM_ROOT is not set"):
        TflmSession(m4, tmp_path, "tflm")
    monkeypatch.setenv("TFLM_ROOT", str(tmp_path))
    with pytest.raises(ToolError, match=r"micro_interpreter\.h"):
        TflmSession(m4, tmp_path, "tflm")


def test_validation(board: Board, tmp_path: Path) -> None:
    model = sample_network(sample_graph())
    x = np.random.default_rng(1).integers(-128, 128, (3, 16, 16, 1)).astype(np.int8)
    labels = TflmReference(model).run(x).reshape(3, -1).argmax(axis=1)
    validation = validate_tflm(model, board, x, labels, Budgets(), tmp_path, engine="tflm")
    assert validation.ok and validation.mismatches == 0 and validation.accuracy == 1.0
    assert validation.arena_used_bytes > 0 and validation.model_bytes == len(model)
    assert validation.provenance == "measured"
    slow = validate_tflm(model, board, x, None, Budgets(latency_ms=1e-6), tmp_path, engine="tflm")
    assert slow.broken == ("latency",) and not slow.ok
    # the slow tail counts against a deadline, not the median
    assert validation.latency_high_ms >= validation.latency_ms
    with pytest.raises(ModelError, match="TFLite Micro refuses"):
        validate_tflm(b"nothing", board, x, None, Budgets(), tmp_path, engine="tflm")


def test_commands(tmp_path: Path) -> None:
    path = tmp_path / "sample.tflite"
    path.write_bytes(sample_network(sample_graph()))
    common = [
        str(path),
        "--board",
        "host-tflm",
        "--engine",
        "tflm",
        "--images",
        "2",
        "--out",
        str(tmp_path / "o"),
    ]
    done = CliRunner().invoke(app, ["validate", *common, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["feasible"] and document["engine"] == "tflm"
    assert json.loads((tmp_path / "o" / "tflm.json").read_text()) == document
    done = CliRunner().invoke(app, ["validate", *common, "--latency-ms", "0.001"])
    assert done.exit_code == 1 and "broken: latency" in done.stdout
