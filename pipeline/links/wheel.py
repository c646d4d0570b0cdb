"""The `tflite-micro` wheel as a target: a child process that answers the interpreter's requests.

It runs TensorFlow Lite Micro's reference kernels on this machine behind the same frames as the firmware
(firmware/tflm), so that everything above the link is exercised without a board. A process of its own, since
the library ends its process where an assertion fails.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import socket
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.boards import Board, load_board
from pipeline.errors import LinkError, ToolError
from pipeline.links.process import ProcessLink
from pipeline.wire.framing import Frame, FrameReader, encode
from pipeline.wire.messages import (
    BUILD_ID_BYTES,
    CHUNK_BYTES,
    PROTOCOL_VERSION,
    RESPONSE_BIT,
    DescribeReply,
    FaultReply,
    HelloReply,
    InvokeReply,
    InvokeRequest,
    Kind,
    LoadInputRequest,
    LoadModelRequest,
    MemoryReply,
    NakReply,
    Op,
    PrepareReply,
    PrepareRequest,
    ReadRequest,
    Reason,
)

_RUNTIME = "tflite_micro.python.tflite_micro.runtime"
_TOTAL = re.compile(rb"Arena allocation total (\d+) bytes")
_NOT_ALLOCATED = 2  # firmware/tflm/interpreter.h
_NOT_INVOKED = 4
_ROOT = Path(__file__).resolve().parents[2]


def open_wheel(board: Board) -> ProcessLink:
    """Starts the process for `board`. Raises ToolError where the wheel is not installed."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise ToolError("the tflite-micro wheel is not installed", hint="pip install --pre tflite-micro")
    name = str(board.path) if board.path is not None else board.name
    code = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from pipeline.links.wheel import main; main()"
    return ProcessLink(
        lambda fd: [sys.executable, "-c", code, str(fd), name], name=f"tflite-micro wheel ({board.name})"
    )


def wheel_revision() -> str:
    """Version of the wheel and hash of its library: what its kernels' times are true of."""
    runtime = importlib.import_module(_RUNTIME)
    library = Path(runtime._runtime.__file__).read_bytes()
    return f"{importlib.metadata.version('tflite-micro')} {hashlib.sha256(library).hexdigest()[:16]}"


class Refusal(Exception):
    """Becomes a NAK."""

    def __init__(self, reason: Reason, detail: int = 0) -> None:
        super().__init__(reason.name)
        self.reason, self.detail = reason, detail & 0xFFFFFFFF


class Interpreter:
    """One model at a time in the wheel's interpreter."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._runtime = importlib.import_module(_RUNTIME)
        self._region = bytearray(board.memory.sram.bytes)
        self._model: Any = None
        self._prepared: PrepareReply | None = None
        self._input = bytearray()
        self._input_shape: tuple[int, ...] = ()
        self._complete = False
        self._output = b""
        self._ticks = 0

    def answer(self, op: int, payload: bytes) -> bytes:
        """The reply's payload; raises Refusal."""
        handlers: dict[int, Callable[[bytes], bytes]] = {
            Op.HELLO: self._hello,
            Op.DESCRIBE: self._describe,
            Op.MEMORY: self._memory,
            Op.FAULT: lambda _: FaultReply(0, 0, 0, 0, 0, 0).pack(),
            Op.RESET: self._reset,
            Op.LOAD_MODEL: self._load_model,
            Op.PREPARE: self._prepare,
            Op.LOAD_INPUT: self._load_input,
            Op.INVOKE: self._invoke,
            Op.READ_OUTPUT: self._read_output,
            Op.LAYER: self._layer,
        }
        if op not in handlers:
            raise Refusal(Reason.UNKNOWN_OP)
        try:
            return handlers[op](payload)
        except LinkError as error:  # of unpacking
            raise Refusal(Reason.BAD_LENGTH) from error

    def _hello(self, _: bytes) -> bytes:
        build = hashlib.sha256(f"{__version__} {wheel_revision()}".encode()).digest()[:BUILD_ID_BYTES]
        return HelloReply(
            PROTOCOL_VERSION, Kind.TFLM, 0, build, self._board.name.encode()[:23], 0, 0
        ).pack()  # fmt: skip

    def _describe(self, _: bytes) -> bytes:
        values = {field.name: 0 for field in fields(DescribeReply)}
        values |= {
            "clock_hz": self._board.clock_hz,
            "counter_hz": self._board.counter.hz,
            "pool_bytes": len(self._region),
        }
        return DescribeReply(**values).pack()

    def _memory(self, _: bytes) -> bytes:
        values = {field.name: 0 for field in fields(MemoryReply)}
        values["arena_bytes"] = self._prepared.arena_used_bytes if self._prepared else 0
        return MemoryReply(**values).pack()

    def _reset(self, _: bytes) -> bytes:
        self._forget()
        return b""

    def _forget(self) -> None:
        self._model = self._prepared = None
        self._complete, self._output = False, b""

    def _load_model(self, payload: bytes) -> bytes:
        self._forget()
        _store(LoadModelRequest, payload, self._region)
        return b""

    def _prepare(self, payload: bytes) -> bytes:
        request = PrepareRequest.unpack(payload)
        if request.model_bytes > len(self._region):
            raise Refusal(Reason.TOO_BIG, len(self._region))
        self._forget()
        content = bytes(self._region[: request.model_bytes])
        if zlib.crc32(content) != request.model_crc:
            raise Refusal(Reason.NO_MODEL, zlib.crc32(content))
        room = len(self._region) - len(content)
        try:
            # the wheel reads the file in Python first, and that trips over damage in its own ways
            self._model = self._runtime.Interpreter.from_bytes(content, arena_size=room)
            details = self._model.get_input_details(0), self._model.get_output_details(0)
            shapes = [tuple(int(n) for n in detail["shape"]) for detail in details]
            # its own figures are complete only after an inference
            self._model.set_input(np.zeros(shapes[0], np.int8), 0)
            self._model.invoke()
            layers = len(self._runtime.convert_bytearray_to_object(content).subgraphs[0].operators)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, struct.error) as error:
            self._forget()
            raise Refusal(Reason.PREPARE_FAILED, _NOT_ALLOCATED) from error
        in_bytes, out_bytes = (int(np.prod(shape)) for shape in shapes)
        self._input, self._input_shape = bytearray(in_bytes), shapes[0]
        self._prepared = PrepareReply(_arena_used(self._model), in_bytes, out_bytes, layers)
        return self._prepared.pack()

    def _load_input(self, payload: bytes) -> bytes:
        if self._prepared is None:
            raise Refusal(Reason.NO_MODEL)
        end = _store(LoadInputRequest, payload, self._input)
        self._complete, self._output = end == len(self._input), b""
        return b""

    def _invoke(self, payload: bytes) -> bytes:
        request = InvokeRequest.unpack(payload)
        if self._prepared is None:
            raise Refusal(Reason.NO_MODEL)
        crc = zlib.crc32(self._input)
        if not self._complete or crc != request.input_crc:
            raise Refusal(Reason.NO_INPUT, crc)
        x: NDArray[np.int8] = np.frombuffer(bytes(self._input), np.int8).reshape(self._input_shape)
        try:
            self._model.set_input(x, 0)
            started = time.perf_counter_ns()
            self._model.invoke()
            elapsed_ns = time.perf_counter_ns() - started
        except (RuntimeError, ValueError) as error:
            raise Refusal(Reason.KERNEL_FAILED, _NOT_INVOKED) from error
        self._complete = False
        self._output = np.ascontiguousarray(self._model.get_output(0)).tobytes()
        self._ticks = elapsed_ns * self._board.counter.hz // 1_000_000_000
        head = InvokeReply(self._ticks, zlib.crc32(self._output), len(self._output)).pack()
        return head + self._output[:CHUNK_BYTES]

    def _read_output(self, payload: bytes) -> bytes:
        request = ReadRequest.unpack(payload)
        if not self._output:
            raise Refusal(Reason.NO_RESULT)
        end = request.offset + request.count
        if request.count > CHUNK_BYTES or end > len(self._output):
            raise Refusal(Reason.OUT_OF_RANGE, len(self._output))
        return self._output[request.offset : end]

    def _layer(self, payload: bytes) -> bytes:
        """The wheel has no profiler: a lone operator's time is that of the inference, others have none."""
        request = ReadRequest.unpack(payload)
        if not self._output or self._prepared is None or self._prepared.layers != 1:
            raise Refusal(Reason.NO_RESULT)
        if request.offset + request.count > 1:
            raise Refusal(Reason.OUT_OF_RANGE, 1)
        return struct.pack("<I", min(self._ticks, 0xFFFFFFFF))[: 4 * request.count]


