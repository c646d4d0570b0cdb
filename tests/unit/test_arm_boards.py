"""The real Arm boards: clock arithmetic, limits, baud rates and wait states of their files; their firmware links.

Limits come from the datasheets that the board files name; what the firmware does with the numbers is
tests/unit/test_arm_startup.py's.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pipeline.assets import asset_dir
from pipeline.boards import Board, load_board
from pipeline.firmware import Build, build, render_app, render_bench
from pipeline.space.budgets import Budgets

STM32_F4_LIKE = ["nucleo-f446re", "stm32f407-discovery", "nucleo-f767zi"]
STM32 = [*STM32_F4_LIKE, "nucleo-l4r5zi", "nucleo-h743zi2"]
BOARDS = [*STM32, "arduino-nano-33-ble", "teensy-4-1"]

# HCLK in MHz up to which 0, 1, 2, ... wait states do, at 2.7 to 3.6 V (RM0390 and RM0090: in steps of 30; RM0410:
# likewise, to 216; RM0432, range 1 boost: in steps of 20; RM0433: the AXI clock, VOS1 and VOS0)
WAIT_STATES = {
    "nucleo-f446re": (30, 60, 90, 120, 150, 180),
    "stm32f407-discovery": (30, 60, 90, 120, 150, 168),
    "nucleo-f767zi": (30, 60, 90, 120, 150, 180, 210, 216),
    "nucleo-l4r5zi": (20, 40, 60, 80, 100, 120),
    "nucleo-h743zi2": (70, 140, 210, 225, 240),
}
# Buses of the STM32F4 and F7: greatest PCLK1 and PCLK2 in MHz; greatest clock without over-drive
APB_LIMITS = {
    "nucleo-f446re": (45, 90, 168),
    "stm32f407-discovery": (42, 84, 168),
    "nucleo-f767zi": (54, 108, 180),
}

needs_compiler = pytest.mark.skipif(
    not all(map(shutil.which, ("arm-none-eabi-gcc", "cmake", "ninja"))),
    reason="needs arm-none-eabi-gcc, cmake and ninja",
)

MODEL = {
    "model.h": """\
#include <stdint.h>
#define MODEL_INPUT_BYTES 8u
#define MODEL_OUTPUT_BYTES 8u
#define MODEL_ARENA_BYTES 16u
#define MODEL_LAYERS 1u
int8_t *model_input(void);
const int8_t *model_output(void);
void model_invoke(void);
""",
    "model.c": """\
