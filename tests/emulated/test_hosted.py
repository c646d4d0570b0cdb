"""Firmware under an operating system: this machine, and a Linux board over SSH (whose processor qemu-user emulates)."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from board_cases import BoardCases

from pipeline.boards import Board, load_board
from pipeline.errors import LinkError, ToolError
from pipeline.firmware import Build, build, render_bench
from pipeline.firmware.symbolize import fault_explainer
from pipeline.links import open_link
from pipeline.space.opspec import OpSpec
from pipeline.wire.client import Client
from pipeline.wire.exchange import RestartedError

PI, HOST = load_board("raspberry-pi-3"), load_board("host")
SSH_PORT = "ssh://pi@raspberrypi:2222"
pytestmark = pytest.mark.emulated
needs_compiler = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None,
    reason="needs gcc-aarch64-linux-gnu and libc6-dev-arm64-cross",
)
needs_user_mode = pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="needs qemu-user")

# A stand-in for ssh: copies to this machine, and runs the program in QEMU's user mode. As with sshd, the other end's
# shell does not end with this one.
SSH = """#!/bin/sh
for last; do :; done
case "$last" in
cat*) exec sh -c "$last" ;;
esac
exec 3<&0
setsid sh -c "qemu-aarch64 $last" <&3 3<&- &
exec 3<&- <&-
wait $!
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(render_bench(PI, tmp_path_factory.mktemp("pi")), PI)


