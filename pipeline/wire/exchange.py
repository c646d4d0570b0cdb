"""Exchange: one request and its reply at a time, over a link that may lose, damage, repeat or delay bytes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from pipeline.errors import LinkError
from pipeline.wire.framing import MAX_ENCODED_BYTES, Frame, FrameReader, encode
from pipeline.wire.messages import (
    CHUNK_BYTES,
    RESPONSE_BIT,
    RETRANSMIT,
    FaultReply,
    HelloReply,
    NakReply,
    Op,
    Reason,
)

# How long to wait before sending again, besides the round trips seen: on a line that lost nothing lately a
# silence means a device that is busy, on one that does it means a lost delimiter.
_PATIENT_S, _QUICK_S = 0.3, 0.02
_LOSSY = 0.02  # lost attempts, as a part of all
_BYTE_S = 10 / 115_200  # 8N1, at the slowest rate in use
_FRAME_S = MAX_ENCODED_BYTES * _BYTE_S  # of the longest
_SHORTEST_CHUNK = 16
_NOBODY = "it hangs, is not connected, or the firmware is another one"


class ByteStream(Protocol):
    """What is needed of a link (`pipeline.links.Link`)."""

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


class RestartedError(LinkError):
    """The device has restarted since it was greeted; `fault` is None where no fault made it."""

    def __init__(self, message: str, *, hint: str = "", fault: FaultReply | None = None) -> None:
        super().__init__(message, hint=hint)
        self.fault = fault


class Lost(Enum):
    """Why an attempt brought no reply."""

    DAMAGED = auto()  # something arrived broken, there or here: send again at once
    SILENCE = auto()  # nothing came in time


def registers(fault: FaultReply) -> str:
    """The fault's registers, where nobody can say more about them."""
    return (
        f"fault at 0x{fault.pc:08x} (called from 0x{fault.lr:08x}, stack pointer 0x{fault.sp:08x}, status "
        f"0x{fault.status:08x} 0x{fault.status2:08x}, address 0x{fault.address:08x})"
    )


