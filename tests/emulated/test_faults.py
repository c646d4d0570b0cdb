"""Firmware that hangs, faults, overflows its stack, resets or is another one; a disk that is full."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.errors import LinkError, LutError
from pipeline.firmware import Build, build, render_bench
from pipeline.firmware.symbolize import fault_explainer, place_text, places
from pipeline.links import Link, open_link
from pipeline.profiler import bench as bench_module
from pipeline.profiler.bench import BenchSession
from pipeline.profiler.journal import Journal, Measurement
from pipeline.space.opspec import OpSpec
from pipeline.wire import Client, Kind, RestartedError, WrongFirmwareError
from pipeline.wire.messages import PROTOCOL_VERSION

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

BOARD = load_board("qemu-cortex-m4")
OPS = [OpSpec("logistic", 1, 1, n, 1, 1, n) for n in range(8, 32, 2)]

HANG, FAULT, OVERFLOW, RESET = 0xBAD00001, 0xBAD00002, 0xBAD00003, 0xBAD00004  # seeds that ask for it
MISCHIEF = """
__attribute__((noinline)) static uint32_t dig(volatile uint32_t *above, uint32_t depth) {
    volatile uint32_t hole[16] = {depth};
    return depth == 0u ? *above : dig(hole, depth - 1u) + hole[depth & 15u];
}

__attribute__((noinline)) static void mischief(uint32_t seed) {
    switch (seed) {
    case 0xBAD00001u:
        for (;;) {
            __asm__ volatile("");
        }
    case 0xBAD00002u:
        random_state = *(volatile uint32_t *)0xE0200000u; /* HERE */
        break;
    case 0xBAD00003u:
        random_state = dig(&random_state, 100000u);
        break;
    case 0xBAD00004u:
        port_reset();
    default:
        break;
    }
}

