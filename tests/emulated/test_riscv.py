"""The RISC-V port: counting, traps and the real boards' firmware, as far as QEMU's machines go."""

from __future__ import annotations

import dataclasses
import shutil
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from pipeline.boards import Board, load_board
from pipeline.boards.board import Emulator
from pipeline.firmware import Build, build, code_size, render_app, render_bench
from pipeline.firmware.image import write_bin
from pipeline.firmware.symbolize import fault_explainer
from pipeline.links import INSTRUCTION_NS, open_link
from pipeline.links.blockcount import Region, RegionReader, plugin_args
from pipeline.profiler.calibration import calibration_operators
from pipeline.space.budgets import Budgets
from pipeline.space.opspec import OpSpec
from pipeline.wire import Client, Kind, RestartedError

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(
        not all(map(shutil.which, ("qemu-system-riscv32", "riscv64-unknown-elf-gcc", "cmake", "ninja"))),
        reason="needs qemu-system-riscv32, riscv64-unknown-elf-gcc, cmake and ninja",
    ),
]

BOARDS = ["qemu-rv32", "hifive1-revb", "longan-nano", "esp32-c3-devkitm-1"]
OP = OpSpec("conv2d", 9, 7, 5, 9, 7, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1)
OPS = [op for op in calibration_operators()[::6] if op.kind != "reshape"]

ILLEGAL, OVERFLOW, WILD, FETCH = 0xBAD00001, 0xBAD00002, 0xBAD00003, 0xBAD00004  # seeds that ask for it
RUN_OP = "static uint32_t run_op(const request_t *r, server_reply_t *reply) {\n"
MISCHIEF = """
__attribute__((noinline)) static uint32_t dig(volatile uint32_t *above, uint32_t depth) {
    volatile uint32_t hole[16] = {depth};
    return depth == 0u ? *above : dig(hole, depth - 1u) + hole[depth & 15u];
}

__attribute__((noinline)) static void mischief(uint32_t seed) {
    switch (seed) {
    case 0xBAD00001u:
        __asm__ volatile(".2byte 0"); /* HERE: defined to be illegal */
        break;
    case 0xBAD00002u:
        random_state = dig(&random_state, 100000u);
        break;
    case 0xBAD00003u:
        random_state = *(volatile uint32_t *)0x18000000u;
        break;
    case 0xBAD00004u:
        ((void (*)(void))0x18000000u)();
    default:
        break;
    }
}

"""
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
static int8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16))) = {1};
static const int8_t table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
int8_t *model_input(void) { return arena; }
const int8_t *model_output(void) { return arena + 8; }
void model_invoke(void) {
    EDGENAS_MARK_BEGIN(0);
    for (int i = 0; i < 8; ++i) arena[8 + i] = (int8_t)(table[arena[i] & 7] + i);
    EDGENAS_MARK_END(0);
}
""",
}


@pytest.fixture(scope="module")
def rv32() -> Board:
    return load_board("qemu-rv32")


@pytest.fixture(scope="module")
def bench(rv32: Board, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(render_bench(rv32, tmp_path_factory.mktemp("bench")), rv32)


# -- counting --------------------------------------------------------------------------------------------------


def measure(board: Board, elf: Path, out: Path) -> list[tuple[int, Region]]:
    """The device's ticks and the plugin's region for each operator."""
    found = []
    with open_link(board, elf, plugin_args=plugin_args(out)) as link:
        client, reader = Client(link), RegionReader(out)
        client.hello()
        for op in OPS:
            ticks = client.run_op(op, seed=3).ticks
            found.append((ticks, reader.next(5.0)))
    return found


def test_plugin_and_device_count_the_same_instructions(rv32: Board, bench: Build, tmp_path: Path) -> None:
    assert rv32.counter.hz * INSTRUCTION_NS == 10**9  # a tick is an instruction
    runs = [measure(rv32, bench.elf, tmp_path / f"{n}.bin") for n in range(2)]
    assert runs[0] == runs[1]
    lengths = set()
    for op, (ticks, region) in zip(OPS, runs[0], strict=True):
        # the compiler may move a few instructions between a marker and the reading of the counter
        assert 0 <= ticks - region.instructions < 6, op.key
        lengths |= {len(block.code) / block.instructions for block in region.blocks}
    assert any(2 < length < 4 for length in lengths)  # compressed and full-length ones mixed


def test_counting_does_not_change_what_is_counted(rv32: Board, bench: Build, tmp_path: Path) -> None:
    counted = measure(rv32, bench.elf, tmp_path / "counts.bin")
    with open_link(rv32, bench.elf) as link:
        client = Client(link)
        client.hello()
        assert [client.run_op(op, seed=3).ticks for op in OPS] == [ticks for ticks, _ in counted]


@pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-system-arm", "arm-none-eabi-gcc"))), reason="needs the Arm tools"
)
def test_it_computes_what_the_cortex_m4_computes(rv32: Board, bench: Build, tmp_path: Path) -> None:
    arm = load_board("qemu-cortex-m4")
    other = build(render_bench(arm, tmp_path), arm)
    with open_link(rv32, bench.elf) as here, open_link(arm, other.elf) as there:
        riscv_client, arm_client = Client(here), Client(there)
        riscv_client.hello(), arm_client.hello()
        for op in OPS:
            assert riscv_client.run_op(op).output_crc == arm_client.run_op(op).output_crc, op.key


# -- traps -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mischief(rv32: Board, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The benchmark, which misbehaves for certain seeds."""
    folder = render_bench(rv32, tmp_path_factory.mktemp("mischief"))
    path = folder / "bench" / "bench.c"
    text = path.read_text()
    assert text.count(RUN_OP) == 1
    path.write_text(text.replace(RUN_OP, MISCHIEF + RUN_OP + "    mischief(r->seed);\n"))
    return build(folder, rv32)


