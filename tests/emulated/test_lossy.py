"""Measuring over a line that loses, damages, repeats and delays bytes, and over a cable that is pulled."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from needs import NEEDS_QEMU_ARM
from test_firmware_app import INPUT_BYTES, OUTPUT_BYTES, SOURCES, expected

from pipeline.boards import load_board
from pipeline.errors import LinkError
from pipeline.firmware import Build, build, render_app
from pipeline.latency.lut import Row
from pipeline.links import Link, open_link
from pipeline.links.lossy import Faults, LossyLink
from pipeline.profiler import bench as bench_module
from pipeline.profiler.bench import BenchSession
from pipeline.profiler.journal import Journal
from pipeline.space.budgets import Budgets
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace
from pipeline.wire import Client
from pipeline.wire.framing import encode

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

BOARD = load_board("qemu-cortex-m4")
PERCENT = 0.01
LINES = {
    "drop": Faults(drop=PERCENT),
    "flip": Faults(flip=PERCENT),
    "duplicate": Faults(duplicate=PERCENT),
    "delay": Faults(delay=PERCENT, delay_s=0.01),
    "all four": Faults(PERCENT, PERCENT, PERCENT, PERCENT, delay_s=0.01),
}


def operators(count: int) -> list[OpSpec]:
    """The smaller ones of the default search space: their time on the emulator is the wire's."""
    space = SearchSpace.for_input((28, 28, 1), 10)
    every = sorted({op for op in space.operators() if op.kind != "reshape"}, key=lambda op: (op.macs, op))
    return [every[i] for i in np.linspace(0, len(every) * 3 // 4, count).astype(int)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture()
def wrap(monkeypatch: pytest.MonkeyPatch) -> Callable[[Faults], list[LossyLink]]:
    """Has sessions open their links through lossy ones; returns a list of those."""

    def install(faults: Faults) -> list[LossyLink]:
        opened: list[LossyLink] = []

        def open_lossy(*arguments: object, **options: object) -> Link:
            inner = open_link(*arguments, **options)  # type: ignore[arg-type]
            opened.append(LossyLink(inner, faults, seed=len(opened)))
            return opened[-1]

        monkeypatch.setattr(bench_module, "open_link", open_lossy)
        return opened

    return install


def measure(folder: Path, journal: Path, ops: list[OpSpec]) -> tuple[dict[str, Row | None], int]:
    """Rows of the table, and how often the emulator was started."""
    with BenchSession(BOARD, folder) as session, Journal(journal, "id") as book:
        for op in ops:
            book.add(session.measure(op))
        assert all(len(book.of(op)) == ops.count(op) for op in ops)
        return {op.key: book.row(op) for op in ops}, session.starts


@pytest.fixture(scope="module")
def clean(folder: Path) -> dict[str, Row | None]:
    return measure(folder, folder / "clean.sqlite", operators(60))[0]


@pytest.mark.parametrize("name", LINES)
def test_one_percent(
    name: str, clean: dict[str, Row | None], folder: Path, tmp_path: Path, wrap: Callable
) -> None:
    links = wrap(LINES[name])
    rows, starts = measure(folder, tmp_path / "journal.sqlite", operators(60))
    assert rows == clean
    assert starts == len(links) == 1  # no damage costs a restart
    wanted = {"drop": "dropped", "flip": "flipped", "duplicate": "duplicated", "delay": "delayed"}
    for fault in wanted if name == "all four" else [name]:
        assert links[0].seen[wanted[fault]] > 20


def test_hundreds_of_operators_give_the_same_table(folder: Path, tmp_path: Path, wrap: Callable) -> None:
    """The whole 10,000: benchmarks/wire_faults.py."""
    ops = operators(int(os.environ.get("EDGENAS_LOSSY_OPERATORS", "300")))
    without, _ = measure(folder, tmp_path / "clean.sqlite", ops)
    wrap(Faults(*[PERCENT / 4] * 4, delay_s=0.005))  # 1 % of all bytes
    rows, starts = measure(folder, tmp_path / "journal.sqlite", ops)
    assert rows == without
    assert starts == 1


# -- the cable -----------------------------------------------------------------------------------------------


def cut_each(links: list[LossyLink], monkeypatch: pytest.MonkeyPatch, raises: bool) -> list[int]:
    """Pulls the cable in the middle of every tenth request, and plugs it in again after 0.3 s."""
    calls: list[int] = []
    real = Client.run_op

    def run_op(self: Client, op: OpSpec) -> object:
        calls.append(1)
        if len(calls) % 10 == 5:
            links[-1].cut(after_bytes=7 + len(calls) % 20, for_s=0.3, raises=raises)
        return real(self, op)

    monkeypatch.setattr(Client, "run_op", run_op)
    return calls


@pytest.mark.parametrize("raises", [False, True], ids=["between adapter and board", "of the adapter"])
def test_unplugged_in_the_middle_of_a_frame(
    raises: bool, clean: dict[str, Row | None], folder: Path, tmp_path: Path, wrap: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    links = wrap(Faults())
    calls = cut_each(links, monkeypatch, raises)
    rows, starts = measure(folder, tmp_path / "journal.sqlite", operators(60))
    assert rows == clean
    cuts = sum(link.seen["cut"] for link in links)
    assert cuts >= 6
    assert sum(link.seen["vanished"] for link in links) > 0
    # a port that is gone is opened again; a silent one is waited for
    assert starts == (1 + cuts if raises else 1)
    assert len(calls) == 60 + (cuts if raises else 0)


def test_unplugged_in_the_middle_of_a_reply(folder: Path, clean: dict[str, Row | None]) -> None:
    with BenchSession(BOARD, folder) as session:
        elf = session._built.elf
    op = operators(60)[30]
    with LossyLink(open_link(BOARD, elf)) as link:
        client = Client(link)
        client.hello()
        expected_reply = client.run_op(op)
        # all of the request goes out, the reply meets an open end
        for_s = 0.2
        link.cut(after_bytes=len(encode_of(op)), for_s=for_s)
        assert client.run_op(op) == expected_reply
        assert link.seen["cut"] == 1


def encode_of(op: OpSpec) -> bytes:
    from pipeline.wire.framing import Frame
    from pipeline.wire.messages import Op, RunOpRequest

    return encode(Frame(Op.RUN_OP, 1, RunOpRequest.of(op, select(op), seed=1, repetitions=1).pack()))


def test_unplugged_for_good_is_said(folder: Path) -> None:
    with BenchSession(BOARD, folder) as session:
        elf = session._built.elf
    with LossyLink(open_link(BOARD, elf)) as link:
        client = Client(link, patience_s=0.5)
        client.hello()
        link.cut()
        with pytest.raises(LinkError, match="does not answer MEMORY: it hangs, is not connected"):
            client.memory()
        link.restore()
        assert client.memory().static_bytes > 0


# -- tensors -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Build:
    loose = Budgets(latency_ms=50.0, sram_bytes=100_000, flash_bytes=100_000)
    return build(render_app(SOURCES, BOARD, loose, tmp_path_factory.mktemp("app"), 1.5), BOARD)


@pytest.mark.parametrize("name", LINES)
def test_tensors_arrive_whole(name: str, app: Build) -> None:
    """700 bytes in, 1,400 out, which as frames of 512 bytes would hardly ever survive."""
    draw = random.Random(3)
    with LossyLink(open_link(BOARD, app.elf), LINES[name], seed=5) as link:
        client = Client(link)
        client.hello()
        ticks = set()
        for _ in range(2):
            x = draw.randbytes(INPUT_BYTES)
            result = client.invoke(x)
            assert result.output == expected(x) and len(result.output) == OUTPUT_BYTES
            ticks.add(result.ticks)
        assert len(ticks) == 1
        assert 0 <= result.ticks - sum(client.layer_ticks()) < 50


def test_a_line_beyond_use_is_named() -> None:
    class Deaf(Link):
        def write(self, data: bytes) -> None: ...
        def read(self, timeout_s: float) -> bytes:
            return encode_nak()

        def close(self) -> None: ...

    with pytest.raises(LinkError, match="damages too much"):
        Client(Deaf(), patience_s=0.2).memory()


def encode_nak() -> bytes:
    from pipeline.wire.framing import Frame
    from pipeline.wire.messages import RESPONSE_BIT, NakReply, Op, Reason

    return encode(Frame(Op.NAK | RESPONSE_BIT, 0, NakReply(0, Reason.BAD_CRC, 0).pack()))