#include "model.h"
#include "marker.h"
static int8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16)));
int8_t *model_input(void) { return arena; }
const int8_t *model_output(void) { return arena + 8; }
void model_invoke(void) {
    EDGENAS_MARK_BEGIN(0);
    for (int i = 0; i < 8; ++i) arena[8 + i] = (int8_t)~arena[i];
    EDGENAS_MARK_END(0);
}
""",
}


@pytest.mark.parametrize("name", BOARDS)
def test_it_is_a_real_board_that_says_what_it_is(name: str) -> None:
    board = load_board(name)
    assert board.name == name
    assert board.emulator is None and board.latency_provenance == "measured"
    assert (board.counter.kind, board.counter.counts) == ("dwt", "cycles")
    assert board.counter.hz == board.clock_hz
    assert "Untried on hardware" in board.notes
    references = (board.clock_reference, board.memory.flash.reference, board.memory.sram.reference)
    assert all((*references, board.uart.reference, board.counter.reference))
    # a board is found by its ids, or the user is told to name its port
    assert board.usb_ids or "--port" in board.notes


@pytest.mark.parametrize("name", BOARDS)
def test_its_port_folders_exist_and_share_no_file_name(name: str) -> None:
    names: list[str] = []
    for folder in load_board(name).port.folders:
        path = asset_dir("firmware") / "port" / folder
        assert path.is_dir()
        names += [file.name for file in path.iterdir()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", STM32_F4_LIKE)
def test_the_f4_and_f7_clock_trees(name: str) -> None:
    board = load_board(name)
    d = board.port.defines
    reference = d["HSE_HZ"] / d["PLL_M"]
    vco = reference * d["PLL_N"]
    assert 0.95e6 <= reference <= 2.1e6 and 100e6 <= vco <= 432e6
    assert 2 <= d["PLL_M"] <= 63 and 50 <= d["PLL_N"] <= 432 and d["PLL_P"] in (2, 4, 6, 8)
    assert 2 <= d["PLL_Q"] <= 15 and vco / d["PLL_Q"] <= 48e6
    assert vco / d["PLL_P"] == board.clock_hz
    low, high, without_overdrive = APB_LIMITS[name]
    assert board.clock_hz / d["APB1_DIVIDER"] <= low * 1e6
    assert board.clock_hz / d["APB2_DIVIDER"] <= high * 1e6
    assert bool(d["OVERDRIVE"]) == (board.clock_hz > without_overdrive * 1e6)
    on_apb2 = d["UART_ENABLE_OFFSET"] == 0x44
    assert d["UART_CLOCK_DIVIDER"] == d["APB2_DIVIDER" if on_apb2 else "APB1_DIVIDER"]


def test_the_l4_clock_tree() -> None:
    board = load_board("nucleo-l4r5zi")
    d = board.port.defines
    reference = d["HSI16_HZ"] / d["PLL_M"]
    vco = reference * d["PLL_N"]
    assert 2.66e6 <= reference <= 16e6 and 64e6 <= vco <= 344e6
    assert 1 <= d["PLL_M"] <= 16 and 8 <= d["PLL_N"] <= 127 and d["PLL_R"] in (2, 4, 6, 8)
    assert vco / d["PLL_R"] == board.clock_hz
    assert bool(d["RANGE_1_BOOST"]) == (board.clock_hz > 80e6)
    assert d["UART_BRR_SCALE"] == 256 and d["UART_CLOCK_DIVIDER"] == 1


def test_the_h7_clock_tree() -> None:
    board = load_board("nucleo-h743zi2")
    d = board.port.defines
    reference = d["HSE_HZ"] / d["PLL_M"]
    vco = reference * d["PLL_N"]
    assert 2e6 <= reference <= 16e6 and 192e6 <= vco <= 960e6
    assert 1 <= d["PLL_M"] <= 63 and 4 <= d["PLL_N"] <= 512 and 2 <= d["PLL_P"] <= 128 and d["PLL_P"] % 2 == 0
    assert vco / d["PLL_P"] == board.clock_hz
    assert bool(d["VOS0"]) == (board.clock_hz > 400e6)
    assert d["UART_CLOCK_DIVIDER"] == 4  # AHB and APB each halve


def test_the_imxrt_clock_tree() -> None:
    board = load_board("teensy-4-1")
    d = board.port.defines
    pll = d["CRYSTAL_HZ"] * d["PLL_DIV_SELECT"] / 2
    assert 54 <= d["PLL_DIV_SELECT"] <= 108 and 648e6 <= pll <= 1296e6
    assert pll / d["ARM_DIVIDER"] == board.clock_hz
    assert board.clock_hz / d["IPG_DIVIDER"] <= 150e6 and 1 <= d["IPG_DIVIDER"] <= 4
    assert 1250 <= d["CORE_MILLIVOLTS"] <= 1300 and d["CORE_MILLIVOLTS"] % 25 == 0


def test_the_nrf52_clock_is_fixed() -> None:
    assert load_board("arduino-nano-33-ble").clock_hz == 64_000_000


@pytest.mark.parametrize("name", STM32)
def test_wait_states_are_as_few_as_the_table_allows(name: str) -> None:
    board = load_board(name)
    hclk_mhz = board.clock_hz / 1e6 / (2 if "stm32h7" in board.port.folders else 1)
    enough = next(count for count, limit in enumerate(WAIT_STATES[name]) if hclk_mhz <= limit)
    assert board.memory.flash.wait_states == board.port.defines["FLASH_LATENCY"] == enough


def _baud(board: Board) -> float:
    d = board.port.defines
    if "nrf52" in board.port.folders:
        return d["UART_BAUD_REGISTER"] * 16e6 / 2**32
    if "imxrt" in board.port.folders:
        return float(d["UART_HZ"] / 16 / round(d["UART_HZ"] / 16 / board.uart.baud))
    ticks = board.clock_hz * d["UART_BRR_SCALE"] / d["UART_CLOCK_DIVIDER"]
    divider = round(ticks / board.uart.baud)
    assert (0x300 <= divider < 1 << 20) if d["UART_BRR_SCALE"] == 256 else (16 <= divider < 1 << 16)
    return ticks / divider


@pytest.mark.parametrize("name", BOARDS)
def test_the_baud_rate_is_right_within_2_percent(name: str) -> None:
    board = load_board(name)
    assert _baud(board) == pytest.approx(board.uart.baud, rel=0.02)


@pytest.mark.parametrize("name", BOARDS)
def test_openocd_has_the_configuration_files(name: str) -> None:
    scripts = Path("/usr/share/openocd/scripts")
    if not scripts.is_dir():
        pytest.skip("OpenOCD is not installed where Debian puts it")
    for file in load_board(name).flashers.get("openocd", {}).get("config", "").split():
        assert (scripts / file).is_file()


def _symbols(elf: Path) -> dict[str, int]:
    with elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        return {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}


def _flash_bytes(elf: Path, address: int, count: int) -> bytes:
    with elf.open("rb") as stream:
        for segment in ELFFile(stream).iter_segments("PT_LOAD"):
            offset = address - segment["p_paddr"]
            if offset >= 0 and offset + count <= segment["p_filesz"]:
                return bytes(segment.data()[offset : offset + count])
    raise AssertionError(f"nothing is loaded at {address:#x}")


@needs_compiler
@pytest.mark.parametrize("name", BOARDS)
def test_both_firmwares_link_and_start_where_the_chip_looks(name: str, tmp_path: Path) -> None:
    board = load_board(name)
    built = build(render_bench(board, tmp_path / "bench"), board)
    _check_layout(board, built)
    _check_layout(board, build(render_app(MODEL, board, Budgets(), tmp_path / "app", 1.0), board))
    for log in tmp_path.glob("*/build.log"):
        assert "warning" not in log.read_text()


def _check_layout(board: Board, built: Build) -> None:
    flash, sram = board.memory.flash, board.memory.sram
    symbols = _symbols(built.elf)
    vectors = flash.origin + (0x2000 if "boot" in symbols else 0)
    assert symbols["vectors"] == vectors and vectors % 128 == 0  # VTOR, Arm DDI0403, B3.2.5
    stack, reset = struct.unpack("<II", _flash_bytes(built.elf, vectors, 8))
    assert stack == sram.origin + board.stack_bytes
    assert reset == symbols["Reset_Handler"] | 1
    assert built.sram_bytes <= sram.bytes and built.flash_bytes <= flash.bytes
    if "boot" in symbols:
        _check_imxrt_header(board, built.elf, symbols)


def _check_imxrt_header(board: Board, elf: Path, symbols: dict[str, int]) -> None:
    origin = board.memory.flash.origin
    chip_bytes = board.port.defines["FLASH_CHIP_BYTES"]
    assert symbols["boot"] == origin == 0x60000000
    assert _flash_bytes(elf, origin, 4) == b"FCFB"
    assert struct.unpack("<I", _flash_bytes(elf, origin + 0x50, 4)) == (chip_bytes,)
    assert struct.unpack("<3I", _flash_bytes(elf, origin + 0x80, 12)) == (0x0A1804EB, 0x32041EFF, 0x2604)
    header, entry, _, dcd, boot_data, self_address = struct.unpack(
        "<6I", _flash_bytes(elf, origin + 0x1000, 24)
    )
    assert (header, entry, dcd) == (0x412000D1, symbols["vectors"], 0)
    assert (self_address, boot_data) == (origin + 0x1000, origin + 0x1020)
    assert struct.unpack("<3I", _flash_bytes(elf, boot_data, 12)) == (origin, chip_bytes, 0)


def test_the_nano_leaves_its_bootloader_alone() -> None:
    flash = load_board("arduino-nano-33-ble").memory.flash
    assert flash.origin == 0x10000 and flash.origin + flash.bytes == 1 << 20
