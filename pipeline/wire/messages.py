"""Every message, field and code that crosses a link, declared once.

The host packs and unpacks from these classes (how: `structs.py`); `firmware/templates/wire.h.j2` renders the same
declarations into the firmware's header.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Annotated, ClassVar, get_args

from pipeline.space.kernels import KERNELS, KernelChoice
from pipeline.space.opspec import OP_KINDS, Activation, OpSpec
from pipeline.wire.structs import U8, U16, U32, U64, Message, VarintMessage

PROTOCOL_VERSION = 3
CHUNK_BYTES = 512  # most bytes of tensor data in one frame
INLINE_BYTES = 64  # most bytes of output in INVOKE's own reply; short, since it can only be sent again whole
MAX_PAYLOAD_BYTES = CHUNK_BYTES + 32
RESPONSE_BIT = 0x80  # a reply carries its request's code with this bit set
BUILD_ID_BYTES = 8

BuildId = Annotated[bytes, f"{BUILD_ID_BYTES}s", f"uint8_t[{BUILD_ID_BYTES}]"]
Name = Annotated[bytes, "24s", "char[24]"]  # NUL-padded ASCII


class Op(IntEnum):
    """Request codes; `NAK` only ever travels from the device to the host."""

    HELLO = 0x01  # who is there; also forgets the reply kept for retransmission
    DESCRIBE = 0x02  # sizes and rates that do not change
    RUN_OP = 0x10  # benchmark: one operator
    LOAD_INPUT = 0x20  # application: bytes of the input tensor, at an offset
    INVOKE = 0x21  # application: one inference over the loaded input, which it consumes
    READ_OUTPUT = 0x22  # application: bytes of the output tensor, from an offset
    LAYER = 0x23  # application: ticks of consecutive layers in the last inference
    LOAD_MODEL = 0x24  # interpreter: bytes of a .tflite, at an offset
    PREPARE = 0x25  # interpreter: make the loaded model ready; INVOKE and its like then apply to it
    LOAD_SOUND = 0x26  # application with a front end: bytes of the clip (16-bit PCM), at an offset
    FEATURES = 0x27  # application with a front end: the loaded clip's features, which become the input
    READ_INPUT = 0x28  # application with a front end: bytes of the complete input, from an offset
    MEMORY = 0x30  # both: static RAM and stack
    CHECK = 0x31  # application: the device holds its own figures against its budgets
    FAULT = 0x32  # both: registers of the fault that caused the last restart
    RESET = 0x3F  # restart, after the reply
    NAK = 0x7F


class Kind(IntEnum):
    """Which firmware answers."""

    BENCH = 1
    APP = 2
    TFLM = 3  # TensorFlow Lite Micro's interpreter; models come over the wire


class Reason(IntEnum):
    """Why a request was refused."""

    BAD_FRAME = 1  # not COBS, too short or too long: send again
    BAD_CRC = 2  # damaged on the way: send again
    UNKNOWN_OP = 3
    BAD_LENGTH = 4  # payload does not have the request's size
    BAD_ARGUMENT = 5  # detail: index of the field
    UNKNOWN_KERNEL = 6  # detail: kernel number
    TOO_BIG = 7  # detail: bytes needed
    OUT_OF_RANGE = 8  # offset and length leave the tensor; detail: its size
    NO_INPUT = 9  # INVOKE, FEATURES or READ_INPUT without what they need; detail: CRC-32 of what is there
    NO_RESULT = 10  # READ_OUTPUT, LAYER or CHECK before a successful INVOKE
    KERNEL_FAILED = 11  # detail: the kernel's own status
    NO_MODEL = 12  # PREPARE without a complete, intact model; detail: CRC-32 of what is there
    PREPARE_FAILED = 13  # detail: the interpreter's own status
    NOT_GREETED = 14  # no HELLO since the device started: it has restarted behind the host's back


RETRANSMIT = frozenset({Reason.BAD_FRAME, Reason.BAD_CRC})


class Verdict(IntEnum):
    """Bits of CHECK's verdict: set where the budget is broken."""

    LATENCY = 1
    SRAM = 2
    FLASH = 4
    STACK = 8  # the stack was used up to or beyond its reserve


@dataclass(frozen=True, slots=True)
class HelloReply(Message):
    """HELLO's reply. Whatever else changes with the version, `protocol` stays the first field."""

    struct_name: ClassVar[str] = "hello_reply"
    protocol: U16
    kind: U8
    reset_cause: U8  # 0 power-on or requested, 1 fault (then fault_* are set)
    build_id: BuildId
    board: Name
    fault_pc: U32
    fault_status: U32


@dataclass(frozen=True, slots=True)
class DescribeReply(Message):
    """DESCRIBE's reply; what does not apply to the firmware's kind is 0."""

    struct_name: ClassVar[str] = "describe_reply"
    clock_hz: U32
    counter_hz: U32
    cycles_per_tick_q16: U32
    pool_bytes: U32  # benchmark: room for an operator's tensors, weights and scratch
    kernels: U32  # benchmark: number of kernels it knows
    input_bytes: U32
    output_bytes: U32
    arena_bytes: U32
    layers: U32
    sound_bytes: U32  # application with a front end: one clip