def _store(kind: type[LoadModelRequest] | type[LoadInputRequest], payload: bytes, target: bytearray) -> int:
    """Puts a chunk in its place; returns where it ends."""
    offset = kind.unpack(payload[: kind.size()]).offset
    data = payload[kind.size() :]
    if offset + len(data) > len(target):
        raise Refusal(Reason.OUT_OF_RANGE, len(target))
    target[offset : offset + len(data)] = data
    return offset + len(data)


def _arena_used(model: Any) -> int:
    """What the recording allocator prints on the standard error of the C library; 0 where it says nothing."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            model.print_allocations()
            os.dup2(kept, 2)
            file.seek(0)
            found = _TOTAL.search(file.read())
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    return int(found.group(1)) if found else 0


class Server:
    """Frames in, frames out, as firmware/wire/server.c does it.

    A request that comes twice is executed once; nothing is done for a host that has not greeted.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._reader = FrameReader()
        self._kept: tuple[Frame, bytes] | None = None
        self._greeted = False

    def feed(self, data: bytes) -> bytes:
        """What to send back for the bytes received."""
        damaged = self._reader.damaged
        out = [self._reply(frame) for frame in self._reader.feed(data)]
        out += [_nak(0, 0, Refusal(Reason.BAD_CRC))] * (self._reader.damaged - damaged)
        return b"".join(out)

    def _reply(self, frame: Frame) -> bytes:
        self._greeted = self._greeted or frame.op == Op.HELLO
        if not self._greeted and frame.op not in (Op.FAULT, Op.RESET):
            return _nak(frame.op, frame.seq, Refusal(Reason.NOT_GREETED))
        if self._kept is None or self._kept[0] != frame or frame.op == Op.HELLO:
            self._kept = frame, self._execute(frame)
        if frame.op == Op.RESET:
            self._greeted = False
        return self._kept[1]

    def _execute(self, frame: Frame) -> bytes:
        try:
            payload = self._interpreter.answer(frame.op, frame.payload)
        except Refusal as refusal:
            return _nak(frame.op, frame.seq, refusal)
        return encode(Frame(frame.op | RESPONSE_BIT, frame.seq, payload))


def _nak(op: int, seq: int, refusal: Refusal) -> bytes:
    return encode(Frame(Op.NAK | RESPONSE_BIT, seq, NakReply(op, refusal.reason, refusal.detail).pack()))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve the file descriptor and board given, until the other end closes."""
    number, board = arguments if arguments is not None else sys.argv[1:]
    server = Server(Interpreter(load_board(board)))
    with socket.socket(fileno=int(number)) as end:
        while data := end.recv(65536):
            end.sendall(server.feed(data))
    sys.exit(0)