@pytest.mark.parametrize(
    ("seed", "cause", "words"),
    [
        (ILLEGAL, 2, "illegal instruction in mischief at bench/bench.c:"),
        (OVERFLOW, 7, "stack overflow .store access fault. in .*dig at bench/bench.c:"),
        (WILD, 5, "load access fault in mischief at bench/bench.c:"),
        (FETCH, 1, "instruction access fault in 0x18000000, called from"),
    ],
    ids=["illegal", "overflow", "wild", "fetch"],
)
def test_a_trap_is_reported_after_the_restart(
    rv32: Board, mischief: Build, seed: int, cause: int, words: str
) -> None:
    with open_link(rv32, mischief.elf) as link:
        client = Client(link, patience_s=1.0, explain=fault_explainer(mischief.elf, rv32))
        assert client.hello().fault_status == 0
        expected = client.run_op(OP)
        with pytest.raises(RestartedError, match=words) as caught:
            client.run_op(OP, seed=seed)
        fault = caught.value.fault
        assert fault is not None and fault.status == cause
        hello = client.hello()
        assert (hello.fault_pc, hello.fault_status) == (fault.pc, cause)
        stack = range(rv32.memory.sram.origin, rv32.memory.sram.origin + rv32.stack_bytes + 1)
        if seed == OVERFLOW:
            # it stopped before it left the SRAM by more than a frame, and nothing behind the stack was hit
            assert rv32.memory.sram.origin - 256 < fault.sp < rv32.memory.sram.origin + 256
            assert rv32.memory.sram.origin - 256 < fault.address < rv32.memory.sram.origin
        else:
            assert fault.sp in stack
        assert client.run_op(OP) == expected
        assert client.reset().fault_status == 0  # a restart on request is no fault


# -- the real boards ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOARDS)
def test_firmware_links_and_starts_with_a_jump_to_where_it_is_linked(name: str, tmp_path: Path) -> None:
    board = load_board(name)
    folders = (
        render_bench(board, tmp_path / "bench"),
        render_app(MODEL, board, Budgets(), tmp_path / "app", 1.5),
    )
    for folder in folders:
        built = build(folder, board)
        assert "warning" not in (folder / "build.log").read_text()
        assert 0 < built.flash_bytes <= board.memory.flash.bytes
        assert built.sram_bytes <= board.memory.sram.bytes
        image = tmp_path / "image.bin"
        write_bin(built.elf, image)
        data = image.read_bytes()
        assert len(data) == built.flash_bytes
        header = 8 if "BOOT_MAGIC" in board.port.defines else 0
        with built.elf.open("rb") as stream:
            assert ELFFile(stream)["e_entry"] == board.memory.flash.origin + header
        lui, jalr = struct.unpack_from("<II", data, header)
        assert (lui & 0xFFF, jalr & 0xFFFFF) == (0x2B7, 0x28067)  # lui t0, ...; jr ...(t0)
        target = (lui & 0xFFFFF000) + (jalr >> 20)
        assert target == board.memory.flash.origin + header + 8


