"""Client: the host's end of the protocol."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import LinkError
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.wire.exchange import ByteStream, Exchange, RefusedError, RestartedError, registers
from pipeline.wire.messages import (
    PROTOCOL_VERSION,
    CheckReply,
    DescribeReply,
    FaultReply,
    FeaturesReply,
    FeaturesRequest,
    HelloReply,
    InvokeReply,
    InvokeRequest,
    Kind,
    LoadInputRequest,
    LoadModelRequest,
    MemoryReply,
    Op,
    PrepareReply,
    PrepareRequest,
    ReadRequest,
    RunOpReply,
    RunOpRequest,
    Verdict,
)

__all__ = ["ByteStream", "Check", "Client", "FeaturesResult", "Hello", "InvokeResult", "RefusedError",
           "RestartedError", "WrongFirmwareError"]  # fmt: skip

# An emulator that counts basic blocks still executes some 50 million instructions a second, and no kernel
# needs more than about 60 for a multiply-accumulate or 600 for an element.
_INSTRUCTIONS_A_SECOND = 5e7
_TICKS = 1 << 32  # that the device's counter has before it begins anew
_TOO_LONG = "a smaller model, or a counter that is slower: it cannot time what takes longer"
_SURE = 0.9  # part of those that must be missing from a count; the rest is the line's own time
_COMPUTES_S = 0.02  # bounds below that say more of the line than of the device


class WrappedError(LinkError):
    """The device's counter began anew during an inference. Another run would take as long."""


