"""The Ibex and CV32E40P timing models against cycles added up by hand from the cores' documentation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.boards import load_board
from pipeline.errors import ToolError
from pipeline.latency.timing import timing_model
from pipeline.latency.timing.model import TimingModel
from pipeline.links.blockcount import BlockCount, Region

IBEX = timing_model("ibex")
CV32E40P = timing_model("cv32e40p")
PREFIX = "riscv64-unknown-elf-"


def assemble(source: str, folder: Path, march: str = "rv32imc") -> bytes:
    """RV32 machine code of `source`, `;` between instructions; the last may branch to `there`, behind it."""
    assembler, objcopy = shutil.which(PREFIX + "as"), shutil.which(PREFIX + "objcopy")
    linker = shutil.which(PREFIX + "ld")
    if assembler is None or objcopy is None or linker is None:
        pytest.skip(f"{PREFIX}as is not installed")
    text, obj, elf, binary = (folder / f"block.{kind}" for kind in ("s", "o", "elf", "bin"))
    text.write_text(source.replace(";", "\n") + "\nthere:\n", encoding="utf-8")
    flags = [f"-march={march}", "-mabi=ilp32", "-misa-spec=2.2"]
    link = [linker, "-melf32lriscv", "-Ttext=0", "-e0", "--no-relax"]
    for command in (
        [assembler, *flags, str(text), "-o", str(obj)],
        [*link, str(obj), "-o", str(elf)],
        [objcopy, "-O", "binary", "-j", ".text", str(elf), str(binary)],
    ):
        subprocess.run(command, check=True, timeout=30)
    return binary.read_bytes()


@pytest.mark.parametrize("march", ["rv32im", "rv32imc"])
@pytest.mark.parametrize(
    ("source", "ibex", "cv32e40p"),
    [
        # one cycle each
        ("add a0,a1,a2; addi a0,a0,1; lui a3,5; slli a0,a0,3; mv a1,a2; li a4,7; nop; and a0,a0,a1", 8, 8),
        ("addi sp,sp,-32; addi a0,sp,16; sltu a0,a1,a2; srai a0,a0,4; andi a0,a0,7; auipc a0,1", 6, 6),
        ("mul a0,a1,a2; mul a3,a0,a1", 2, 2),
        # the upper half: one stall cycle on Ibex, five cycles on CV32E40P
        ("mulh a0,a1,a2; mulhu a0,a1,a2; mulhsu a0,a1,a2", 6, 15),
        ("div a0,a1,a2; remu a3,a4,a5", 74, 64),
        # loads: the next instruction waits a cycle for the value, no other
        ("lw a0,0(a1)", 1, 1),
        ("lw a0,0(a1); add a2,a0,a3", 3, 3),
        ("lw a0,0(a1); add a2,a3,a0", 3, 3),
        ("lw a0,0(a1); add a2,a3,a4; add a5,a0,a5", 3, 3),
        ("lw a0,4(a1); lw a0,8(a1)", 2, 2),
        ("lw a0,4(a1); lw a2,0(a0)", 3, 3),
        ("lb a0,0(a1); lbu a2,0(a3); mul a0,a0,a2; add a4,a4,a0", 5, 5),
        ("lw a0,4(a1); sw a0,8(a1)", 3, 3),
        ("lw a0,4(a1); sw a2,8(a1)", 2, 2),
        ("lw ra,12(sp); sw a2,8(sp)", 2, 2),
        ("lw a0,4(sp); li a0,3", 2, 2),
        ("lw zero,4(a1); add a0,zero,a1", 2, 2),
        ("sw a0,8(a1); sb a2,3(a1); sh a3,2(a1); lw a0,8(a1)", 4, 4),
        # jumps
        ("j there", 2, 2),
        ("jal there", 2, 2),
        ("ret", 2, 2),
        ("jalr a5", 2, 2),
        ("lw ra,12(sp); addi sp,sp,16; ret", 4, 5),
        ("lw ra,12(sp); addi sp,sp,16; nop; ret", 5, 5),
        ("lw a5,0(a0); jr a5", 4, 5),
        ("add a5,a5,a4; jr a5", 3, 4),
    ],
)
def test_straight_code_and_jumps(source: str, ibex: int, cv32e40p: int, march: str, tmp_path: Path) -> None:
    code = assemble(source, tmp_path, march)
    for model, cycles in ((IBEX, ibex), (CV32E40P, cv32e40p)):
        cost = model.block_cost(code, 0)
        assert (cost.cycles, cost.taken_cycles) == (cycles, cycles), model.NAME


@pytest.mark.parametrize("branch", ["beqz a0,there", "bnez s0,there", "blt a1,a2,there", "bgeu a0,a6,there"])
def test_branches(branch: str, tmp_path: Path) -> None:
    code = assemble(f"addi a3,a3,1; {branch}", tmp_path)
    ibex, cv32e40p = IBEX.block_cost(code, 0), CV32E40P.block_cost(code, 0)
    assert (ibex.cycles, ibex.taken_cycles) == (2, 3)
    assert (cv32e40p.cycles, cv32e40p.taken_cycles) == (2, 4)


@pytest.mark.parametrize(
    ("model", "split", "word"), [(IBEX, 4 * 9 + 3 + 9 + 1, 39 + 1), (CV32E40P, 5 * 9 + 3 + 9 + 1, 48 + 1)]
)
def test_a_split_target_costs_a_fetch(model: TimingModel, split: int, word: int, tmp_path: Path) -> None:
    loop = assemble("xori a0,a0,99; addi a1,a1,-1; bnez a1,there", tmp_path, "rv32imc")
    entry = BlockCount(0x1000 - 2, bytes.fromhex("0100"), 1, 1, 0)  # falls into the loop: not a jump
    assert loop[0] & 3 == 3
    for address, cycles in ((0x1002, split), (0x1000, word)):
        before = BlockCount(address - 2, entry.code, 1, 1, 0)
        region = Region((before, BlockCount(address, loop, 3, 10, 9)))
        assert model.region_cycles(region) == cycles
    # a 16-bit instruction there is fetched at once
    short = assemble("addi a1,a1,-1; bnez a1,there", tmp_path)
    region = Region((BlockCount(0x1002, short, 2, 10, 9),))
    aligned = Region((BlockCount(0x1000, short, 2, 10, 9),))
    assert model.region_cycles(region) == model.region_cycles(aligned)


@pytest.mark.parametrize("model", [IBEX, CV32E40P])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("73000000", "ecall"),
        ("0100" + "0000", "0x2002"),
        ("13", "0x2000"),  # a part of an instruction
        ("53750500", "fadd"),
    ],
)
def test_what_is_not_covered_is_an_error(model: TimingModel, code: str, said: str) -> None:
    with pytest.raises(ToolError, match=f"{model.NAME}.*{said}"):
        model.block_cost(bytes.fromhex(code), 0x2000)


def test_the_board_names_its_model() -> None:
    assert timing_model(load_board("qemu-rv32").core.timing) is IBEX


@pytest.mark.parametrize("model", [IBEX, CV32E40P], ids=["ibex", "cv32e40p"])
def test_a_block_cut_in_two_takes_as_long_as_a_whole_one(model: TimingModel, tmp_path: Path) -> None:
    code = assemble("lw a0,0(a1); add a2,a0,a3; lw a4,4(a1); lw a5,0(a4); beqz a5,there", tmp_path, "rv32im")
    whole = model.region_cycles(Region((BlockCount(0x100, code, 5, 10, 4),)))
    for cut in (4, 8, 12, 16):
        parts = (
            BlockCount(0x100, code[:cut], 1, 10, 0),
            BlockCount(0x100 + cut, code[cut:], 4, 10, 4),
        )
        assert model.region_cycles(Region(parts)) == whole, cut
