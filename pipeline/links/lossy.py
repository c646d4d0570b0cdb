"""A link that misbehaves on purpose: bytes get lost, damaged, repeated or late, or the cable is pulled.

A test instrument: wrap any link with it, an emulator's in a test or a board's serial port in a lab, and see
what the layers above make of it. docs/wire.md has an example.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from dataclasses import dataclass

from pipeline.errors import LinkError
from pipeline.links.link import Link


@dataclass(frozen=True, slots=True)
class Faults:
    """Probability, per byte, of each fault. A delayed byte holds up all that follow it by `delay_s` seconds."""

    drop: float = 0.0
    flip: float = 0.0  # of one bit
    duplicate: float = 0.0
    delay: float = 0.0
    delay_s: float = 0.02


class _Direction:
    """Bytes on their way in one direction; their order is kept, as on a wire."""

    def __init__(self, faults: Faults, rng: random.Random, seen: Counter[str]) -> None:
        self._faults, self._rng, self._seen = faults, rng, seen
        self._under_way: deque[tuple[float, bytes]] = deque()  # when due, and what

    def put(self, data: bytes) -> None:
        now = time.monotonic()
        due = max(now, self._under_way[-1][0]) if self._under_way else now
        faults, rng, piece = self._faults, self._rng, bytearray()
        self._seen["carried"] += len(data)
        for byte in data:
            if rng.random() < faults.drop:
                self._seen["dropped"] += 1
                continue
            if rng.random() < faults.delay:
                self._seen["delayed"] += 1
                self._under_way.append((due, bytes(piece)))
                piece, due = bytearray(), due + faults.delay_s
            if rng.random() < faults.flip:
                self._seen["flipped"] += 1
                byte ^= 1 << rng.randrange(8)
            piece.append(byte)
            if rng.random() < faults.duplicate:
                self._seen["duplicated"] += 1
                piece.append(byte)
        self._under_way.append((due, bytes(piece)))

    def take(self) -> bytes:
        """What is due by now."""
        now, due = time.monotonic(), bytearray()
        while self._under_way and self._under_way[0][0] <= now:
            due += self._under_way.popleft()[1]
        return bytes(due)

    def next_due(self) -> float | None:
        return self._under_way[0][0] if self._under_way else None

    def clear(self) -> None:
        self._under_way.clear()


class LossyLink(Link):
    """`inner` with `faults` in both directions, the same for the same seed and the same bytes.

    `cut` pulls the cable, also in the middle of a frame; `restore` plugs it in again. `seen` counts what was
    done: carried, dropped, flipped, duplicated, delayed (bytes), vanished (bytes while cut), cut (times).
    """

    def __init__(self, inner: Link, faults: Faults | None = None, *, seed: int = 0) -> None:
        self.seen: Counter[str] = Counter()
        self._inner = inner
        rng = random.Random(seed)
        self._out = _Direction(faults or Faults(), random.Random(rng.random()), self.seen)
        self._in = _Direction(faults or Faults(), random.Random(rng.random()), self.seen)
        self._cut = False
        self._until_cut: int | None = None  # bytes that may still go out
        self._back_at: float | None = None
        self._for_s: float | None = None
        self._raises = False

    def cut(self, *, after_bytes: int = 0, for_s: float | None = None, raises: bool = False) -> None:
        """Pulls the cable once `after_bytes` more bytes went out, for `for_s` seconds or until `restore`.

        Bytes vanish in both directions, as where the wire between adapter and board is pulled; with
        `raises`, read and write raise LinkError, as where the adapter itself is.
        """
        self._until_cut, self._for_s, self._raises = after_bytes, for_s, raises
        if after_bytes <= 0:
            self._pull()

    def restore(self) -> None:
        """Plugs the cable in again; what the device sent meanwhile is lost."""
        while self._cut and (data := self._inner.read(0.0)):
            self.seen["vanished"] += len(data)
        self._cut = False
        self._until_cut = self._back_at = None

    def write(self, data: bytes) -> None:
        self._check()
        whole = data
        if self._until_cut is not None and not self._cut:
            data = data[: self._until_cut]
            self._until_cut -= len(data)
        if self._cut:
            self.seen["vanished"] += len(whole)
            return
        self._out.put(data)
        self._send_due()
        if self._until_cut == 0:
            self._pull()
            self.seen["vanished"] += len(whole) - len(data)
            self._check()

    def read(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while True:
            self._check()
            self._send_due()
            if not self._cut and (due := self._in.take()):
                return due
            now = time.monotonic()
            wakes = [deadline, *(t for t in (self._out.next_due(), self._in.next_due(), self._back_at) if t)]
            data = self._inner.read(max(0.0, min(wakes) - now))
            if self._cut:
                self.seen["vanished"] += len(data)
            elif data:
                self._in.put(data)
            if not data and time.monotonic() >= deadline:
                return b"" if self._cut else self._in.take()

    def close(self) -> None:
        self._inner.close()

    def alive(self) -> bool:
        return self._inner.alive()

    def stderr_tail(self) -> str:
        return self._inner.stderr_tail()

    def exit_code(self) -> int | None:
        return self._inner.exit_code()

    def describe(self) -> str:
        return self._inner.describe()

    def _pull(self) -> None:
        self._cut, self._until_cut = True, None
        self._back_at = time.monotonic() + self._for_s if self._for_s is not None else None
        self.seen["cut"] += 1
        self._in.clear()
        self._out.clear()

    def _check(self) -> None:
        if self._cut and self._back_at is not None and time.monotonic() >= self._back_at:
            self.restore()
        if self._cut and self._raises:
            raise LinkError(f"{self.describe()} has gone away: cable pulled", hint="is the board connected?")

    def _send_due(self) -> None:
        if due := self._out.take():
            self._inner.write(due)
