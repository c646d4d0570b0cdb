"""The link that misbehaves on purpose does what it says, and no more."""

from __future__ import annotations

import time

import pytest

from pipeline.errors import LinkError
from pipeline.links import Link
from pipeline.links.lossy import Faults, LossyLink

DATA = bytes(range(1, 256)) * 200


class Loop(Link):
    """What is written comes back."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.closed = False

    def write(self, data: bytes) -> None:
        self.out += data

    def read(self, timeout_s: float) -> bytes:
        if not self.out:
            time.sleep(timeout_s)
        data = bytes(self.out)
        self.out.clear()
        return data

    def close(self) -> None:
        self.closed = True

    def describe(self) -> str:
        return "loop"


def through(faults: Faults, seed: int = 0) -> tuple[bytes, LossyLink]:
    link = LossyLink(Loop(), faults, seed=seed)
    link.write(DATA)
    got = b""
    while piece := link.read(0.05):
        got += piece
    return got, link


def test_without_faults_it_is_the_link() -> None:
    got, link = through(Faults())
    assert got == DATA
    assert link.seen == {"carried": 2 * len(DATA)}
    assert (link.alive(), link.describe(), link.stderr_tail(), link.exit_code()) == (True, "loop", "", None)
    with link:
        pass
    assert isinstance(link._inner, Loop) and link._inner.closed


def test_the_same_seed_does_the_same() -> None:
    faults = Faults(0.01, 0.01, 0.01, 0.001, delay_s=0.0001)
    assert through(faults, 1)[0] == through(faults, 1)[0] != through(faults, 2)[0]


@pytest.mark.parametrize("name", ["dropped", "flipped", "duplicated"])
def test_rates(name: str) -> None:
    field = {"dropped": "drop", "flipped": "flip", "duplicated": "duplicate"}[name]
    got, link = through(Faults(**{field: 0.01}))
    # twice through: there and back; five standard deviations
    assert link.seen[name] == pytest.approx(
        0.01 * link.seen["carried"], abs=5 * (0.01 * 2 * len(DATA)) ** 0.5
    )
    lengths = {"dropped": -link.seen[name], "flipped": 0, "duplicated": link.seen[name]}
    assert len(got) == len(DATA) + lengths[name]
    if name == "flipped":
        changed = [(a ^ b).bit_count() for a, b in zip(got, DATA, strict=True) if a != b]
        assert set(changed) <= {1, 2} and len(changed) <= link.seen[name]


def test_a_delay_holds_up_what_follows_and_changes_no_order() -> None:
    link = LossyLink(Loop(), Faults(delay=1e-4, delay_s=0.05), seed=3)
    started = time.monotonic()
    link.write(DATA)
    got = b""
    while piece := link.read(0.2):
        got, arrived = got + piece, time.monotonic()
    assert got == DATA
    assert link.seen["delayed"] >= 3
    assert arrived - started >= 0.05 * link.seen["delayed"] * 0.4  # those of both directions overlap


def test_cut_in_the_middle_and_restored() -> None:
    link = LossyLink(Loop())
    link.cut(after_bytes=3)
    link.write(b"abcdef")
    link.write(b"ghi")
    assert link.read(0.01) == b""
    link.restore()
    link.write(b"xyz")
    assert link.read(0.01) == b"xyz"  # what was under way is lost
    assert (link.seen["cut"], link.seen["vanished"]) == (1, 3 + 3 + 3)


def test_cut_for_a_while() -> None:
    link = LossyLink(Loop())
    link.cut(for_s=0.1)
    started = time.monotonic()
    while not link.read(0.01):
        link.write(b"?")
    assert 0.1 <= time.monotonic() - started < 1.0


def test_cut_that_raises() -> None:
    link = LossyLink(Loop())
    link.cut(after_bytes=1, for_s=0.05, raises=True)
    with pytest.raises(LinkError, match="gone away"):
        link.write(b"ab")
    with pytest.raises(LinkError, match="gone away"):
        link.read(0.01)
    time.sleep(0.06)
    link.write(b"c")
    assert link.read(0.01) == b"c"