@pytest.mark.parametrize("name", BOARDS[1:])
def test_real_boards_say_what_they_are(name: str) -> None:
    board = load_board(name)
    assert board.name == name and board.core.isa == "rv32"
    assert board.emulator is None and board.latency_provenance == "measured"
    assert board.counter.counts == "cycles" and board.counter.hz == board.clock_hz
    assert "Untried on hardware" in board.notes
    references = (board.clock_reference, board.memory.flash.reference, board.memory.sram.reference,
                  board.uart.reference, board.counter.reference)  # fmt: skip
    assert all(references)
    assert board.flashers


def test_clock_arithmetic() -> None:
    """Limits: FE310-G002 manual, pllcfg; GD32VF103 datasheet, PLL characteristics."""
    hifive = load_board("hifive1-revb")
    pll = hifive.port.defines
    reference = pll["CRYSTAL_HZ"] / pll["PLL_R"]
    assert 6e6 <= reference <= 12e6 and 384e6 <= reference * pll["PLL_F"] <= 768e6
    assert reference * pll["PLL_F"] / 2 ** pll["PLL_Q_LOG2"] == hifive.clock_hz
    assert hifive.clock_hz / (2 * (pll["FLASH_SCKDIV"] + 1)) <= 50e6
    longan = load_board("longan-nano")
    pll = longan.port.defines
    assert 17 <= pll["PLL_FACTOR"] <= 32
    assert pll["CRYSTAL_HZ"] / pll["PLL_DIVIDER"] * pll["PLL_FACTOR"] == longan.clock_hz <= 108e6


def test_flash_seen_through_two_windows(tmp_path: Path) -> None:
    board = load_board("esp32-c3-devkitm-1")
    built = build(render_app(MODEL, board, Budgets(), tmp_path, 1.5), board)
    image = tmp_path / "image.bin"
    write_bin(built.elf, image)
    data = image.read_bytes()
    assert data[:8] == bytes.fromhex("1d04dbae1d04dbae")  # direct boot example, "Direct boot in ESP32-C3"
    flash = board.memory.flash
    assert flash.data_origin is not None
    with built.elf.open("rb") as stream:
        elf = ELFFile(stream)
        text, constants, initial = (elf.get_section_by_name(name) for name in (".text", ".rodata", ".data"))
        symbols = {
            symbol.name: symbol["st_value"] for symbol in elf.get_section_by_name(".symtab").iter_symbols()
        }
        assert text["sh_addr"] == flash.origin
        offset = constants["sh_addr"] - flash.data_origin
        assert data[offset : offset + constants["sh_size"]] == constants.data()
        offset = symbols["__data_load"] - flash.data_origin
        assert data[offset:] == initial.data() and initial["sh_size"] > 0
    assert flash.holds(flash.origin) and flash.holds(flash.data_origin) and not flash.holds(0x3FC80000)


def test_code_size_counts_code_and_constants_of_both_windows() -> None:
    """The kernels are the same code as on the other RV32IMC board."""
    here, there = code_size(load_board("esp32-c3-devkitm-1")), code_size(load_board("qemu-rv32"))
    for name, piece in there.pieces.items():
        assert sum(here.pieces[name].values()) == pytest.approx(sum(piece.values()), abs=64), name


def test_hifive1_starts_on_its_machine_in_qemu(tmp_path: Path) -> None:
    """QEMU's sifive_e has this chip's clock registers, GPIO, UART and PLIC; no watchdog, and no cycle counts."""
    board = load_board("hifive1-revb")
    machine = Emulator("qemu", "qemu-system-riscv32", "sifive_e,revb=true")
    emulated = dataclasses.replace(board, emulator=machine)
    built = build(render_bench(board, tmp_path), board)
    rv32 = load_board("qemu-rv32")
    other = build(render_bench(rv32, tmp_path / "rv32"), rv32)
    with open_link(emulated, built.elf) as link, open_link(rv32, other.elf) as there:
        client, reference = Client(link), Client(there)
        hello = client.hello()
        reference.hello()
        assert (hello.board, hello.kind, hello.fault_status) == (board.name, Kind.BENCH, 0)
        memory = client.memory()
        assert (memory.static_bytes, memory.flash_bytes) == (built.static_ram_bytes, built.flash_bytes)
        for seed in (1, 2):
            assert client.run_op(OP, seed=seed).output_crc == reference.run_op(OP, seed=seed).output_crc
        assert client.memory().stack_used_bytes < board.stack_bytes
