"""Board files and TOML tables: every complaint names file, line and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.assets import asset_dir
from pipeline.boards import board_names, load_board
from pipeline.errors import ConfigError, LutError
from pipeline.latency.identity import refuse_other_identity
from pipeline.latency.lut import Lut
from pipeline.profiler import identity as identity_module
from pipeline.profiler.identity import current_identity, describe_processor, placement, timing_name
from pipeline.tomltable import Table

GOOD = load_board("qemu-cortex-m4").path.read_text()


def test_shipped_boards_load() -> None:
    for name in board_names():
        board = load_board(name)
        assert board.name == name
        assert 0 < board.stack_bytes < board.memory.sram.bytes
        assert board.clock_reference and board.memory.flash.reference and board.memory.sram.reference


def test_unknown_board_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown board 'qemu-cortex-m5'") as caught:
        load_board("qemu-cortex-m5")
    assert "qemu-cortex-m4" in caught.value.hint


def test_a_board_file_that_is_not_there_is_called_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no board file .*my-board\.toml"):
        load_board(str(tmp_path / "my-board.toml"))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("hz = 168_000_000", 'hz = "fast"', r"b.toml:\d+: 'clock.hz' must be an integer, not 'fast'"),
        ("hz = 168_000_000", "herz = 1", r"b.toml:\d+: 'clock.hz' is missing"),
        ("wait_states = 0", "wait_state = 0", r"'memory.flash.wait_state' is not a known key"),
        ('counts = "instructions"', 'counts = "ticks"', r"'counter.counts' is 'ticks'"),
        ("bytes = 2048", "bytes = 262144", r"'memory.stack.bytes' is 262144"),
        ("bytes = 2048", "bytes = 0", r"'memory.stack.bytes' is 0"),
        ("[clock]", "[clock", "not valid TOML.*line"),
    ],
)
def test_bad_board_files(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    path = tmp_path / "b.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=complaint):
        load_board(str(path))


def test_a_board_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        GOOD.replace('name = "qemu-cortex-m4"', 'name = "mine"').replace("168_000_000", "80_000_000")
    )
    board = load_board(str(path))
    assert (board.name, board.clock_hz) == ("mine", 80_000_000)


def test_line_numbers_point_at_the_key(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text("a = 1\n\n[one]\nx = 1\n[two]\nx = 2\ny = 3\n")
    table = Table.read(path)
    assert table.sub("two").line_of("x") == 6
    assert table.sub("two").line_of("absent") == 5
    assert table.line_of("two") == 5
    assert table.line_of("a") == 1


@given(st.text(max_size=200))
def test_any_text_is_a_board_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_board(str(path))


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii"))
def test_one_changed_character_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, position: int, character: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.toml"
    path.write_text(GOOD[:position] + character + GOOD[position + 1 :], encoding="utf-8")
    try:
        load_board(str(path))
    except ConfigError as error:
        assert error.message


def test_where_memory_lies_is_part_of_a_real_table_s_identity() -> None:
    """The flash of nucleo-f767zi over ITCM instead of AXI is another memory; in QEMU an address changes nothing."""
    for name, matters in (("nucleo-f767zi", True), ("rtl-ibex", True), ("qemu-cortex-m7", False)):
        board = load_board(name)
        flash = replace(board.memory.flash, origin=board.memory.flash.origin + 0x200000)
        moved = replace(board, memory=replace(board.memory, flash=flash))
        assert (placement(moved) != placement(board)) == matters, name
    assert placement(load_board("nucleo-f767zi")) == (
        "code in flash at 0x08000000, 7 wait states; data in SRAM at 0x20000000, 0 wait states"
    )
    for path in sorted(asset_dir("luts").glob("*/edgenas.csv")):
        assert Lut.load(path).identity.memory == placement(load_board(path.parent.name))


X86 = "cpu family\t: 6\nmodel\t\t: 106\nmodel name\t: Xeon\nstepping\t: 6\n\nprocessor\t: 1\nmodel\t: 1\n"
ARM = "BogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n\nCPU part\t: 0x1\n"


def test_a_table_of_this_machine_names_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One measured on another machine is refused, and says what differs; tables of boards and emulators do not care."""
    assert describe_processor(X86, "x86_64") == "Xeon, 6-106-6, x86_64"
    assert describe_processor(ARM, "aarch64") == "0x41-0xd0c-0x3, aarch64"
    assert describe_processor("", "arm64", "arm") == "arm, arm64"
    boards = [
        load_board(name) for name in ("host", "host-tflm", "nucleo-f446re", "raspberry-pi-3", "qemu-rv32")
    ]
    host, tflm, *others = boards
    known = [timing_name(board) for board in others]
    monkeypatch.setattr(identity_module, "processor", lambda: "Xeon, 6-106-6, x86_64")
    there = current_identity(host)
    monkeypatch.setattr(identity_module, "processor", lambda: "0x41-0xd0c-0x3, aarch64")
    here = current_identity(host)
    assert there.hash != here.hash  # the journal's key
    with pytest.raises(LutError, match=r"Xeon, 6-106-6, x86_64', here it is .*0x41-0xd0c-0x3, aarch64"):
        refuse_other_identity(there, here)
    assert "aarch64" in timing_name(tflm)
    assert [timing_name(board) for board in others] == known
    assert "x86" not in "".join(known) and "device counter" in known