class WrongFirmwareError(LinkError):
    """Another firmware answers than the one asked for, or one of another protocol version."""


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
class FeaturesResult:
    features: bytes  # the model's input, as the device's front end made it
    ticks: int  # of the device's counter, over the front end


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
    last answer. Waits and the size of chunks adapt to the line. Raises LinkError for a target that is gone,
    hangs, or breaks the protocol; RestartedError for one that has restarted; RefusedError where it refuses a
    request.
    """

    def __init__(
        self,
        link: ByteStream,
        *,
        patience_s: float | None = None,
        explain: Callable[[FaultReply], str] = registers,
    ) -> None:
        """`patience_s`: how long a device may stay silent over a request that needs no computing; the link's own
        where it is left out.
        `explain`: puts a fault's registers into words (`pipeline.firmware.symbolize`)."""
        patience_s = patience_s if patience_s is not None else getattr(link, "patience_s", 3.0)
        self._line = Exchange(link, patience_s=patience_s, explain=explain)
        self._name = link.describe()
        self._slowness: float = getattr(link, "slowness", 1.0)
        self._real_time: bool = getattr(link, "real_time", False)
        self._work_ratio = 0.25  # of the bound on computing time, twice what the device took lately
        self._invoke_s = 0.0
        self._features_s = 0.0
        self._description: DescribeReply | None = None

    @property
    def retransmissions(self) -> int:
        """Attempts that brought no reply."""
        return self._line.lost

    # -- requests ----------------------------------------------------------------------------------------

    def hello(
        self, *, boot_s: float = 10.0, kind: Kind | None = None, build_id: bytes | None = None
    ) -> Hello:
        """Greets the device, which may still be booting for `boot_s` seconds.

        WrongFirmwareError where it speaks another protocol, or is not of the `kind` or `build_id` asked for.
        """
        payload = self._line.request(Op.HELLO, limit_s=boot_s, resend_s=0.25)
        protocol = int.from_bytes(payload[:2], "little")
        if protocol != PROTOCOL_VERSION:
            raise WrongFirmwareError(
                f"{self._name}: its firmware speaks protocol {protocol}, this is {PROTOCOL_VERSION}",
                hint=f"it is {'older' if protocol < PROTOCOL_VERSION else 'newer'}; flash it: edgenas flash",
            )
        reply = HelloReply.unpack(payload)
        try:
            found = Kind(reply.kind)
        except ValueError as error:
            raise WrongFirmwareError(f"{self._name}: firmware of unknown kind {reply.kind}") from error
        if kind is not None and found is not kind:
            raise WrongFirmwareError(
                f"{self._name} runs the {found.name} firmware, not {kind.name}",
                hint="it is TensorFlow Lite Micro's: edgenas profile and edgenas validate take it with --engine tflm"
                if found is Kind.TFLM
                else "flash it again: edgenas flash",
            )
        if build_id is not None and reply.build_id != build_id:
            raise WrongFirmwareError(
                f"{self._name} runs build {reply.build_id.hex()}, not {build_id.hex()}",
                hint="flash the firmware that was just built: edgenas flash",
            )
        board = reply.board.rstrip(b"\0").decode("ascii", errors="replace")
        return Hello(reply.protocol, found, reply.build_id, board, reply.fault_pc, reply.fault_status)

    def describe(self) -> DescribeReply:
        """Sizes and rates compiled in; asked once."""
        if self._description is None:
            self._description = DescribeReply.unpack(self._line.request(Op.DESCRIBE))
        return self._description

    def run_op(self, op: OpSpec, *, seed: int = 1, repetitions: int = 1) -> RunOpReply:
        """Runs one operator, with the kernel that `pipeline.space.kernels` selects, on data made from `seed`.

        Returns the counter ticks inside the kernel, summed over the repetitions, and the CRC-32 of the
        output. RefusedError: TOO_BIG for the device's memory, UNKNOWN_KERNEL, BAD_ARGUMENT.
        ValueError: the operator has no kernel (reshape).
        """
        request = RunOpRequest.of(op, select(op), seed=seed, repetitions=repetitions).pack()
        instructions = 60.0 * op.macs + 600.0 * (op.in_bytes + op.out_bytes * op.kernel_h * op.kernel_w)
        most_s = self._slowness * repetitions * instructions / _INSTRUCTIONS_A_SECOND
        payload = self._line.request(
            Op.RUN_OP, request, limit_s=self._line.patience_s + most_s, likely_s=self._work_ratio * most_s
        )
        if most_s > _COMPUTES_S:
            twice = min(1.0, 2.0 * self._line.answered_in_s / most_s)
            self._work_ratio += 0.25 * (twice - self._work_ratio)
        return RunOpReply.unpack(payload)

    def load_input(self, data: bytes) -> None:
        """Writes the whole input tensor in chunks."""
        self._load(Op.LOAD_INPUT, data, lambda offset: LoadInputRequest(offset).pack())

    def load_model(self, model: bytes, *, limit_s: float = 30.0) -> PrepareReply:
        """Sends a .tflite to an interpreter, which makes it ready. RefusedError: TOO_BIG, PREPARE_FAILED."""
        self._load(Op.LOAD_MODEL, model, lambda offset: LoadModelRequest(offset).pack())
        request = PrepareRequest(len(model), zlib.crc32(model)).pack()
        self._invoke_s = 0.0
        return PrepareReply.unpack(self._line.request(Op.PREPARE, request, limit_s=limit_s * self._slowness))

    def invoke(self, x: bytes, *, limit_s: float = 60.0) -> InvokeResult:
        """One inference over input tensor `x` (INT8, NHWC); `limit_s` bounds the first (on a device, not
        a simulator), later ones adapt."""
        self.load_input(x)
        return self.invoke_loaded(x, limit_s=limit_s)

    def features(self, sound: bytes, *, limit_s: float = 60.0) -> FeaturesResult:
        """The front end over a clip (16-bit PCM, little-endian); its features are then the loaded input.

        RefusedError UNKNOWN_OP for an application without a front end.
        """
        self._load(Op.LOAD_SOUND, sound, lambda offset: LoadInputRequest(offset).pack())
        request = FeaturesRequest(zlib.crc32(sound)).pack()
        payload, self._features_s = self._compute(Op.FEATURES, request, limit_s, self._features_s)
        reply = FeaturesReply.unpack(payload)
        features = self._read(Op.READ_INPUT, 0, reply.input_bytes)
        if zlib.crc32(features) != reply.input_crc:
            raise LinkError("the features read back are not those that the device computed")
        self._refuse_wrapped(Op.FEATURES, reply.ticks, self._features_s)
        return FeaturesResult(features, reply.ticks)

    def invoke_loaded(self, x: bytes, *, limit_s: float = 60.0) -> InvokeResult:
        """One inference over the input that is on the device, which must be `x`; see `invoke`."""
        request = InvokeRequest(zlib.crc32(x)).pack()
        payload, self._invoke_s = self._compute(Op.INVOKE, request, limit_s, self._invoke_s)
        reply = InvokeReply.unpack(payload[: InvokeReply.size()])
        output = payload[InvokeReply.size() :]
        output += self._read(Op.READ_OUTPUT, len(output), reply.output_bytes)
        if len(output) != reply.output_bytes or zlib.crc32(output) != reply.output_crc:
            raise LinkError("the output read back is not the output that the device computed")
        self._refuse_wrapped(Op.INVOKE, reply.ticks, self._invoke_s)
        return InvokeResult(output, reply.ticks)

    def _refuse_wrapped(self, op: Op, ticks: int, took_s: float) -> None:
        """Raises LinkError where `took_s` says that the device's counter began anew before it was read."""
        if not self._real_time or took_s < 1.0:  # no counter ends so soon
            return
        rate = self.describe().counter_hz
        if rate and took_s - ticks / rate > _SURE * _TICKS / rate:
            raise WrappedError(
                f"{op.name} took {took_s:.1f} s, and {self._name} counted {ticks / rate:.1f} s: its counter begins "
                f"anew after {_TICKS / rate:.1f} s",
                hint=_TOO_LONG,
            )

    def _compute(self, op: Op, request: bytes, limit_s: float, last_s: float) -> tuple[bytes, float]:
        """The reply's payload and the seconds it took, where the last such request took `last_s` (0: none yet)."""
        started, limit_s = time.monotonic(), limit_s * self._slowness
        most_s = min(limit_s, self._line.patience_s + 10.0 * last_s) if last_s else limit_s
        payload = self._line.request(op, request, limit_s=most_s, likely_s=1.5 * last_s)
        return payload, time.monotonic() - started

    def layer_ticks(self, layers: int | None = None, *, of: InvokeResult | None = None) -> list[int]:
        """Counter ticks of each layer in the last inference, in execution order.

        `layers`: how many there are, where the firmware does not know it from the start. `of`: that inference, which
        went through all of them; LinkError where they took so much longer that its own count began anew on the way.
        That tells on any link, as long as no layer alone outlasts the counter.
        """
        count = self.describe().layers if layers is None else layers
        ticks = list(struct.unpack(f"<{count}I", self._read(Op.LAYER, 0, count, unit=4)))
        if of is not None and sum(ticks) - of.ticks > _TICKS // 2:
            raise WrappedError(
                f"{self._name} counted {sum(ticks):,} ticks in the layers of an inference and {of.ticks:,} over all of "
                f"it: its counter begins anew after {_TICKS:,}",
                hint=_TOO_LONG,
            )
        return ticks

    def memory(self) -> MemoryReply:
        """Arena, static RAM, stack and its high-water mark, flash, as the device sees them (bytes)."""
        return MemoryReply.unpack(self._line.request(Op.MEMORY))

    def fault(self) -> FaultReply:
        """Registers of the fault that caused the last restart; all 0 where none did."""
        return self._line.fault()

    def check(self) -> Check:
        """The device's verdict over its own figures; needs an inference before it."""
        reply = CheckReply.unpack(self._line.request(Op.CHECK))
        broken = tuple(bit.name.lower() for bit in Verdict if reply.verdict & bit)
        return Check(
            broken, reply.latency_us, reply.latency_budget_us, reply.sram_bytes, reply.sram_budget_bytes,
            reply.flash_bytes, reply.flash_budget_bytes, reply.stack_used_bytes,
        )  # fmt: skip

    def reset(self) -> Hello:
        """Restarts the device and greets it."""
        self._line.request(Op.RESET)
        return self.hello()

    # -- tensors in chunks -------------------------------------------------------------------------------

    def _load(self, op: Op, data: bytes, head: Callable[[int], bytes]) -> None:
        progress = _Progress(self._line, op)
        offset = 0
        while offset < len(data):
            piece = data[offset : offset + self._line.chunk_bytes]
            if progress.made(self._line.chunk(op, head(offset) + piece) is not None):
                offset += len(piece)

    def _read(self, op: Op, start: int, end: int, unit: int = 1) -> bytes:
        """Items `start` to `end`, of `unit` bytes each."""
        progress = _Progress(self._line, op)
        data = b""
        while (first := start + len(data) // unit) < end:
            count = min(self._line.chunk_bytes // unit, end - first)
            piece = self._line.chunk(op, ReadRequest(first, count).pack(), unit * count)
            if progress.made(piece is not None) and piece is not None:
                if len(piece) != unit * count:
                    raise LinkError(
                        f"asked for {unit * count} bytes ({op.name}), the device sent {len(piece)}"
                    )
                data += piece
        return data


class _Progress:
    """Raises LinkError where no chunk gets through for as long as the patience lasts."""

    def __init__(self, line: Exchange, op: Op) -> None:
        self._line, self._op = line, op
        self._since, self._attempts = time.monotonic(), 0

    def made(self, got_through: bool) -> bool:
        self._attempts += 1
        if got_through:
            self._since, self._attempts = time.monotonic(), 0
        elif time.monotonic() > self._since + self._line.patience_s:
            raise self._line.silence(self._op, self._attempts, 0)
        return got_through
