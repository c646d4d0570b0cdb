"""A board added by data alone, as docs/add-a-board.md walks through it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pipeline.assets import asset_dir
from pipeline.boards import board_names, known, load_board
from pipeline.errors import ConfigError
from pipeline.firmware import build, render_bench
from pipeline.flashers import FLASHERS
from pipeline.latency import timing
from pipeline.links import open_link
from pipeline.space.opspec import OpSpec
from pipeline.wire.client import Client

ROOT = Path(__file__).parents[2]
OP = OpSpec(
    "conv2d", 6, 6, 8, 6, 6, 5, kernel_h=3, kernel_w=3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1
)


def changed(source: str, **replacements: str) -> str:
    """The board file of `source` with values of keys replaced, each of which must be there."""
    text = (asset_dir("boards") / f"{source}.toml").read_text(encoding="utf-8")
    for key, value in replacements.items():
        text, count = re.subn(rf"^{key} = [^#\n]*", f"{key} = {value} ", text, count=1, flags=re.MULTILINE)
        assert count == 1, key
    return text


@pytest.mark.skipif(
    not (shutil.which("qemu-system-arm") and shutil.which("arm-none-eabi-gcc")),
    reason="needs QEMU and a compiler",
)
def test_a_board_of_a_known_family_runs(tmp_path: Path) -> None:
    """Half the clock and half the memory of the emulated Cortex-M4: no line of code changes."""
    path = tmp_path / "half.toml"
    path.write_text(
        changed("qemu-cortex-m4", name='"half-m4"', hz="84_000_000").replace("262_144", "131_072")
    )
    board = load_board(str(path))
    built = build(render_bench(board, tmp_path / "bench"), board)
    with open_link(board, built.elf) as link:
        client = Client(link)
        assert client.hello().board == "half-m4"
        assert client.describe().clock_hz == 84_000_000
        assert client.describe().pool_bytes < 131_072
        assert client.run_op(OP).ticks > 0


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs arm-none-eabi-gcc")
def test_another_board_of_a_real_family_builds(tmp_path: Path) -> None:
    """A slower STM32F4: other name, clock and PLL multiplier."""
    multiplier = load_board("nucleo-f446re").port.defines["PLL_N"]
    path = tmp_path / "slow.toml"
    path.write_text(changed("nucleo-f446re", name='"slow-f4"', hz="90_000_000", PLL_N=str(multiplier // 2)))
    board = load_board(str(path))
    built = build(render_bench(board, tmp_path / "bench"), board)
    header = (tmp_path / "bench/port/board.h").read_text()
    assert f"#define BOARD_PLL_N {multiplier // 2}u" in header
    assert 0 < built.flash_bytes < board.memory.flash.bytes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("folders", '["baremetal", "nonesuch"]', "nonesuch"),
        ("hz", "-3", "clock.hz"),
        ("kind", '"cmsdk-timer"\nspeed = 3', "speed"),
        ("counts", '"furlongs"', "furlongs"),
        ("folders", '"mps2"', "list of strings"),
    ],
)
def test_mistakes_are_named(key: str, value: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(changed("qemu-cortex-m4", **{key: value}))
    with pytest.raises(ConfigError, match=message) as caught:
        render_bench(load_board(str(path)), tmp_path / "bench")
    assert caught.value.hint


def test_two_folders_with_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "twice.toml"
    path.write_text(changed("qemu-cortex-m4", folders='["baremetal", "cortexm", "mps2", "mps2"]'))
    with pytest.raises(ConfigError, match="has port/mps2"):
        render_bench(load_board(str(path)), tmp_path / "bench")


def test_every_shipped_board_says_where_its_numbers_come_from() -> None:
    for name in board_names():
        board = load_board(name)
        assert board.clock_reference, name
        if not board.port.hosted:
            assert board.memory.flash.reference and board.memory.sram.reference, name
            assert board.uart.reference and board.counter.reference, name
        if board.emulator is None:
            assert board.notes, f"{name}: say what of it is untried"


def test_the_guide_names_every_key_and_only_real_folders() -> None:
    guide = (ROOT / "docs/add-a-board.md").read_text(encoding="utf-8")
    for key in ("core.isa", "clock.hz", "memory.stack.bytes", "port.defines", "usb.ids", "counter.counts"):
        assert key.split(".")[-1] in guide
    for row in re.findall(r"^\| (`baremetal`.*?) \|", guide, flags=re.MULTILINE):
        for folder in re.findall(r"`([a-z0-9]+)`", row):
            assert (asset_dir("firmware") / "port" / folder).is_dir(), folder


@pytest.mark.parametrize(
    ("key", "value", "complaint", "hint"),
    [
        ("name", '"../x y"', "'name' is '../x y'", "it names folders"),
        ("isa", '"armv9"', "'core.isa' is 'armv9'", "armv7em"),
        ("isa", '"armv7m"', "'core.isa' is 'armv7m'", "portable"),
        ("timing", '"cortex_m9"', "'core.timing' is 'cortex_m9'", "cortex_m4"),
        ("folders", '["baremetal", "../engine"]', "'port.folders' has '../engine'", "mps2"),
        ("folders", '["baremetal", "mps3"]', "'port.folders' has 'mps3'", "mps2"),
        ("driver", '"uart9"', "'uart.driver' is 'uart9'", "cmsdk"),
    ],
)
def test_what_there_is_not_is_refused_when_the_file_is_read(
    key: str, value: str, complaint: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(changed("qemu-cortex-m4", **{key: value}))
    with pytest.raises(ConfigError) as caught:
        load_board(str(path))
    assert re.match(rf"mine\.toml:\d+: {re.escape(complaint)}", caught.value.message), caught.value.message
    assert hint in caught.value.hint


def test_memories_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    board = load_board("nucleo-f446re")
    flash, sram = board.memory.flash, board.memory.sram
    text = changed("nucleo-f446re")
    (line,) = re.findall(r"^origin = 0x2000_?0000.*$", text, flags=re.MULTILINE)
    # its last byte in the flash, and the first one behind it, which is allowed
    for origin, overlaps in ((flash.origin + flash.bytes - 1, True), (flash.origin + flash.bytes, False),
                             (flash.origin - sram.bytes + 1, True), (flash.origin - sram.bytes, False)):  # fmt: skip
        path.write_text(text.replace(line, f"origin = {origin}"))
        if overlaps:
            with pytest.raises(
                ConfigError, match=r"mine\.toml:\d+: 'memory.sram.origin' puts it over the flash"
            ):
                load_board(str(path))
        else:
            assert load_board(str(path)).memory.sram.origin == origin


def test_a_guard_that_would_lock_up_more_than_itself_is_refused(tmp_path: Path) -> None:
    """The PMP's region of 64 kB below the SRAM, as firmware/port/riscv/riscv.c encodes it."""
    path = tmp_path / "mine.toml"
    flash = load_board("qemu-rv32").memory.flash
    text = changed("qemu-rv32")
    cases = {
        0x80108000: r"no multiple of 0x10000",
        flash.origin + flash.bytes: r"puts the stack's guard, 0x80070000 to 0x8007ffff, over the flash",
        flash.origin + flash.bytes + 0x10000: "",
    }
    for origin, complaint in cases.items():
        path.write_text(text.replace("origin = 0x80100000", f"origin = {origin}"))
        if complaint:
            with pytest.raises(ConfigError, match=rf"mine\.toml:\d+: 'memory.sram.origin' .*{complaint}"):
                load_board(str(path))
            path.write_text(
                re.sub(r"(?m)^PMP = .*$", "", path.read_text())
            )  # no guard: all of it may be used
        assert load_board(str(path)).memory.sram.origin == origin


def test_what_a_board_may_name_is_what_there_is() -> None:
    """The lists of pipeline.boards, which cannot import the rooms above it, against those rooms."""
    assert set(known.TIMINGS) == set(timing._MODELS)
    assert set(known.FLASHERS) == set(FLASHERS)
    boards = [load_board(name) for name in board_names()]
    assert {board.core.isa for board in boards} | {"portable"} == set(known.ISAS)
    assert {board.uart.driver for board in boards} == set(known.UARTS)
    specific = {path.name for path in (asset_dir("firmware") / "engine").iterdir()} - {"include"}
    assert specific <= set(known.ISAS)
