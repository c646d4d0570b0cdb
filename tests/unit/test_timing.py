"""The Cortex-M4 timing model against cycles added up by hand from Arm DDI 0439D."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.boards import load_board
from pipeline.errors import ConfigError, ToolError
from pipeline.latency.timing import timing_model
from pipeline.latency.timing.model import whole_blocks
from pipeline.links.blockcount import BlockCount, Region

MODEL = timing_model("cortex_m4")
P = 2  # the model's choice for a branch's pipeline refill, 1 to 3
P_LOAD = 3  # behind a load of PC, 3.3.2


def assemble(source: str, folder: Path) -> bytes:
    """Thumb machine code of `source`, `;` between instructions."""
    assembler = shutil.which("arm-none-eabi-as")
    objcopy = shutil.which("arm-none-eabi-objcopy")
    if assembler is None or objcopy is None:
        pytest.skip("arm-none-eabi-as is not installed")
    text = folder / "block.s"
    text.write_text(
        ".syntax unified\n.cpu cortex-m4\n.fpu fpv4-sp-d16\n.thumb\n" + source.replace(";", "\n") + "\n",
        encoding="utf-8",
    )
    obj, binary = folder / "block.o", folder / "block.bin"
    subprocess.run([assembler, str(text), "-o", str(obj)], check=True, timeout=30)
    subprocess.run([objcopy, "-O", "binary", "-j", ".text", str(obj), str(binary)], check=True, timeout=30)
    return binary.read_bytes()


@pytest.mark.parametrize(
    ("source", "cycles"),
    [
        # Table 3-1 and 3-2: one cycle each
        ("adds r0, r1, r2; subs r3, #1; mov r8, r9; movs r1, r2", 4),
        ("mul r0, r1, r2; mla r0, r1, r2, r3; mls r0, r1, r2, r3", 3),
        ("smull r0, r1, r2, r3; umull r0, r1, r2, r3; smlal r0, r1, r2, r3; umaal r0, r1, r2, r3", 4),
        ("smlad r0, r1, r2, r0; sxtb16 r1, r2, ror #8; pkhbt r3, r4, r5, lsl #16; smlabb r0, r1, r2, r0", 4),
        ("ssat r0, #8, r1; usat r0, #8, r1; ubfx r0, r1, #2, #3; sel r0, r1, r2; qadd r0, r1, r2", 5),
        ("add.w r0, r1, r2, lsl #3; asr.w r0, r1, r2; nop", 3),
        ("sdiv r0, r1, r2", 7),
        ("udiv r0, r1, r2; adds r3, r3, #1", 8),
        ("mrs r0, primask; msr primask, r0; cpsid i", 6),
        ("dsb; dmb", 2),
        ("isb", 1 + P),
        # 3.3.2: loads and stores, the manual's own examples
        ("ldr r0, [r1]", 2),
        ("ldr r0, [r1]; ldr r1, [r2]", 3),
        ("ldr r0, [r1, r2]; str r0, [r3, #20]", 3),
        ("ldr r0, [r1, r2]; str r1, [r3, r2]", 3),
        ("ldr r0, [r1, r5]; ldr r1, [r2]; ldr r2, [r3, #4]", 4),
        # the address comes from the load before: does not pipeline
        ("ldr r0, [r1]; ldr r2, [r0]", 4),
        ("ldr r0, [r1]; ldr r2, [r3, r0]", 4),
        ("ldr r0, [r1]; str r2, [r3, r0]", 4),
        # the base written back is not the loaded value
        ("ldr r0, [r1], #4; ldr r2, [r1], #4; ldrsb r3, [r4, #1]!", 4),
        ("ldrsb r0, [r1]; ldrh r2, [r3]; adds r4, r0, r2", 4),
        # something between two loads: no pairing
        ("ldr r0, [r1]; adds r5, r5, #1; ldr r2, [r3]", 5),
        # stores
        ("str r0, [r1, #4]", 1),
        ("strb r0, [r1]; strh r2, [r3, #2]", 2),
        ("str r0, [r1, r2]", 2),
        ("str r0, [r1, r2]; ldr r3, [r4]", 4),
        ("str r0, [r1]; ldr r3, [r4]", 3),
        # an address from a data processing instruction waits a cycle
        ("adds r1, r1, r2; ldr r0, [r1]", 4),
        ("adds r1, r1, r2; str r0, [r1]", 3),
        ("adds r1, r1, r2; str r1, [r3]", 2),
        ("adds r1, r1, r2; nop; ldr r0, [r1]", 4),
        ("sub sp, #8; push {r0}", 4),
        # lists: 1 + N, alone
        ("ldm r0, {r1, r2, r3}", 4),
        ("stmia r0!, {r1, r2, r3, r4, r5, r6, r7, r8}", 9),
        ("push {r4, r5, r6, lr}", 5),
        ("pop {r4, r5}", 3),
        ("ldrd r0, r1, [r2]", 3),
        ("strd r0, r1, [r2, #8]", 3),
        ("ldr r4, [r5]; ldrd r0, r1, [r2]; ldr r6, [r7]", 7),
        ("ldrex r0, [r1]; strex r2, r0, [r1]", 3),
        # IT: folds onto a 16-bit instruction, else one cycle; what it guards is charged
        ("cmp r0, r1; it ne; addne r2, r2, #1", 2),
        ("cmp.w r0, r1; it ne; addne r2, r2, #1", 3),
        ("it ne; addne r2, r2, #1", 2),
        # Table 7-1
        ("vadd.f32 s0, s1, s2", 1),
        ("vmla.f32 s0, s1, s2", 3),
        ("vdiv.f32 s0, s1, s2; vsqrt.f32 s3, s4", 28),
        ("vldr s0, [r0]; vstr s1, [r0]", 4),
        ("vldr d0, [r0]", 3),
        ("vldmia r0!, {s0-s3}; vldmia r0!, {d0-d3}; vpush {d8}", 5 + 9 + 3),
        ("vmov r0, s0; vmov s1, s2; vmov r0, r1, s0, s1", 2 + 1 + 2),
        ("vmul.f32 s0, s1, s2; vadd.f32 s3, s0, s1", 3),
        ("vmul.f32 s0, s1, s2; vmla.f32 s0, s3, s4", 4),
    ],
)
def test_straight_code(source: str, cycles: int, tmp_path: Path) -> None:
    cost = MODEL.block_cost(assemble(source, tmp_path), 0x1000)
    assert cost.cycles == cycles
    assert cost.taken_cycles == cycles


@pytest.mark.parametrize(
    ("source", "falls_through", "taken"),
    [
        ("subs r0, #1; bne .-2", 2, 2 + P),
        ("cbz r0, .+8", 1, 1 + P),
        # unconditional: the same either way
        ("b .-8", 1 + P, 1 + P),
        ("bl .+100", 1 + P, 1 + P),
        ("bx lr", 1 + P, 1 + P),
        ("blx r3", 1 + P, 1 + P),
        ("mov pc, r0", 1 + P, 1 + P),
        ("pop {r4, r5, pc}", 1 + 3 + P_LOAD, 1 + 3 + P_LOAD),
        ("ldr pc, [r0]", 5, 5),
        ("tbb [pc, r0]", 6, 6),
        ("tbh [pc, r0, lsl #1]", 6, 6),
        # in an IT block: one cycle where the condition fails
        ("cmp r0, #0; it eq; bxeq lr", 2, 2 + P),
        ("cmp r0, #0; it eq; popeq {r4, pc}", 2, 1 + 3 + P_LOAD),
    ],
)
def test_block_ends(source: str, falls_through: int, taken: int, tmp_path: Path) -> None:
    cost = MODEL.block_cost(assemble(source, tmp_path), 0x1000)
    assert (cost.cycles, cost.taken_cycles) == (falls_through, taken)


def test_region_adds_up_runs_and_taken_branches(tmp_path: Path) -> None:
    loop = assemble(
        "ldrsb r3, [r0], #1; ldrsb r4, [r1], #1; mla r2, r3, r4, r2; subs r5, #1; bne .-14", tmp_path
    )
    tail = bytes.fromhex("00bf")
    region = Region((BlockCount(0x100, loop, 5, 1000, 999), BlockCount(0x110, tail, 1, 1, 0)))
    # two loads 3, mla 1, subs 1, branch 1 or 1 + P; then a nop
    assert MODEL.region_cycles(region) == 999 * (6 + P) + 6 + 1
    assert region.instructions == 5001


def test_a_block_cut_in_two_takes_as_long_as_a_whole_one(tmp_path: Path) -> None:
    source = "ldr r2, [r3]; ldr r4, [r3, #4]; adds r6, r2, r4; ldr r5, [r6]; nop; it eq; bxeq lr"
    code = assemble(source, tmp_path)
    whole = MODEL.region_cycles(Region((BlockCount(0x100, code, 7, 10, 4),)))
    for cut in (2, 4, 6, 8, 10):
        parts = (
            BlockCount(0x100, code[:cut], 1, 10, 0),
            BlockCount(0x100 + cut, code[cut:], 6, 10, 4),
        )
        assert MODEL.region_cycles(Region(parts)) == whole, cut


def test_a_loop_that_is_entered_at_its_cut_keeps_its_sums() -> None:
    nop, branch = bytes.fromhex("00bf"), bytes.fromhex("fdd1")  # bne
    region = Region(
        (
            BlockCount(0xFA, nop * 2, 2, 30, 0),  # cut at 0xfe
            BlockCount(0xFC, nop, 1, 60, 0),
            BlockCount(0xFE, nop + branch, 2, 100, 70),
            BlockCount(0x200, nop, 1, 5, 0),  # cut, but what follows did not run
        )
    )
    whole = whole_blocks(region, lambda block: block.code.endswith(branch))
    assert sorted((b.pc, len(b.code), b.runs) for b in whole.blocks) == [
        (0xFA, 8, 30), (0xFC, 6, 60), (0xFE, 4, 10), (0x200, 2, 5),
    ]  # fmt: skip
    assert whole.instructions == region.instructions
    assert sum(block.taken for block in whole.blocks) == 70


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (bytes.fromhex("00be"), "bkpt"),
        (bytes.fromhex("00bf00de"), "udf"),
        (bytes.fromhex("00bf5f"), "0x2002"),  # half an instruction
    ],
)
def test_what_the_tables_do_not_list_is_an_error(code: bytes, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        MODEL.block_cost(code, 0x2000)


def test_the_board_names_its_model() -> None:
    model = timing_model(load_board("qemu-cortex-m4").core.timing)
    assert (model.NAME, model.VERSION) == ("cortex_m4", 2)
    with pytest.raises(ConfigError, match="pdp11") as caught:
        timing_model("pdp11")
    assert "cortex_m4" in caught.value.hint
