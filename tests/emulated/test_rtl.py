"""RISC-V cores simulated as RTL: exact cycles, faults, restarts, and simulators that end and sleep when they should."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.assets import asset_dir
from pipeline.boards import Board, load_board
from pipeline.errors import LinkError, ToolError
from pipeline.firmware import Build, build, render_bench
from pipeline.links import ProcessLink, open_link, rtl
from pipeline.profiler.calibration import calibration_operators
from pipeline.space.opspec import OpSpec
from pipeline.wire import Client, RestartedError

BOARDS = ["rtl-ibex", "rtl-cv32e40p"]
PROGRAMS = ("verilator", "g++", "make", "riscv64-unknown-elf-gcc", "cmake", "ninja")
OPS = [op for op in calibration_operators()[::6] if op.kind != "reshape"]
OP = OpSpec("conv2d", 9, 7, 5, 9, 7, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1)
LARGE = OpSpec("conv2d", 28, 28, 16, 28, 28, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1)

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"),
]

ILLEGAL, WILD, FETCH, TO_FLASH = 0xBAD00001, 0xBAD00002, 0xBAD00003, 0xBAD00004  # seeds that ask for it
RUN_OP = "static uint32_t run_op(const request_t *r, server_reply_t *reply) {\n"
MISCHIEF = """
__attribute__((noinline)) static void mischief(uint32_t seed) {
    switch (seed) {
    case 0xBAD00001u:
        __asm__ volatile(".2byte 0"); /* defined to be illegal */
        break;
    case 0xBAD00002u:
        random_state = *(volatile uint32_t *)0x18000000u;
        break;
    case 0xBAD00003u:
        ((void (*)(void))0x18000000u)();
        break;
    case 0xBAD00004u:
        *(volatile uint32_t *)0x1000u = 1u;
    default:
        break;
    }
}

