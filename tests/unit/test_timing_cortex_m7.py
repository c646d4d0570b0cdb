"""The Cortex-M7 timing model: pairs and waits that were measured on the core, and LLVM's simulation of loops."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.boards import load_board
from pipeline.errors import ToolError
from pipeline.latency.timing import timing_model
from pipeline.links.blockcount import BlockCount, Region

MODEL = timing_model("cortex_m7")
MISPREDICTED = 8


def assemble(source: str, folder: Path) -> bytes:
    """Thumb machine code of `source`, `;` between instructions."""
    assembler = shutil.which("arm-none-eabi-as")
    objcopy = shutil.which("arm-none-eabi-objcopy")
    if assembler is None or objcopy is None:
        pytest.skip("arm-none-eabi-as is not installed")
    text, obj, binary = (folder / f"block.{kind}" for kind in ("s", "o", "bin"))
    head = ".syntax unified\n.cpu cortex-m7\n.fpu fpv5-sp-d16\n.thumb\n"
    text.write_text(head + source.replace(";", "\n") + "\n", encoding="utf-8")
    subprocess.run([assembler, str(text), "-o", str(obj)], check=True, timeout=30)
    subprocess.run([objcopy, "-O", "binary", "-j", ".text", str(obj), str(binary)], check=True, timeout=30)
    return binary.read_bytes()


@pytest.mark.parametrize(
    ("source", "cycles"),
    [
        # jnk0le/random, "pipeline cycle test", on an STM32H743
        ("add r0,r1,r2; eor r3,r4,r5", 1),
        ("eor r0,r1,r2; eor r3,r0,r5", 2),
        # an older add computes early: a younger logic operation takes its result at once
        ("add r0,r1,r2; eor r3,r0,r5", 1),
        ("add r0,r1,r2; ldr r3,[r0]", 2),
        ("eor r0,r1,r2; ldr r3,[r0]", 3),
        ("lsl r0,r1,#2; eor r3,r0,r5", 1),
        # one inline shift a cycle, plain shifts pair
        ("add r0,r1,r2,lsl #3; add r3,r4,r5,lsl #3", 2),
        ("lsl r0,r1,#3; lsr r3,r4,#3", 1),
        ("eor r0,r1,#0x1fc0; eor r2,r3,#0x1fc0", 2),
        ("eor r0,r1,#0x1b1b1b1b; eor r2,r3,#0x1b1b1b1b", 1),
        # DSP and bit field: one a cycle, and first in it
        ("sxtb16 r0,r1; pkhbt r2,r3,r4,lsl #16", 2),
        ("sxtb16 r0,r1; add r2,r3,r4", 1),
        ("add r2,r3,r4; sxtb16 r0,r1", 2),
        # multiplies: one a cycle, two cycles to the result, one to an addend, none with a store
        ("mul r0,r1,r2; mul r3,r4,r5", 2),
        ("smlad r0,r1,r2,r0; smlad r0,r3,r4,r0; smlad r0,r5,r6,r0", 3),
        ("mul r0,r1,r2; eor r3,r0,r4", 3),
        ("smlad r0,r1,r2,r3; sxtb16 r4,r5", 2),
        ("sxtb16 r4,r5; smlad r0,r1,r2,r3", 1),
        ("mul r0,r1,r2; str r3,[r4]", 2),
        # loads: words in the next cycle, bytes and halves one later, products too
        ("ldr r0,[r1]; eor r2,r0,r3", 2),
        ("ldrb r0,[r1]; eor r2,r0,r3", 3),
        ("ldr r0,[r1]; mul r2,r0,r3", 3),
        ("ldrb r0,[r1]; mla r2,r3,r4,r0", 2),
        ("ldr r0,[r1]; ldr r2,[r0]", 3),
        # two at once from an even and an odd word
        ("ldr r0,[r1]; ldr r2,[r1,#4]", 1),
        ("ldr r0,[r1]; ldr r2,[r1,#8]", 2),
        ("ldr r0,[r1]; str r2,[r3]", 1),
        ("ldr r0,[r1]; str r0,[r3]", 1),
        ("str r0,[r1]; str r2,[r3]", 2),
        ("ldr r0,[r1],#4; ldr r2,[r1],#4", 2),
        # several words: alone, two a cycle
        ("ldm r0,{r1,r2,r3}; add r4,r5,r6", 3),
        ("strd r0,r1,[r2]; add r4,r5,r6", 2),
        ("push {r4,r5,r6,r7}", 2),
        # LLVM, ARMScheduleM7.td: the longest
        ("sdiv r0,r1,r2; add r3,r4,r5", 8),
        # floating point
        ("vadd.f32 s0,s1,s2; vadd.f32 s3,s4,s5", 2),
        ("vadd.f32 s0,s1,s2; vmul.f32 s3,s0,s5", 4),
        ("vfma.f32 s0,s1,s2; vmul.f32 s3,s0,s5", 6),
        ("vmla.f32 s0,s1,s2; vmul.f32 s3,s0,s5", 7),
        ("vdiv.f32 s0,s1,s2", 16),
        ("vsqrt.f32 s0,s1", 14),
    ],
)
def test_pairs_and_waits(source: str, cycles: int, tmp_path: Path) -> None:
    assert MODEL.block_cost(assemble(source, tmp_path), 0x1000).cycles == cycles


LOOPS = {
    "products of words": "ldr r4,[r0],#4; ldr r5,[r1],#4; sxtb16 r6,r4; sxtb16 r7,r5; smlad r2,r6,r7,r2; "
    "sxtb16 r4,r4,ror #8; sxtb16 r5,r5,ror #8; smlad r2,r4,r5,r2; add r8,r8,#1; subs r3,r3,#1",
    "bytes": "ldrsb r4,[r0,#0]; ldrsb r5,[r1,#0]; mla r2,r4,r5,r2; add r0,r0,#1; add r1,r1,#1; subs r3,r3,#1",
    "logic": "eor r4,r4,r5; and r6,r6,r7; orr r8,r8,r9; bic r10,r10,r11; subs r3,r3,#1; eor r0,r0,r1",
    "requantize": "ldr r4,[r0,#0]; smmul r5,r4,r6; add r5,r5,r7; asr r5,r5,#3; add r5,r5,r8; "
    "ssat r5,#8,r5; strb r5,[r1,#0]; add r0,r0,#4; add r1,r1,#1; subs r3,r3,#1",
    "copy": "ldr r4,[r0,#0]; str r4,[r1,#0]; add r0,r0,#4; add r1,r1,#4; subs r3,r3,#1",
    "chain": "add r0,r0,r1; eor r0,r0,r2; mul r0,r0,r4; add r0,r0,r5; subs r3,r3,#1",
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_against_llvm(name: str, tmp_path: Path) -> None:
    """Within 2 cycles and 35 % of LLVM, which knows no early ALU and no banks, and makes stores and products pair."""
    llvm = shutil.which("llvm-mca-19") or shutil.which("llvm-mca") or shutil.which("llvm-mca-14")
    if llvm is None:
        pytest.skip("llvm-mca is not installed")
    lines = LOOPS[name].replace(";", "\n")
    command = [llvm, "-mtriple=thumbv7em-none-eabi", "-mcpu=cortex-m7", "-iterations=200", "-"]
    done = subprocess.run(command, input=lines + "\n", capture_output=True, text=True, check=True, timeout=60)
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert found is not None
    expected = int(found[1]) / 200
    back = len(assemble(LOOPS[name], tmp_path))
    code = assemble(f"{LOOPS[name]}; bne .-{back}", tmp_path)
    cycles = MODEL.block_cost(code, 0x1000).cycles
    assert abs(cycles - expected) <= min(2, 0.35 * expected), (cycles, expected)


def test_a_loop_is_costed_in_its_steady_state(tmp_path: Path) -> None:
    code = assemble("subs r0,r0,#1; bne .-2", tmp_path)
    assert MODEL.block_cost(code, 0x1000).cycles == 1  # the branch pairs with it
    loop = BlockCount(0x1000, code, 2, 1000, 999)
    tail = BlockCount(0x1000 + len(code), assemble("nop", tmp_path), 1, 1, 0)
    # entered once, left once, and that comes as a surprise
    assert MODEL.region_cycles(Region((loop, tail))) == pytest.approx(1000 + MISPREDICTED, abs=2)


def test_costs_of_the_halves_of_a_block_add_up(tmp_path: Path) -> None:
    source = "ldr r0,[r1]; eor r2,r0,r3; add r4,r5,r6; mul r7,r4,r2; ldrb r0,[r7]; eor r3,r0,r1"
    parts = [assemble(part.strip(), tmp_path) for part in source.split(";")]
    whole = b"".join(parts)
    for cut in range(1, len(parts)):
        first, second = b"".join(parts[:cut]), b"".join(parts[cut:])
        halves = (
            BlockCount(0x1000, first, cut, 7, 0),
            BlockCount(0x1000 + len(first), second, len(parts) - cut, 7, 0),
        )
        assert MODEL.region_cycles(Region(halves)) == MODEL.region_cycles(
            Region((BlockCount(0x1000, whole, len(parts), 7, 0),))
        )


def test_mispredictions_are_the_rarer_way(tmp_path: Path) -> None:
    code = assemble("cmp r0,r1; beq .+100", tmp_path)
    calm = MODEL.region_cycles(Region((BlockCount(0x1000, code, 2, 100, 0),)))
    for taken, wrong in ((1, 1), (30, 30), (99, 1), (100, 0)):
        region = Region((BlockCount(0x1000, code, 2, 100, taken),))
        assert MODEL.region_cycles(region) - calm == wrong * MISPREDICTED


@pytest.mark.parametrize(("code", "said"), [("00be", "bkpt"), ("00bf5f", "0x2002"), ("00de", "udf")])
def test_what_has_no_rule_is_an_error(code: str, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        MODEL.block_cost(bytes.fromhex(code), 0x2000)


def test_the_board_names_its_model() -> None:
    assert timing_model(load_board("qemu-cortex-m7").core.timing) is MODEL


def test_a_branch_is_predicted_by_where_it_is_not_by_the_way_that_led_to_it(tmp_path: Path) -> None:
    loop = assemble("nop; nop; subs r1, #1; bne .-4", tmp_path)

    def region(first_taken: int, second_taken: int) -> Region:
        """A loop of two rounds, run 100 times: the first round enters from above."""
        return Region(
            (
                BlockCount(0x100, loop, 4, 100, first_taken),
                BlockCount(0x102, loop[2:], 3, 100, second_taken),
            )
        )

    # an emulator that cuts the loop cannot tell which round's branch was taken
    assert MODEL.region_cycles(region(100, 0)) == pytest.approx(MODEL.region_cycles(region(50, 50)), rel=0.02)