def install_ssh(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "ssh"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def programs_there() -> set[Path]:
    """What links have copied to the board, which here is this machine."""
    return set(Path("/tmp").glob(f"edgenas-{PI.name}-*"))


@needs_compiler
@needs_user_mode
class TestLinuxBoard(BoardCases):
    """The cases of every board, over SSH."""

    @pytest.fixture(scope="class")
    @classmethod
    def board(cls) -> Board:
        return PI

    @pytest.fixture(scope="class")
    @classmethod
    def port(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            install_ssh(tmp_path_factory.mktemp("bin"), SSH, monkeypatch)
            yield SSH_PORT

    def test_it_restarts_when_told_to(self, client: Client, bench: Build) -> None:
        pytest.skip("QEMU's user mode runs one program; the restart is tested on the host")

    def test_nothing_stays_behind(self, bench: Build, port: str) -> None:
        before = programs_there()
        with open_link(PI, bench.elf, port=port) as link:
            Client(link).hello()
            (mine,) = programs_there() - before
        deadline = time.monotonic() + 5.0
        while mine in programs_there() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert mine not in programs_there()


@needs_compiler
def test_a_host_that_refuses(program: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_ssh(
        tmp_path,
        "#!/bin/sh\necho 'pi@raspberrypi: Permission denied (publickey).' >&2\nexit 255\n",
        monkeypatch,
    )
    with pytest.raises(LinkError, match="Permission denied") as caught:
        open_link(PI, program.elf, port="ssh://pi@raspberrypi")
    assert "password" in caught.value.hint


@pytest.mark.parametrize("target", ["ssh://", "ssh://pi@host;rm", "ssh://-oProxyCommand=x"])
def test_no_such_target(target: str, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="no SSH target"):
        open_link(PI, tmp_path / "firmware.elf", port=target)


def test_another_machine_needs_a_port(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="another machine") as caught:
        open_link(PI, tmp_path / "firmware.elf")
    assert "--port" in caught.value.hint


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no firmware"):
        open_link(load_board("host"), tmp_path / "firmware.elf")


# -- faults of a process, and its stack -------------------------------------------------------------------

OP = OpSpec("logistic", 1, 1, 16, 1, 1, 16)
WILD, UNDEFINED, OVERFLOW, DEEP = 0xBAD00001, 0xBAD00002, 0xBAD00003, 0xBAD00004
MISCHIEF = """
__attribute__((noinline)) static uint32_t dig(volatile uint32_t *above, uint32_t depth) {
    volatile uint32_t hole[16] = {depth};
    return depth == 0u ? *above : dig(hole, depth - 1u) + hole[depth & 15u];
}

__attribute__((noinline)) static void mischief(uint32_t seed) {
    static volatile uintptr_t nowhere = 0x10;
    if (seed == 0xBAD00001u) {
        random_state = *(volatile uint32_t *)nowhere;
    } else if (seed == 0xBAD00002u) {
        __builtin_trap();
    } else if (seed == 0xBAD00003u) {
        random_state = dig(&random_state, 100000000u);
    } else if (seed == 0xBAD00004u) {
        random_state = dig(&random_state, 100u);
    }
}
"""


def with_mischief(board: Board, out: Path) -> Build:
    """The benchmark with seeds that make it fault, or use more stack."""
    folder = render_bench(board, out)
    source = folder / "bench/bench.c"
    text = source.read_text(encoding="utf-8")
    at = text.index("static uint32_t run_op(")
    text = text[:at] + MISCHIEF + text[at:]
    text = text.replace("    random_state = r->seed", "    mischief(r->seed);\n    random_state = r->seed", 1)
    assert "    mischief(r->seed);" in text
    source.write_text(text, encoding="utf-8")
    return build(folder, board)


@pytest.fixture(scope="module")
def mischief(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return with_mischief(HOST, tmp_path_factory.mktemp("mischief"))


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (WILD, "segmentation fault in mischief"),
        (UNDEFINED, "illegal instruction in mischief"),
        (OVERFLOW, "segmentation fault in dig"),
    ],
    ids=["wild", "undefined", "overflow"],
)
def test_a_fault_is_reported_and_the_link_goes_on(mischief: Build, seed: int, what: str) -> None:
    with open_link(HOST, mischief.elf) as link:
        client = Client(link, patience_s=1.0, explain=fault_explainer(mischief.elf, HOST))
        client.hello()
        for _ in range(2):  # the restarted program catches faults too
            with pytest.raises(RestartedError, match=rf"{what} at bench/bench\.c:\d+") as caught:
                client.run_op(OP, seed=seed)
            assert caught.value.fault is not None
            if seed == WILD:
                assert caught.value.fault.address == 0x10
            assert client.hello().fault_status != 0
            assert client.run_op(OP).output_bytes == 16
        assert client.reset().fault_status == 0  # a restart on request is none


def test_the_stacks_high_water_mark(mischief: Build) -> None:
    with open_link(HOST, mischief.elf) as link:
        client = Client(link)
        client.hello()
        client.run_op(OP)
        usual = client.memory().stack_used_bytes
        client.run_op(OP, seed=DEEP)
        deep = client.memory().stack_used_bytes
    assert 0 < usual < 16_384
    assert usual + 100 * 64 <= deep < 65_536


@needs_compiler
@needs_user_mode
def test_a_fault_where_it_cannot_restart(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU's user mode cannot start another program: the process ends, and the link says of what."""
    install_ssh(tmp_path, SSH, monkeypatch)
    built = with_mischief(PI, tmp_path_factory.mktemp("pi-mischief"))
    with open_link(PI, built.elf, port=SSH_PORT) as link:
        client = Client(link, patience_s=1.0)
        client.hello()
        with pytest.raises(LinkError) as caught:
            client.run_op(OP, seed=WILD)
    assert "exit code 139" in caught.value.hint and "signal 11" in caught.value.hint


# -- its clock --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(render_bench(HOST, tmp_path_factory.mktemp("clock")), HOST)


def test_what_takes_less_than_a_tick(bench: Build) -> None:
    """It never comes out negative, which 32 bits would make 2^32; and many together have the right length."""
    tiny = OpSpec("logistic", 1, 1, 16, 1, 1, 16)
    for _ in range(10):  # the empty region is measured anew at each start
        with open_link(HOST, bench.elf) as link:
            client = Client(link)
            client.hello()
            assert all(client.run_op(tiny, seed=seed).ticks < 10**6 for seed in range(1, 40))
            many = client.run_op(tiny, repetitions=1000).ticks
    assert 0 < many < 1000 * 1000


def test_profiling_can_be_interrupted_at_any_time(tmp_path: Path) -> None:
    """All of it takes minutes; the measuring is done by other threads than the one that hears of the signal."""
    command = [
        sys.executable,
        "-m",
        "pipeline.cli.main",
        "profile",
        "--board",
        HOST.name,
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    journal = tmp_path / "cache" / "edgenas" / "profile" / f"{HOST.name}.sqlite"
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 120.0
            while measurements_in(journal) < 200 and time.monotonic() < until:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30.0)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; the same command goes on where it stopped"
    assert measurements_in(journal) >= 200
    assert not list(tmp_path.glob("**/*.csv")), "a table of all operators was measured nevertheless"


def measurements_in(journal: Path) -> int:
    if not journal.is_file():
        return 0
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as db:
        there = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'measurements'").fetchone()[0]
        return int(db.execute("SELECT count(*) FROM measurements").fetchone()[0]) if there else 0