"""


@pytest.fixture(scope="module", params=BOARDS)
def board(request: pytest.FixtureRequest) -> Board:
    board = load_board(request.param)
    assert board.emulator is not None
    if importlib.util.find_spec(f"pythondata_cpu_{board.emulator.machine}") is None:
        pytest.skip("the core's sources are not installed")
    return board


@pytest.fixture(scope="module")
def bench(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(render_bench(board, tmp_path_factory.mktemp("bench")), board)


@pytest.fixture
def link(board: Board, bench: Build) -> Iterator[ProcessLink]:
    with open_link(board, bench.elf) as opened:
        assert isinstance(opened, ProcessLink)
        Client(opened).hello()
        yield opened


def cpu_seconds(link: ProcessLink) -> float:
    fields = Path(f"/proc/{link.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_cycles_repeat_exactly(board: Board, bench: Build) -> None:
    """In another process, in another order, and after a restart."""
    runs = []
    for ops in (OPS, OPS[::-1]):
        with open_link(board, bench.elf) as opened:
            client = Client(opened)
            client.hello()
            runs.append({op.key: client.run_op(op, seed=3).ticks for op in ops})
            client.reset()
            runs.append({op.key: client.run_op(op, seed=3).ticks for op in ops})
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert all(ticks > 0 for ticks in runs[0].values())


@pytest.mark.skipif(
    not (shutil.which("qemu-system-arm") and shutil.which("arm-none-eabi-gcc")), reason="needs QEMU for Arm"
)
def test_it_computes_what_the_cortex_m4_computes(link: ProcessLink, tmp_path: Path) -> None:
    m4 = load_board("qemu-cortex-m4")
    built = build(render_bench(m4, tmp_path), m4)
    client = Client(link)
    with open_link(m4, built.elf) as other:
        reference = Client(other)
        reference.hello()
        for op in OPS:
            assert client.run_op(op).output_crc == reference.run_op(op).output_crc, op.key


@pytest.fixture(scope="module")
def bad(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = render_bench(board, tmp_path_factory.mktemp("bad"))
    source = folder / "bench" / "bench.c"
    text = source.read_text()
    assert RUN_OP in text
    source.write_text(text.replace(RUN_OP, MISCHIEF + RUN_OP + "    mischief(r->seed);\n"))
    return build(folder, board)


@pytest.mark.parametrize(
    ("seed", "ibex_status", "cv32e40p_status"),  # mcause; None where the core has no such exception
    [(ILLEGAL, 2, 2), (WILD, 5, None), (FETCH, 1, 2), (TO_FLASH, 7, None)],
    ids=["illegal", "wild", "fetch", "to-flash"],
)
def test_a_fault_restarts_it(
    board: Board, bad: Build, seed: int, ibex_status: int | None, cv32e40p_status: int | None
) -> None:
    assert board.emulator is not None
    status = ibex_status if board.emulator.machine == "ibex" else cv32e40p_status
    with open_link(board, bad.elf) as opened:
        client = Client(opened, patience_s=1.0)
        client.hello()
        expected = client.run_op(OP).output_crc
        with pytest.raises(RestartedError) as caught:
            client.run_op(OP, seed=seed)
        if status is None:
            assert caught.value.fault is None
            assert "where nothing is" in opened.stderr_tail()
        else:
            assert caught.value.fault is not None and caught.value.fault.status == status
        client.hello()
        assert client.run_op(OP).output_crc == expected


def test_it_sleeps_while_it_waits_for_a_byte(link: ProcessLink) -> None:
    before = cpu_seconds(link)
    time.sleep(1.0)
    assert cpu_seconds(link) - before < 0.05


def test_it_ends_when_its_line_does(board: Board, bench: Build) -> None:
    """Also in the middle of an operator of some seconds."""
    for busy in (False, True):
        with open_link(board, bench.elf) as opened:
            assert isinstance(opened, ProcessLink)
            client = Client(opened)
            client.hello()
            if busy:
                with pytest.raises(LinkError):
                    Client(_Hasty(opened)).run_op(LARGE, repetitions=5)  # type: ignore[arg-type]
            opened._socket.close()
            deadline = time.monotonic() + 5.0
            while opened.alive() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert opened.exit_code() == 0


class _Hasty:
    """Sends, and reports a dead line at the first read."""

    def __init__(self, link: ProcessLink) -> None:
        self._link = link
        self.describe = link.describe

    def write(self, data: bytes) -> None:
        self._link.write(data)

    def read(self, timeout_s: float) -> bytes:
        time.sleep(0.2)
        raise LinkError("cut")


def test_what_is_no_firmware_for_it_is_said(board: Board, bench: Build, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no firmware at"):
        open_link(board, tmp_path / "absent.elf")
    cut = tmp_path / "cut.elf"
    cut.write_bytes(bench.elf.read_bytes()[:2000])
    alien = tmp_path / "alien.elf"
    alien.write_bytes(Path("/bin/true").read_bytes())
    for path, complaint in ((cut, "cut short"), (alien, "no ELF file for 32-bit RISC-V")):
        with open_link(board, path) as opened, pytest.raises(LinkError) as caught:
            Client(opened).hello(boot_s=5.0)
        assert complaint in f"{caught.value} {caught.value.hint}"


# -- building ----------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolError, match="sources of the core pdp11 are not installed") as caught:
        rtl.simulator("pdp11")
    assert "pip install pythondata-cpu-pdp11" in caught.value.hint
    real = shutil.which
    for program, package in (("verilator", "verilator"), ("g++", "g++"), ("make", "make")):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "which", lambda name, gone=program: None if name == gone else real(name))
            with pytest.raises(ToolError, match=re.escape(f"{program} is not installed")) as caught:
                rtl.simulator("ibex")
        assert f"apt install {package}" in caught.value.hint


def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch, board: Board) -> None:
    assert board.emulator is not None
    first = rtl.simulator(board.emulator.machine)
    monkeypatch.setattr(rtl, "_build", lambda *args: pytest.fail("built again"))
    assert rtl.simulator(board.emulator.machine) == first


def test_a_failing_build_says_what_the_tool_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "firmware"
    shutil.copytree(asset_dir("firmware") / "emulator", copy / "emulator")
    with (copy / "emulator" / "rtl" / "ibex.sv").open("a") as file:
        file.write("module nonsense ((;\n")
    monkeypatch.setattr(rtl, "asset_dir", lambda name: copy)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ToolError, match=r"verilator cannot make the simulator of a core: (.|\n)*ibex\.sv"):
        rtl.simulator("ibex")
    assert not [
        path for path in (tmp_path / "cache" / "edgenas").iterdir() if not path.name.endswith(".lock")
    ]