static uint32_t run_op(const request_t *r, server_reply_t *reply) {
    mischief(r->seed);
"""


def render_mischief(board: object, folder: Path) -> Path:
    """The benchmark, which misbehaves for certain seeds."""
    render_bench(board, folder)  # type: ignore[arg-type]
    path = folder / "bench" / "bench.c"
    head = "static uint32_t run_op(const request_t *r, server_reply_t *reply) {\n"
    text = path.read_text()
    assert text.count(head) == 1
    path.write_text(text.replace(head, MISCHIEF))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mischief")


@pytest.fixture(scope="module")
def bad(folder: Path) -> Build:
    return build(render_mischief(BOARD, folder), BOARD)


@pytest.fixture()
def link(bad: Build) -> Iterator[Link]:
    with open_link(BOARD, bad.elf) as opened:
        yield opened


@pytest.fixture()
def client(link: Link, bad: Build) -> Client:
    client = Client(link, patience_s=1.0, explain=fault_explainer(bad.elf, BOARD))
    client.hello()
    return client


# -- one request ---------------------------------------------------------------------------------------------


def test_a_fault_is_named_with_function_file_line_and_registers(
    client: Client, bad: Build, folder: Path
) -> None:
    lines = (folder / "bench" / "bench.c").read_text().splitlines()
    line = 1 + next(i for i, text in enumerate(lines) if "/* HERE */" in text)
    with pytest.raises(RestartedError) as caught:
        client.run_op(OPS[0], seed=FAULT)
    message = caught.value.message
    assert f"HardFault in mischief at bench/bench.c:{line}, " in message
    assert "precise bus error" in message and "address 0xe0200000" in message
    assert "called from run_op" in message
    fault = caught.value.fault
    assert fault is not None and fault.address == 0xE0200000
    for value in (fault.pc, fault.lr, fault.sp, fault.status, fault.status2):
        assert f"0x{value:08x}" in message
    # the device goes on, and remembers
    assert client.hello().fault_pc == fault.pc
    assert client.fault() == fault
    assert client.run_op(OPS[0]).ticks > 0


def test_a_stack_overflow_is_called_one(client: Client) -> None:
    with pytest.raises(RestartedError, match="stack overflow") as caught:
        client.run_op(OPS[0], seed=OVERFLOW)
    fault = caught.value.fault
    assert fault is not None and fault.sp < BOARD.memory.sram.origin + 256
    client.hello()
    assert client.run_op(OPS[0]).ticks > 0


def test_a_device_that_resets_by_itself_is_noticed_by_the_next_request(client: Client) -> None:
    expected = client.run_op(OPS[0])
    with pytest.raises(RestartedError, match=r"restarted by itself .* recorded no fault") as caught:
        client.run_op(OPS[0], seed=RESET)
    assert caught.value.fault is None
    for _ in range(2):  # whatever is asked, until it is greeted
        with pytest.raises(RestartedError):
            client.memory()
    assert client.hello().fault_status == 0
    assert client.run_op(OPS[0]) == expected


def test_a_hang_is_one_within_the_patience(client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(LinkError, match="does not answer RUN_OP: it hangs"):
        client.run_op(OPS[0], seed=HANG)
    assert time.monotonic() - started < 5.0


def test_places(bad: Build) -> None:
    symbol = next(s for s in bad.sizes.symbols if s.name == "edgenas_softmax")
    place = places(bad.elf, "arm-none-eabi-", symbol.address)[-1]
    assert (place.function, place.file.split("/")[-1]) == ("edgenas_softmax", "softmax.c")
    assert place.line > 0
    # fallbacks: no such address, no such tool, no such file
    assert place_text(bad.elf, "arm-none-eabi-", 0x40000000) == "0x40000000"
    assert place_text(bad.elf, "no-such-cpu-", symbol.address) == f"0x{symbol.address:08x}"
    assert place_text(bad.elf.with_name("none.elf"), "arm-none-eabi-", 4) == "0x00000004"


# -- a whole run ---------------------------------------------------------------------------------------------


def naughty(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], int]) -> list[str]:
    """Has the session's client ask for `when(call number)`, a seed; returns the errors it gets."""
    monkeypatch.setattr(bench_module, "render_bench", render_mischief)
    real, errors, calls = Client.run_op, [], [0]

    def run_op(self: Client, op: OpSpec, **_: int) -> object:
        calls[0] += 1
        self._line.patience_s = 0.5  # a hang costs that much
        try:
            return real(self, op, seed=when(calls[0]))
        except LinkError as error:
            errors.append(error.message)
            raise

    monkeypatch.setattr(Client, "run_op", run_op)
    return errors


def run(folder: Path, journal: Path) -> dict[str, Measurement]:
    with BenchSession(BOARD, folder) as session, Journal(journal, "id") as book:
        for op in OPS:
            if not book.of(op):
                book.add(session.measure(op))
        return {op.key: book.of(op)[0] for op in OPS}


@pytest.mark.parametrize(
    ("seed", "message"),
    [(HANG, "hangs"), (FAULT, "HardFault in mischief"), (OVERFLOW, "stack overflow"), (RESET, "by itself")],
    ids=["hang", "fault", "overflow", "reset"],
)
def test_a_run_goes_on(
    seed: int, message: str, folder: Path, bad: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        naughty(patch, lambda _: 1)
        expected = run(folder, tmp_path / "good.sqlite")
    errors = naughty(monkeypatch, lambda call: seed if call % 4 == 3 else 1)
    assert run(folder, tmp_path / "bad.sqlite") == expected
    assert len(errors) >= len(OPS) // 4
    assert all(message in error for error in errors), errors


def test_an_operator_that_always_faults_is_refused_and_the_run_goes_on(
    folder: Path, bad: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naughty(
        monkeypatch, lambda call: FAULT if 3 <= call <= 6 else 1
    )  # the third operator, and its repetitions
    rows = run(folder, tmp_path / "journal.sqlite")
    refused = [key for key, m in rows.items() if m.refused]
    assert refused == [OPS[2].key]
    assert "FAULT" in rows[OPS[2].key].refused and "mischief at bench/bench.c" in rows[OPS[2].key].refused


# -- another firmware ----------------------------------------------------------------------------------------


def opens(monkeypatch: pytest.MonkeyPatch, elf: Path) -> list[int]:
    """Has sessions start `elf` instead; returns a list that grows with each start."""
    starts: list[int] = []

    def open_other(board: object, _: Path, **options: object) -> Link:
        starts.append(1)
        return open_link(board, elf, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_module, "open_link", open_other)
    return starts


def test_another_build_is_named_and_not_tried_again(
    bad: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = opens(monkeypatch, bad.elf)
    with (
        BenchSession(BOARD, tmp_path / "bench") as session,
        pytest.raises(WrongFirmwareError, match=f"runs build {bad.build_id.hex()}, not ") as caught,
    ):
        session.measure(OPS[0])
    assert "flash" in caught.value.hint
    assert len(starts) == 1


def test_another_kind_is_named(client: Client) -> None:
    with pytest.raises(WrongFirmwareError, match="runs the BENCH firmware, not APP"):
        client.hello(kind=Kind.APP)


@pytest.mark.parametrize(
    ("version", "size", "message"),
    [(PROTOCOL_VERSION - 1, 0, "older"), (PROTOCOL_VERSION + 1, 12, "newer")],
    ids=["older", "newer with a longer hello"],
)
def test_another_protocol_is_named(version: int, size: int, message: str, tmp_path: Path) -> None:
    folder = render_bench(BOARD, tmp_path)
    header, server = folder / "wire" / "wire.h", folder / "wire" / "server.c"
    line = "#define WIRE_PROTOCOL_VERSION "
    header.write_text(header.read_text().replace(f"{line}{PROTOCOL_VERSION}u", f"{line}{version}u"))
    call = "        hello(server, reply);\n"
    server.write_text(server.read_text().replace(call, f"{call}        reply->payload_bytes += {size}u;\n"))
    with (
        open_link(BOARD, build(folder, BOARD).elf) as link,
        pytest.raises(WrongFirmwareError, match=f"speaks protocol {version}, this is") as caught,
    ):
        Client(link).hello()
    assert message in caught.value.hint and "flash" in caught.value.hint


def test_a_firmware_that_only_prints_is_quoted(tmp_path: Path) -> None:
    folder = render_bench(BOARD, tmp_path)
    server = folder / "wire" / "server.c"
    text = server.read_text()
    loop = "        const int state = frame_feed(&incoming, port_uart_read());\n"
    assert loop in text
    hello = '(void)port_uart_read(); port_uart_write((const uint8_t *)"blink on\\r\\n", 10); continue;\n'
    server.write_text(text.replace(loop, hello + loop))
    with (
        open_link(BOARD, build(folder, BOARD).elf) as link,
        pytest.raises(LinkError, match=r"no frames .*blink on") as caught,
    ):
        Client(link).hello(boot_s=1.0)
    assert "baud" in caught.value.hint


# -- the disk is full ----------------------------------------------------------------------------------------

FILL = """
    import resource, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from pipeline.boards import load_board
    from pipeline.errors import EdgeNasError
    from pipeline.profiler.bench import BenchSession
    from pipeline.profiler.journal import Journal
    from pipeline.space.opspec import OpSpec
    board = load_board("qemu-cortex-m4")
    with BenchSession(board, Path(sys.argv[2])) as session, Journal(Path(sys.argv[3]), "id") as book:
        session.measure(OpSpec("softmax", 1, 1, 2, 1, 1, 2))  # the emulator is up and has its own files
        limit = Path(sys.argv[3]).stat().st_size + 8192
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for n in range(1, 400):
            op = OpSpec("softmax", 1, 1, n, 1, 1, n)
            try:
                book.add(session.measure(op))
            except EdgeNasError as error:
                print(n, error, flush=True)
                sys.exit(error.exit_code)
"""


def test_full_disk_ends_the_run_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE refuses the write as a full disk does; then there is room again, and the run resumes."""
    journal = tmp_path / "journal.sqlite"
    root = str(Path(bench_module.__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FILL), root, str(tmp_path / "bench"), str(journal)],
        capture_output=True, text=True, timeout=200, preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    number, _, message = done.stdout.partition(" ")
    assert "cannot write to the journal" in message and "make room" in message
    last = int(number)
    ops = [OpSpec("softmax", 1, 1, n, 1, 1, n) for n in range(1, last + 20)]
    with Journal(journal, "id") as book:
        safe = [book.of(op) for op in ops]
        # all that were written are there, once and whole; the one that was refused is not
        assert [len(found) for found in safe] == [1] * (last - 1) + [0] * 20
        assert f"the {last - 1} measurements" in message
        with BenchSession(BOARD, tmp_path / "bench") as session:
            for op, found in zip(ops, safe, strict=True):
                again = session.measure(op)
                if found:
                    assert (again.cycles, again.instructions, again.output_crc) == (
                        found[0].cycles, found[0].instructions, found[0].output_crc,
                    )  # fmt: skip
                else:
                    book.add(again)
        assert all(len(book.of(op)) == 1 for op in ops)


def test_what_did_not_fit_is_written_once_there_is_room(tmp_path: Path) -> None:
    ops = [OpSpec("softmax", 1, 1, n, 1, 1, n) for n in range(1, 2000)]
    with Journal(tmp_path / "j.sqlite", "id") as book:
        pages = book._db.execute("PRAGMA page_count").fetchone()[0]
        book._db.execute(f"PRAGMA max_page_count = {pages + 2}")
        refused = []
        for op in ops:
            try:
                book.add(Measurement(op, cycles=float(op.in_c)))
            except LutError as error:
                refused.append(error)
                if len(refused) == 3:
                    break
        assert "full" in refused[0].message
        assert book.unwritten == 3
        book._db.execute(f"PRAGMA max_page_count = {pages + 1000}")
        done = book.add(Measurement(ops[-1], cycles=1.0))
        assert book.unwritten == 0
        assert book.of(ops[-1]) == [done]
        index = next(i for i, op in enumerate(ops) if not book.of(op))
        assert [book.of(op)[0].cycles for op in ops[:index]] == [op.in_c for op in ops[:index]]
        assert index >= 3
