"""Rendered firmware folders, without a compiler."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from pipeline.boards import board_names, load_board
from pipeline.boards.board import Port
from pipeline.errors import ConfigError, ToolError
from pipeline.firmware import (
    bench_pool_bytes,
    build,
    cycles_per_tick,
    most_latency_ms,
    render_app,
    render_bench,
)
from pipeline.firmware.build import require_tool
from pipeline.firmware.render import port_sources
from pipeline.links.qemu import qemu_arguments
from pipeline.space.budgets import Budgets
from pipeline.space.kernels import KERNELS

BOARD = load_board("qemu-cortex-m4")
MODEL = {"model.h": "/* nothing */\n", "model.c": "/* nothing */\n"}


def test_an_instruction_is_1_6_ticks_under_icount() -> None:
    # 64 ns an instruction, 25 MHz
    assert cycles_per_tick(BOARD, 1.5) == pytest.approx(1.5 / 1.6)


def test_a_cycle_counter_needs_no_ratio() -> None:
    counter = dataclasses.replace(BOARD.counter, counts="cycles", hz=BOARD.clock_hz)
    assert cycles_per_tick(dataclasses.replace(BOARD, counter=counter), 7.0) == 1.0


def test_a_counter_of_time_needs_no_ratio() -> None:
    """The host counts tenths of a microsecond, and its nanoseconds stand in for cycles."""
    assert cycles_per_tick(load_board("host"), 1.0) == 100.0


@pytest.mark.parametrize("name", ["qemu-cortex-m4", "nucleo-l4r5zi", "host", "raspberry-pi-3"])
def test_the_longest_deadline_is_what_the_devices_arithmetic_can_tell(name: str, tmp_path: Path) -> None:
    """`latency_us` of main.c.j2, done here in integers, at the last tick that 32 bits hold."""
    board, ratio = load_board(name), 1.37
    most = most_latency_ms(board, ratio)
    folder = render_app(MODEL, board, Budgets(latency_ms=most), tmp_path, ratio)
    main = (folder / "app/main.c").read_text()
    given = {what: int(re.search(rf"#define {what} (\d+)u", main)[1])
             for what in ("LATENCY_BUDGET_US", "CYCLES_PER_TICK_Q16")}  # fmt: skip
    assert given["LATENCY_BUDGET_US"] < 1 << 32
    cycles = ((1 << 32) - 1) * given["CYCLES_PER_TICK_Q16"] >> 16
    longest_us = cycles * 1000 // (board.clock_hz // 1000)
    assert longest_us == pytest.approx(given["LATENCY_BUDGET_US"], rel=1e-4)
    with pytest.raises(ConfigError, match="cannot be checked") as caught:
        render_app(MODEL, board, Budgets(latency_ms=most + 0.001), tmp_path, ratio)
    assert f"{most:,} ms" in caught.value.hint


@pytest.mark.parametrize("description", ["a */ #error b", "lines\n#error\r\nof it", "/*/ //*/", "ends in \\"])
def test_no_description_of_a_board_leaves_its_comment(description: str) -> None:
    header = port_sources(dataclasses.replace(BOARD, description=description))["port/board.h"]
    first, second, *_ = header.splitlines()
    assert (
        first.startswith("/* ") and first.endswith(" do not edit. */") and second == "#ifndef EDGENAS_BOARD_H"
    )
    assert first.count("*/") == first.count("/*") == 1
    for name in board_names():  # of which a table's identity is a hash
        board = load_board(name)
        assert port_sources(board)["port/board.h"].startswith(f"/* {board.description}. Rendered from")


def test_the_application_carries_its_budgets(tmp_path: Path) -> None:
    budgets = Budgets(latency_ms=12.5, sram_bytes=1234, flash_bytes=None)
    folder = render_app(MODEL, BOARD, budgets, tmp_path, 1.6)
    main = (folder / "app/main.c").read_text()
    assert "LATENCY_BUDGET_US 12500u" in main
    assert "SRAM_BUDGET_BYTES 1234u" in main
    assert "FLASH_BUDGET_BYTES 0u" in main
    assert "CYCLES_PER_TICK_Q16 65536u" in main
    script = (folder / "linker.ld").read_text()
    assert f"LENGTH = {BOARD.memory.sram.bytes}" in script
    assert f". += {BOARD.stack_bytes};" in script


def test_rendering_again_touches_nothing_and_drops_what_went_away(tmp_path: Path) -> None:
    render_app(MODEL | {"old.c": "int old;\n"}, BOARD, Budgets(), tmp_path, 1.0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.[ch]") if path.name != "old.c"}
    render_app(MODEL, BOARD, Budgets(), tmp_path, 1.0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.[ch]")} == before


def test_the_benchmark_numbers_kernels_as_the_host_does(tmp_path: Path) -> None:
    text = (render_bench(BOARD, tmp_path) / "bench/bench_config.h").read_text()
    for number, name in enumerate(KERNELS):
        assert f"KERNEL_{name} = {number}," in text
    assert 200_000 < bench_pool_bytes(BOARD) < BOARD.memory.sram.bytes - BOARD.stack_bytes


def test_every_kernel_is_in_the_benchmarks_dispatch() -> None:
    source = (Path(__file__).parents[2] / "firmware/bench/bench.c").read_text()
    for name in KERNELS:
        assert f"MEASURE({name}(" in source, f"bench.c does not call {name}"


def test_unknown_port_folder(tmp_path: Path) -> None:
    board = dataclasses.replace(BOARD, port=Port(("mps9",)))
    with pytest.raises(ConfigError, match="mps9") as caught:
        render_bench(board, tmp_path)
    assert "mps2" in caught.value.hint


def test_impossible_ratio(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cycles an instruction"):
        render_app(MODEL, BOARD, Budgets(), tmp_path, 0.0)


@pytest.mark.parametrize(
    ("program", "package"), [("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("ninja", "ninja-build")]
)
def test_missing_tool_names_the_package(
    program: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in {"cmake", "ninja", "arm-none-eabi-gcc"} - {program}:
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(ToolError, match=f"{program} is not installed") as caught:
        build(tmp_path, BOARD)
    assert package in caught.value.hint


def test_no_package_is_named_for_what_debian_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board file's own compiler and emulator: the hint is not an apt command that fails."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="xtensa-elf-gcc is not installed") as caught:
        require_tool("xtensa-elf-gcc")
    assert "apt" not in caught.value.hint and "core.toolchain" in caught.value.hint
    with pytest.raises(ToolError, match="is not installed") as caught:
        require_tool("gcc")
    assert caught.value.hint == "sudo apt install gcc libc6-dev"
    assert BOARD.emulator is not None
    own = dataclasses.replace(BOARD, emulator=dataclasses.replace(BOARD.emulator, program="qemu-system-mine"))
    with pytest.raises(ToolError, match="qemu-system-mine is not installed") as caught:
        qemu_arguments(own)
    assert "apt" not in caught.value.hint and "emulator.program" in caught.value.hint
