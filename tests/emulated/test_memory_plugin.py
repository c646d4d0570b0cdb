"""The memory system inside QEMU, on a program whose fetches and loads are counted by hand."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.boards.board import Board
from pipeline.boards.memory_system import Cache, MemorySystem, Variant, Window
from pipeline.links.blockcount import RegionReader, plugin_args
from pipeline.links.memorysim import Simulated, Waits

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(
        not (shutil.which("qemu-system-arm") and shutil.which("arm-none-eabi-gcc") and shutil.which("gcc")),
        reason="needs qemu-system-arm, arm-none-eabi-gcc and gcc",
    ),
]

PROGRAM = """
    .syntax unified
    .cpu cortex-m4
    .thumb
    .text
    .globl _start
_start:
    .word 0x20001000
    .word main + 1
    .thumb_func
main:
    movs r5, #2
    .balign 16
again:
    .inst.w 0xf3af8040
    .rept 4
    nop
    .endr
    ldr r1, literal
    ldr r2, literal + 4
    .rept 6
    nop
    .endr
    ldr r3, =0x20000100
    str r1, [r3]
    .balign 16
    .inst.w 0xf3af8041
    subs r5, #1
    bne again
    movs r0, #0x18
    ldr r1, =0x20026
    bkpt 0xab
    b .
    .ltorg
    .balign 16
literal:
    .word 1, 2, 3, 4
"""
SYSTEM = MemorySystem(
    instructions=Cache(8, 16, 16, 0, "lru"),
    data=Cache(4, 16, 16, 0, "lru"),
    prefetch="none",
    flash=Window((0, 0, 0), 1),
    sram=None,
    wait_state_hz=(10**9,),
)


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.S").write_text(PROGRAM, encoding="utf-8")
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-nostdlib", "-Wl,-Ttext=0"]
    done = [*command, str(folder / "program.S"), "-o", str(folder / "program.elf")]
    subprocess.run(done, check=True, timeout=60)
    return folder / "program.elf"


def board(system: MemorySystem = SYSTEM, wait_states: int = 5) -> Board:
    """An emulated one whose flash waits."""
    bare = load_board("qemu-cortex-m4")
    memory = replace(bare.memory, flash=replace(bare.memory.flash, wait_states=wait_states), system=system)
    return replace(bare, memory=memory)


def run(elf: Path, simulated: Simulated, folder: Path) -> list[tuple[Waits, ...]]:
    blocks, emulated = folder / "blocks.bin", load_board("qemu-cortex-m4")
    command = ["qemu-system-arm", "-M", "mps2-an386", "-nodefaults", "-display", "none", "-semihosting"]
    command += ["-kernel", str(elf)]
    for plugin in plugin_args(blocks) + simulated.plugin_args(emulated, folder):
        command += ["-plugin", plugin]
    subprocess.run(command, check=True, timeout=60)
    return simulated.read(folder)


def test_counted_by_hand(elf: Path, tmp_path: Path) -> None:
    """16-byte lines. Behind the first marker the region enters two new lines, the second with the end marker; it loads
    twice from one line of constants and once from the literal pool; its store goes to memory that never waits. Both
    fetches come right behind a load that missed, whose read keeps the port for a cycle longer than the load waits."""
    (first,), (second,) = run(elf, Simulated(board(), 1.0), tmp_path)
    assert (first.fetches, first.fetch_misses, first.reads, first.read_misses) == (2, 2, 3, 2)
    assert first.cycles == 4 * 5 + 2
    assert (second.fetches, second.fetch_misses, second.reads, second.read_misses) == (2, 0, 3, 0)
    assert second.cycles == 0 and first.writes == second.writes == 0


def test_variants_see_the_same_run(elf: Path, tmp_path: Path) -> None:
    system = replace(SYSTEM, flash=Window((0, 0, 7), 1))
    likely, longest = run(elf, Simulated(board(system), 1.0, (Variant(), Variant(path=2))), tmp_path)[0]
    assert (likely.cycles, longest.cycles) == (4 * 5 + 2, 4 * 12 + 2)
    assert likely.fetches == longest.fetches and likely.read_misses == longest.read_misses


def test_counts_of_blocks_are_untouched_and_no_wait_states_are_no_cycles(elf: Path, tmp_path: Path) -> None:
    seen = []
    for name, states in (("slow", 5), ("again", 5), ("fast", 0)):
        folder = tmp_path / name
        folder.mkdir()
        waits = run(elf, Simulated(board(wait_states=states), 1.0), folder)
        seen.append((waits, RegionReader(folder / "blocks.bin").read_all()))
    assert seen[0] == seen[1]
    assert seen[0][1] == seen[2][1] and len(seen[2][1]) == 2
    assert [waits.cycles for region in seen[2][0] for waits in region] == [0, 0]


def test_sources_compile_without_warnings(tmp_path: Path) -> None:
    folder = asset_dir("firmware") / "emulator" / "memory"
    command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-shared", "-fPIC"]
    sources = [str(folder / name) for name in ("system.c", "plugin.c")]
    subprocess.run([*command, *sources, "-o", str(tmp_path / "x.so")], check=True, timeout=60)