class Exchange:
    """Sends a request until its reply is there, at most once executed: the device keeps its last answer.

    LinkError: the target is gone, hangs, or sends nonsense. RestartedError: it restarted in between.
    RefusedError: it refuses the request. `explain` puts a fault's registers into words.
    """

    def __init__(
        self, link: ByteStream, *, patience_s: float = 3.0, explain: Callable[[FaultReply], str] = registers
    ) -> None:
        self._link, self._explain = link, explain
        self._reader = FrameReader()
        self._seq = secrets.randbelow(0x10000)  # not that of a request an earlier client left under way
        self.patience_s = patience_s
        self._round_trip_s, self._deviation_s = 0.02, 0.01
        self._lost = 0.0  # attempts without a reply, moving average
        self.lost = 0
        self.answered_in_s = 0.0  # by the last attempt
        self.chunk_bytes = CHUNK_BYTES

    def request(
        self, op: Op, payload: bytes = b"", *, limit_s: float | None = None, likely_s: float = 0.0,
        resend_s: float | None = None,
    ) -> bytes:  # fmt: skip
        """The reply's payload. `limit_s`: how long it may take (default: the patience); `likely_s`: how long
        the device will probably compute; `resend_s`: a fixed time between attempts instead."""
        encoded = self._frame(op, payload)
        deadline = time.monotonic() + (self.patience_s if limit_s is None else limit_s)
        first_s = wait_s = resend_s or self._wait_s(len(encoded)) + likely_s
        attempts = damaged = 0
        while True:
            attempts += 1
            reply = self._attempt(op, encoded, min(wait_s, deadline - time.monotonic()), likely_s)
            if isinstance(reply, bytes):
                return reply
            damaged += reply is Lost.DAMAGED
            if time.monotonic() >= deadline:
                raise self.silence(op, attempts, damaged)
            if reply is Lost.DAMAGED:
                wait_s = first_s  # somebody is there
            elif resend_s is None:
                wait_s *= 2.0

    def chunk(self, op: Op, payload: bytes, reply_bytes: int = 0) -> bytes | None:
        """One attempt at a request that can be cut smaller; None where it was lost.

        `chunk_bytes` halves with each that is lost and doubles with each that is not, so that on a bad line
        every other one gets through.
        """
        encoded = self._frame(op, payload)
        reply = self._attempt(op, encoded, self._wait_s(len(encoded) + reply_bytes))
        got_through = isinstance(reply, bytes)
        new = self.chunk_bytes * 2 if got_through else self.chunk_bytes // 2
        self.chunk_bytes = min(CHUNK_BYTES, max(_SHORTEST_CHUNK, new))
        return reply if isinstance(reply, bytes) else None

    def silence(self, op: Op, attempts: int, damaged: int) -> LinkError:
        """Why there is no reply to `op`, in words."""
        who = self._link.describe()
        tail = self._link.stderr_tail()
        hint = f"it last wrote: {tail}" if tail else "reset it, or flash it again"
        if not self._link.alive():
            return LinkError(f"{who} has ended with exit code {self._link.exit_code()}", hint=hint)
        if strange := self._reader.strange():
            return LinkError(
                f"{who} sends bytes that are no frames ({strange!r})",
                hint="another firmware runs there, or the line has another baud rate: flash it again",
            )
        if damaged > attempts // 2:
            return LinkError(
                f"the line to {who} damages too much: {damaged} of {attempts} attempts at {op.name}",
                hint="a shorter cable, a lower baud rate, a common ground",
            )
        why = _NOBODY if op in (Op.HELLO, Op.FAULT) else self._autopsy()
        return LinkError(f"{who} does not answer {op.name}: {why}", hint=hint)

    # -- one attempt -------------------------------------------------------------------------------------

    def _frame(self, op: Op, payload: bytes) -> bytes:
        self._seq = (self._seq + 1) & 0xFFFF
        return encode(Frame(op, self._seq, payload))

    def _wait_s(self, count: int) -> float:
        """Before an answer to `count` bytes is overdue."""
        least = _QUICK_S if self._lost > _LOSSY else _PATIENT_S
        return max(least, self._round_trip_s + 4.0 * self._deviation_s) + 2.0 * _BYTE_S * count

    def _attempt(self, op: Op, encoded: bytes, wait_s: float, likely_s: float = 0.0) -> bytes | Lost:
        sent = time.monotonic()
        self._link.write(encoded)
        reply = self._await(op, sent + wait_s)
        failed = not isinstance(reply, bytes)
        self._lost += 0.05 * (failed - self._lost)
        self.lost += failed
        self.answered_in_s = time.monotonic() - sent
        if not failed and likely_s <= self._round_trip_s:
            error = self.answered_in_s - self._round_trip_s
            self._round_trip_s += 0.125 * error
            self._deviation_s += 0.25 * (abs(error) - self._deviation_s)
        return reply

    def _await(self, op: Op, until: float) -> bytes | Lost:
        while True:
            left = until - time.monotonic()
            data = self._link.read(max(0.0, left))
            damaged = self._reader.damaged
            retransmit = False
            for frame in self._reader.feed(data):
                if frame.op == Op.NAK | RESPONSE_BIT:
                    retransmit |= self._refused(op, frame)
                elif frame.seq == self._seq and frame.op == op | RESPONSE_BIT:
                    return frame.payload
                # anything else answers a request that has been answered before
            if retransmit or self._reader.damaged > damaged:
                return Lost.DAMAGED
            # what is coming in may be the reply's end; whoever sends on and on sends none
            if left <= (-_FRAME_S if data else 0.0):
                return Lost.SILENCE

    def _refused(self, op: Op, frame: Frame) -> bool:
        """Whether to send again; raises where that would not help."""
        nak = NakReply.unpack(frame.payload)
        if nak.reason in RETRANSMIT:
            return True
        if frame.seq != self._seq:
            return False
        if nak.reason == Reason.NOT_GREETED and op != Op.FAULT:
            raise self._restarted(op)
        known = nak.reason in Reason.__members__.values()
        raise RefusedError(op, Reason(nak.reason) if known else nak.reason, nak.detail)

    # -- what became of it -------------------------------------------------------------------------------

    def fault(self) -> FaultReply:
        """The fault that caused the device's last restart; all 0 where none did."""
        return FaultReply.unpack(self.request(Op.FAULT))

    def _restarted(self, op: Op) -> RestartedError:
        who = self._link.describe()
        fault = self.fault()
        if fault.status or fault.status2 or fault.pc:
            return RestartedError(f"{who} restarted during {op.name}: {self._explain(fault)}", fault=fault)
        return RestartedError(
            f"{who} restarted by itself before or during {op.name}; it recorded no fault",
            hint="power supply, watchdog, reset button? Greet it again and repeat the request",
        )

    def _autopsy(self) -> str:
        """Why a device that is there did not answer."""
        encoded = self._frame(Op.HELLO, b"")
        until = time.monotonic() + 0.5
        payload: bytes | Lost = Lost.SILENCE
        while not isinstance(payload, bytes) and time.monotonic() < until:
            payload = self._attempt(Op.HELLO, encoded, 0.25)
        if not isinstance(payload, bytes) or len(payload) != HelloReply.size():
            return _NOBODY
        if HelloReply.unpack(payload).reset_cause:
            return f"it restarted: {self._explain(self.fault())}"
        return "it is busy beyond the time expected, or has restarted"