@dataclass(frozen=True, slots=True)
class RunOpRequest(VarintMessage):
    """RUN_OP: OpSpec's fields in their order, kind and activation as indices."""

    struct_name: ClassVar[str] = "run_op_request"
    kernel: U32
    repetitions: U32
    seed: U32
    scratch_bytes: U32
    kind: U32
    in_h: U32
    in_w: U32
    in_c: U32
    out_h: U32
    out_w: U32
    out_c: U32
    kernel_h: U32
    kernel_w: U32
    stride_h: U32
    stride_w: U32
    dilation_h: U32
    dilation_w: U32
    pad_top: U32
    pad_left: U32
    pad_bottom: U32
    pad_right: U32
    in2_h: U32
    in2_w: U32
    in2_c: U32
    activation: U32

    @classmethod
    def of(cls, op: OpSpec, choice: KernelChoice, *, seed: int, repetitions: int) -> RunOpRequest:
        """The request that runs `op` with its kernel; ValueError where it has none (reshape)."""
        kernel = KERNELS.index(choice.name)
        numbers = [getattr(op, f.name) for f in fields(op)[1:-1]]
        activation = get_args(Activation).index(op.activation)
        kind = OP_KINDS.index(op.kind)
        values = (kernel, repetitions, seed, choice.scratch_bytes, kind, *numbers, activation)
        return cls(*values)


@dataclass(frozen=True, slots=True)
class RunOpReply(VarintMessage):
    """RUN_OP's reply: counter ticks spent inside the kernel, over all repetitions."""

    struct_name: ClassVar[str] = "run_op_reply"
    ticks: U64
    output_crc: U32
    output_bytes: U32
    used_bytes: U32  # of the pool


@dataclass(frozen=True, slots=True)
class LoadInputRequest(Message):
    """LOAD_INPUT and LOAD_SOUND: followed by up to CHUNK_BYTES of data."""

    struct_name: ClassVar[str] = "load_input_request"
    offset: U32


@dataclass(frozen=True, slots=True)
class InvokeRequest(Message):
    """INVOKE: CRC-32 of the whole input as the host meant it."""

    struct_name: ClassVar[str] = "invoke_request"
    input_crc: U32


@dataclass(frozen=True, slots=True)
class InvokeReply(Message):
    """INVOKE's reply: followed by the output's first bytes (at most INLINE_BYTES)."""

    struct_name: ClassVar[str] = "invoke_reply"
    ticks: U64
    output_crc: U32
    output_bytes: U32


@dataclass(frozen=True, slots=True)
class FeaturesRequest(Message):
    """FEATURES: CRC-32 of the whole clip as the host meant it."""

    struct_name: ClassVar[str] = "features_request"
    sound_crc: U32


@dataclass(frozen=True, slots=True)
class FeaturesReply(Message):
    """FEATURES' reply: ticks inside the front end, and the CRC-32 of the input that it made."""

    struct_name: ClassVar[str] = "features_reply"
    ticks: U64
    input_crc: U32
    input_bytes: U32


@dataclass(frozen=True, slots=True)
class ReadRequest(Message):
    """READ_OUTPUT and READ_INPUT (bytes) and LAYER (layers; the reply is that many u32)."""

    struct_name: ClassVar[str] = "read_request"
    offset: U32
    count: U32


@dataclass(frozen=True, slots=True)
class LoadModelRequest(Message):
    """LOAD_MODEL: followed by up to CHUNK_BYTES of data."""

    struct_name: ClassVar[str] = "load_model_request"
    offset: U32


@dataclass(frozen=True, slots=True)
class PrepareRequest(Message):
    """PREPARE: size and CRC-32 of the whole model as the host meant it."""

    struct_name: ClassVar[str] = "prepare_request"
    model_bytes: U32
    model_crc: U32


@dataclass(frozen=True, slots=True)
class PrepareReply(Message):
    """PREPARE's reply, in bytes, and the number of operators."""

    struct_name: ClassVar[str] = "prepare_reply"
    arena_used_bytes: U32
    input_bytes: U32
    output_bytes: U32
    layers: U32


@dataclass(frozen=True, slots=True)
class FaultReply(Message):
    """FAULT's reply; all 0 where no fault caused the last restart.

    status, status2, address: CFSR, HFSR and MMFAR or BFAR (Cortex-M); mcause, 0 and mtval (RISC-V); ESR, 0 and
    FAR (AArch64); signal, its code and address (a process).
    """

    struct_name: ClassVar[str] = "fault_reply"
    pc: U32
    lr: U32
    sp: U32
    status: U32
    status2: U32
    address: U32


@dataclass(frozen=True, slots=True)
class MemoryReply(Message):
    """MEMORY's reply, in bytes."""

    struct_name: ClassVar[str] = "memory_reply"
    arena_bytes: U32
    static_bytes: U32  # .data and .bss, the arena included
    stack_reserve_bytes: U32
    stack_used_bytes: U32  # high-water mark of the painted stack
    flash_bytes: U32


@dataclass(frozen=True, slots=True)
class CheckReply(Message):
    """CHECK's reply: the device's figures beside the budgets compiled in (0 = no budget)."""

    struct_name: ClassVar[str] = "check_reply"
    verdict: U32  # bits of Verdict; 0 = every budget is met
    latency_us: U32
    latency_budget_us: U32
    sram_bytes: U32
    sram_budget_bytes: U32
    flash_bytes: U32
    flash_budget_bytes: U32
    stack_used_bytes: U32


@dataclass(frozen=True, slots=True)
class NakReply(Message):
    """Refusal of request `op`."""

    struct_name: ClassVar[str] = "nak_reply"
    op: U8
    reason: U8
    detail: U32


MESSAGES: tuple[type[Message], ...] = (
    HelloReply, DescribeReply, RunOpRequest, RunOpReply, LoadInputRequest, InvokeRequest, InvokeReply,
    FeaturesRequest, FeaturesReply, ReadRequest, LoadModelRequest, PrepareRequest, PrepareReply, FaultReply,
    MemoryReply, CheckReply, NakReply,
)  # fmt: skip
