"""The timing models of dual-issue cores against LLVM's simulation of the compiled kernels' inner loops."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import capstone
import pytest
from elftools.elf.elffile import ELFFile

from pipeline.boards import load_board
from pipeline.firmware import Build, build, render_bench
from pipeline.latency.timing import timing_model

LLVM = shutil.which("llvm-mca-14") or shutil.which("llvm-mca")  # 19 crashes on Thumb's write-back
pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(LLVM is None, reason="needs llvm-mca"),
    pytest.mark.skipif(not all(map(shutil.which, ("cmake", "ninja"))), reason="needs cmake and ninja"),
]

ROUNDS = 200
THUMB = (capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
A64 = (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)


@dataclass(frozen=True)
class Loop:
    """A loop whose only branch is the one back; `text`: its instructions without that."""

    function: str
    address: int
    code: bytes
    text: str


def functions(built: Build) -> Iterator[tuple[str, int, bytes]]:
    with built.elf.open("rb") as stream:
        text = ELFFile(stream).get_section_by_name(".text")
        start, data = text["sh_addr"], text.data()
    for symbol in built.sizes.symbols:
        offset = (symbol.address & ~1) - start
        if symbol.kind == "func" and 0 <= offset < len(data):
            yield symbol.name, symbol.address & ~1, data[offset : offset + symbol.bytes]


def loops_of(function: str, address: int, code: bytes, mode: tuple[int, int]) -> Iterator[Loop]:
    decoder = capstone.Cs(*mode)
    decoder.detail = True
    items: list[Any] = list(decoder.disasm(code, address))
    at = {item.address: index for index, item in enumerate(items)}
    leaves = {
        index: item.operands[-1].imm if item.operands else 0
        for index, item in enumerate(items)
        if item.group(capstone.CS_GRP_JUMP) or item.group(capstone.CS_GRP_CALL)
    }
    for last, target in leaves.items():
        first = at.get(target, last)
        body = items[first:last]
        straight = not any(first <= index < last for index in leaves)
        entered = any(target < other <= items[last].address for other in leaves.values())
        always = items[last].mnemonic.removesuffix(".w") in ("b", "bl")
        if len(body) >= 3 and straight and not entered and not always:
            end = items[last].address + items[last].size - address
            text = "\n".join(f"{item.mnemonic} {item.op_str}" for item in body)
            yield Loop(function, target, code[target - address : end], text)


def llvm_cycles(loop: Loop, triple: str, core: str) -> float | None:
    """Cycles a round; None where LLVM has no figure for an instruction (IT, for one)."""
    command = [str(LLVM), f"-mtriple={triple}", f"-mcpu={core}", f"-iterations={ROUNDS}", "-"]
    done = subprocess.run(
        command, input=loop.text + "\n", capture_output=True, text=True, check=False, timeout=60
    )
    said = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    return int(said[1]) / ROUNDS if said and done.returncode == 0 else None


@pytest.mark.parametrize(
    ("board_name", "mode", "triple"),
    [("qemu-cortex-m7", THUMB, "thumbv7em-none-eabi"), ("qemu-cortex-a53", A64, "aarch64-linux-gnu")],
)
def test_compiled_loops(board_name: str, mode: tuple[int, int], triple: str, tmp_path: Path) -> None:
    """Neither is the truth: LLVM forwards less, so its cycles are more. docs/fidelity.md states the agreement."""
    board = load_board(board_name)
    if shutil.which(f"{board.core.toolchain}gcc") is None:
        pytest.skip(f"{board.core.toolchain}gcc is not installed")
    built = build(render_bench(board, tmp_path), board)
    model = timing_model(board.core.timing)
    compared = []
    for function in functions(built):
        for loop in loops_of(*function, mode):
            llvm = llvm_cycles(loop, triple, board.core.name)
            if llvm is not None:
                cycles = model.block_cost(loop.code, loop.address).cycles
                compared.append((cycles / llvm, cycles, llvm, loop))
                print(f"{cycles:6.2f} {llvm:6.2f} {loop.function} {loop.address:#x}")
    assert len(compared) >= 20
    ratios = [ratio for ratio, *_ in compared]
    print(len(ratios), min(ratios), statistics.median(ratios), statistics.mean(ratios), max(ratios))
    assert 0.7 <= statistics.median(ratios) <= 1.05
    assert all(0.45 <= ratio <= 1.6 for ratio in ratios), compared
    # where the time goes: the longest loops of the convolutions' and dense layers' products
    products = [row for row in compared if row[3].function.startswith("edgenas_dot")]
    hot = sorted(products, key=lambda row: -len(row[3].code))[:2]
    assert [row[0] for row in hot] == pytest.approx([1, 1], abs=0.1), hot
