"""Client: the host's end of the protocol."""

from __future__ import annotations

import struct
import time
import zlib
from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import LinkError
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.wire.framing import Frame, FrameReader, encode
from pipeline.wire.messages import (
    CHUNK_BYTES,
    PROTOCOL_VERSION,
    RESPONSE_BIT,
    RETRANSMIT,
    CheckReply,
    DescribeReply,
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
    RunOpReply,
    RunOpRequest,
    Verdict,
)

_ATTEMPTS = 6
_SHORTEST_WAIT_S = 0.3
_LAYERS_A_FRAME = CHUNK_BYTES // 4
# An emulator that counts basic blocks still executes some 50 million instructions a second, and no kernel
# needs more than about 60 for a multiply-accumulate or 600 for an element.
_INSTRUCTIONS_A_SECOND = 5e7


class ByteStream(Protocol):
    """What the client needs of a link (`pipeline.links.Link`)."""

    def write(self, data: bytes) -> None: ...
    def read(self, timeout_s: float) -> bytes: ...
    def alive(self) -> bool: ...
    def exit_code(self) -> int | None: ...
    def stderr_tail(self) -> str: ...
    def describe(self) -> str: ...


class RefusedError(LinkError):
    """The device understood the request and refused it; `reason` and `detail` say why."""

    def __init__(self, op: Op, reason: Reason | int, detail: int) -> None:
        name = reason.name if isinstance(reason, Reason) else f"reason {reason}"
        super().__init__(f"the device refused {op.name}: {name} (detail {detail})")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers. `fault_status` is not 0 after a restart that a fault caused (Arm: CFSR)."""

    protocol: int
    kind: Kind
    build_id: bytes
    board: str
    fault_pc: int
    fault_status: int


@dataclass(frozen=True, slots=True)
class InvokeResult:
    output: bytes
    ticks: int  # of the device's counter, over the whole inference


@dataclass(frozen=True, slots=True)
class Check:
    """The device's own verdict: names of broken budgets (`latency`, `sram`, `flash`, `stack`) and figures.

    A budget of 0 means that none was compiled in.
    """

    broken: tuple[str, ...]
    latency_us: int
    latency_budget_us: int
    sram_bytes: int
    sram_budget_bytes: int
    flash_bytes: int
    flash_budget_bytes: int
    stack_used_bytes: int

    @property
    def ok(self) -> bool:
        return not self.broken


class Client:
    """Sends requests, one at a time, and waits for their replies.

    Damaged or lost frames are sent again: a request is executed at most once, since the device keeps its
    last reply. The wait adapts to the replies seen so far. Raises LinkError for a target that is gone, hangs,
    or breaks the protocol; RefusedError where it refuses a request.
    """

    def __init__(self, link: ByteStream, *, patience_s: float = 3.0) -> None:
        """`patience_s`: how long a device may stay silent over a request that needs no computing."""
        self._link = link
        self._reader = FrameReader()
        self._seq = 0
        self._patience_s = patience_s
        self._round_trip_s = 0.1
        self._invoke_s = 0.0
        self._description: DescribeReply | None = None
        self._input_bytes = 0
        self.retransmissions = 0

    # -- requests ----------------------------------------------------------------------------------------

    def hello(self, *, boot_s: float = 10.0) -> Hello:
        """Greets the device, which may still be booting for `boot_s` seconds."""
        reply = HelloReply.unpack(self._request(Op.HELLO, b"", total_s=boot_s, resend_s=0.25))
        if reply.protocol != PROTOCOL_VERSION:
            raise LinkError(
                f"the device speaks protocol {reply.protocol}, this is {PROTOCOL_VERSION}",
                hint="flash it again: edgenas flash",
            )
        try:
            kind = Kind(reply.kind)
        except ValueError as error:
            raise LinkError(f"firmware of unknown kind {reply.kind}") from error
        board = reply.board.rstrip(b"\0").decode("ascii", errors="replace")
        return Hello(reply.protocol, kind, reply.build_id, board, reply.fault_pc, reply.fault_status)

    def describe(self) -> DescribeReply:
        """Sizes and rates compiled in; asked once."""
        if self._description is None:
            self._description = DescribeReply.unpack(self._request(Op.DESCRIBE))
        return self._description

    def run_op(self, op: OpSpec, *, seed: int = 1, repetitions: int = 1) -> RunOpReply:
        """Runs one operator, with the kernel that `pipeline.space.kernels` selects, on data made from `seed`.

        Returns the counter ticks inside the kernel, summed over the repetitions, and the CRC-32 of the
        output. RefusedError: TOO_BIG for the device's memory, UNKNOWN_KERNEL, BAD_ARGUMENT.
        ValueError: the operator has no kernel (reshape).
        """
        request = RunOpRequest.of(op, select(op), seed=seed, repetitions=repetitions)
        instructions = 60.0 * op.macs + 600.0 * (op.in_bytes + op.out_bytes * op.kernel_h * op.kernel_w)
        work_s = repetitions * instructions / _INSTRUCTIONS_A_SECOND
        return RunOpReply.unpack(self._request(Op.RUN_OP, request.pack(), work_s=work_s))

    def load_input(self, data: bytes) -> None:
        """Writes the whole input tensor in chunks."""
        for offset in range(0, len(data), CHUNK_BYTES):
            chunk = data[offset : offset + CHUNK_BYTES]
            self._request(Op.LOAD_INPUT, LoadInputRequest(offset).pack() + chunk)

    def invoke(self, x: bytes, *, limit_s: float = 60.0) -> InvokeResult:
        """One inference over input tensor `x` (INT8, NHWC); `limit_s` bounds the first, later ones adapt."""
        self.load_input(x)
        started = time.monotonic()
        work_s = min(limit_s, 10.0 * self._invoke_s) if self._invoke_s else limit_s
        payload = self._request(Op.INVOKE, InvokeRequest(zlib.crc32(x)).pack(), work_s=work_s)
        self._invoke_s = time.monotonic() - started
        reply = InvokeReply.unpack(payload[: InvokeReply.size()])
        output = payload[InvokeReply.size() :]
        while len(output) < reply.output_bytes:
            count = min(CHUNK_BYTES, reply.output_bytes - len(output))
            chunk = self._request(Op.READ_OUTPUT, ReadRequest(len(output), count).pack())
            if len(chunk) != count:
                raise LinkError(f"asked for {count} bytes of output, the device sent {len(chunk)}")
            output += chunk
        if len(output) != reply.output_bytes or zlib.crc32(output) != reply.output_crc:
            raise LinkError("the output read back is not the output that the device computed")
        return InvokeResult(output, reply.ticks)

    def load_model(self, model: bytes, *, limit_s: float = 30.0) -> PrepareReply:
        """Sends a .tflite to an interpreter (Kind.TFLM) and has it made ready, within `limit_s`.

        RefusedError: TOO_BIG, OUT_OF_RANGE (no room for the file), PREPARE_FAILED (no room for its tensors, or
        an operator that is unknown).
        """
        for offset in range(0, len(model), CHUNK_BYTES):
            chunk = model[offset : offset + CHUNK_BYTES]
            self._request(Op.LOAD_MODEL, LoadModelRequest(offset).pack() + chunk)
        request = PrepareRequest(len(model), zlib.crc32(model))
        self._invoke_s = 0.0
        return PrepareReply.unpack(self._request(Op.PREPARE, request.pack(), work_s=limit_s))

    def layer_ticks(self, layers: int | None = None) -> list[int]:
        """Counter ticks of each layer in the last inference, in execution order.

        `layers`: how many there are, where the firmware came without a model (PrepareReply.layers).
        """
        layers = self.describe().layers if layers is None else layers
        ticks: list[int] = []
        while len(ticks) < layers:
            count = min(_LAYERS_A_FRAME, layers - len(ticks))
            payload = self._request(Op.LAYER, ReadRequest(len(ticks), count).pack())
            if len(payload) != 4 * count:
                raise LinkError(f"asked for {count} layers, the device sent {len(payload)} bytes")
            ticks += struct.unpack(f"<{count}I", payload)
        return ticks

    def memory(self) -> MemoryReply:
        """Arena, static RAM, stack and its high-water mark, flash, as the device sees them (bytes)."""
        return MemoryReply.unpack(self._request(Op.MEMORY))

    def check(self) -> Check:
        """The device's verdict over its own figures; needs an inference before it."""
        reply = CheckReply.unpack(self._request(Op.CHECK))
        broken = tuple(bit.name.lower() for bit in Verdict if reply.verdict & bit)
        return Check(
            broken, reply.latency_us, reply.latency_budget_us, reply.sram_bytes, reply.sram_budget_bytes,
            reply.flash_bytes, reply.flash_budget_bytes, reply.stack_used_bytes,
        )  # fmt: skip

    def reset(self) -> Hello:
        """Restarts the device and greets it."""
        self._request(Op.RESET)
        return self.hello()

    # -- transport ---------------------------------------------------------------------------------------

    def _request(
        self, op: Op, payload: bytes = b"", *, work_s: float = 0.0, total_s: float | None = None,
        resend_s: float | None = None,
    ) -> bytes:  # fmt: skip
        """The reply's payload. `work_s`: what the device may need beyond an ordinary round trip."""
        self._seq = (self._seq + 1) & 0xFFFF
        encoded = encode(Frame(op, self._seq, payload))
        deadline = time.monotonic() + (total_s if total_s is not None else self._patience_s + work_s)
        wait_s = resend_s or max(_SHORTEST_WAIT_S, 4.0 * self._round_trip_s)
        attempts = 0
        while True:
            sent = time.monotonic()
            self._link.write(encoded)
            try:
                reply = self._await(op, min(deadline, sent + wait_s))
            except RefusedError as refused:
                # it had one before the request was repeated
                if attempts and refused.reason == Reason.NO_INPUT:
                    raise self._silence(op) from refused
                raise
            if isinstance(reply, bytes):
                if attempts == 0 and not work_s:
                    self._round_trip_s += 0.2 * (time.monotonic() - sent - self._round_trip_s)
                return reply
            attempts += 1
            self.retransmissions += 1
            if time.monotonic() >= deadline or (reply is not None and attempts >= 10 * _ATTEMPTS):
                raise self._silence(op)
            if reply is None and resend_s is None:
                wait_s *= 2.0

    def _await(self, op: Op, until: float) -> bytes | Reason | None:
        """The reply, the reason to send the request again, or None when the time is up."""
        while True:
            left = until - time.monotonic()
            data = self._link.read(max(0.0, left))
            frames = self._reader.feed(data)
            for frame in frames:
                if frame.op == Op.NAK | RESPONSE_BIT:
                    refusal = self._refusal(op, frame)
                    if refusal is not None:
                        return refusal
                elif frame.seq == self._seq and frame.op == op | RESPONSE_BIT:
                    return frame.payload
                # anything else answers a request that has been answered before
            if not data and left <= 0.0:
                return None

    def _refusal(self, op: Op, frame: Frame) -> Reason | None:
        nak = NakReply.unpack(frame.payload)
        if nak.reason in RETRANSMIT:
            return Reason(nak.reason)
        if frame.seq != self._seq:
            return None
        known = nak.reason in Reason.__members__.values()
        raise RefusedError(op, Reason(nak.reason) if known else nak.reason, nak.detail)

    def _silence(self, op: Op) -> LinkError:
        who = self._link.describe()
        if not self._link.alive():
            state = f"{who} has ended with exit code {self._link.exit_code()}"
        else:
            state = f"{who} does not answer {op.name}: {self._autopsy()}"
        tail = self._link.stderr_tail()
        return LinkError(state, hint=f"it last wrote: {tail}" if tail else "reset it, or flash it again")

    def _autopsy(self) -> str:
        """Why a device that is there did not answer: it may have restarted after a fault."""
        self._seq = (self._seq + 1) & 0xFFFF
        self._link.write(encode(Frame(Op.HELLO, self._seq)))
        payload = self._await(Op.HELLO, time.monotonic() + 0.5)
        if not isinstance(payload, bytes) or len(payload) != HelloReply.size():
            return "it hangs, or the firmware is another one"
        reply = HelloReply.unpack(payload)
        if reply.reset_cause:
            return f"it restarted after a fault at 0x{reply.fault_pc:08x} (status 0x{reply.fault_status:08x})"
        return "it is busy beyond the time expected, or has restarted"
