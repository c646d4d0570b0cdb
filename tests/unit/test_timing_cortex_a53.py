"""The Cortex-A53 timing model: GCC's bypasses, and LLVM's simulation of loops."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import ToolError
from pipeline.latency.timing import timing_model
from pipeline.links.blockcount import BlockCount, Region

MODEL = timing_model("cortex_a53")
MISPREDICTED = 9


def assemble(source: str, folder: Path) -> bytes:
    """AArch64 machine code of `source`, `;` between instructions."""
    assembler = shutil.which("aarch64-linux-gnu-as")
    objcopy = shutil.which("aarch64-linux-gnu-objcopy")
    if assembler is None or objcopy is None:
        pytest.skip("aarch64-linux-gnu-as is not installed")
    text, obj, binary = (folder / f"block.{kind}" for kind in ("s", "o", "bin"))
    text.write_text(source.replace(";", "\n") + "\n", encoding="utf-8")
    subprocess.run([assembler, "-mcpu=cortex-a53", str(text), "-o", str(obj)], check=True, timeout=30)
    subprocess.run([objcopy, "-O", "binary", "-j", ".text", str(obj), str(binary)], check=True, timeout=30)
    return binary.read_bytes()


@pytest.mark.parametrize(
    ("source", "cycles"),
    [
        ("add w0,w1,w2; eor w3,w4,w5", 1),
        ("add w0,w1,w2; eor w3,w4,w5; sub x6,x7,x8; neg w9,w10; mov x11,x12", 3),
        # GCC, cortex-a53.md, bypasses: distance of a reader from a result = cycles - 1
        ("add w0,w1,w2; eor w3,w0,w4", 2),
        ("lsl w0,w1,#3; eor w3,w0,w4", 1),
        ("mov w0,#5; add w3,w0,w4", 1),
        ("lsl w0,w1,#3; lsl w3,w0,#2", 2),
        ("add w0,w1,w2; lsl w3,w0,#2", 3),
        ("add w0,w1,w2; add w3,w4,w0,lsl #2", 3),
        ("add w0,w1,w2; add w3,w0,w4,lsl #2", 2),
        ("add w0,w1,w2; sxtb w3,w0", 3),
        ("mul w0,w1,w2; add w3,w0,w4", 3),
        ("mul w0,w1,w2; madd w3,w4,w5,w0", 2),
        ("madd w0,w1,w2,w0; madd w0,w3,w4,w0; madd w0,w5,w6,w0", 3),
        ("mul w0,w1,w2; mul w3,w4,w5", 2),
        ("smaddl x0,w1,w2,x0; add x3,x4,x5", 1),
        ("ldr w0,[x1]; add w3,w0,w4", 3),
        ("ldrsb w0,[x1]; add w3,w4,w0,lsl #2", 4),
        ("ldr x0,[x1]; ldr x2,[x0]", 4),
        ("add x0,x0,x1; ldr x2,[x0]", 4),
        ("add w0,w1,w2; str w0,[x3]", 1),
        ("ldr w0,[x1]; str w0,[x3]", 2),
        ("cmp w0,w1; b.ne .+8", 1),
        # one memory access a cycle, a pair of registers alone
        ("ldr w0,[x1]; ldr w2,[x3]", 2),
        ("ldr w0,[x1]; str w2,[x3]", 2),
        ("ldr w0,[x1],#4; ldr w2,[x1],#4", 2),
        ("ldr w0,[x1]; add w2,w3,w4", 1),
        ("ldp x0,x1,[x2]; add x3,x4,x5", 2),
        ("cmp w0,w1; csel w2,w3,w4,lt", 2),
        ("add wzr,w1,w2; add w3,w4,wzr", 1),
        ("sdiv w0,w1,w2; add w3,w4,w5; nop", 2),
    ],
)
def test_pairs_and_waits(source: str, cycles: int, tmp_path: Path) -> None:
    assert MODEL.block_cost(assemble(source, tmp_path), 0x1000).cycles == cycles


LOOPS = {
    "bytes": "ldrsb w4,[x0]; ldrsb w5,[x1]; madd w2,w4,w5,w2; add x0,x0,#1; add x1,x1,#1; subs w3,w3,#1",
    "four products": "ldrsb w4,[x0]; ldrsb w5,[x1]; ldrsb w6,[x0,#1]; ldrsb w7,[x1,#1]; ldrsb w8,[x0,#2]; "
    "ldrsb w9,[x1,#2]; add x0,x0,#3; add x1,x1,#3; madd w2,w4,w5,w2; madd w10,w6,w7,w10; madd w11,w8,w9,w11; "
    "subs w3,w3,#1",
    "logic": "eor w4,w4,w5; and w6,w6,w7; orr w8,w8,w9; bic w10,w10,w11; subs w3,w3,#1; eor w0,w0,w1",
    "requantize": "ldrsw x4,[x0]; smull x5,w4,w6; asr x5,x5,#31; add w5,w5,w8; cmp w5,w9; csel w5,w5,w9,lt; "
    "add x0,x0,#4; add x1,x1,#1; subs w3,w3,#1",
    "loads and stores": "ldr x4,[x0]; str x5,[x1]; add x0,x0,#8; add x1,x1,#8; add x5,x5,#1; subs w3,w3,#1",
    "chain": "add w0,w0,w1; eor w0,w0,w2; mul w0,w0,w4; add w0,w0,w5; subs w3,w3,#1",
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_against_llvm(name: str, tmp_path: Path) -> None:
    """Within 2 cycles and 40 % of LLVM, which forwards neither loads to arithmetic nor results to stores."""
    llvm = shutil.which("llvm-mca-19") or shutil.which("llvm-mca") or shutil.which("llvm-mca-14")
    if llvm is None:
        pytest.skip("llvm-mca is not installed")
    source = LOOPS[name]
    command = [llvm, "-mtriple=aarch64-linux-gnu", "-mcpu=cortex-a53", "-iterations=200", "-"]
    done = subprocess.run(
        command,
        input=source.replace(";", "\n") + "\n",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert found is not None
    expected = int(found[1]) / 200
    back = len(assemble(source, tmp_path))
    cycles = MODEL.block_cost(assemble(f"{source}; b.ne .-{back}", tmp_path), 0x1000).cycles
    assert abs(cycles - expected) <= min(2, 0.4 * expected), (cycles, expected)


def test_a_loop_and_its_end(tmp_path: Path) -> None:
    code = assemble("subs w0,w0,#1; b.ne .-4", tmp_path)
    assert MODEL.block_cost(code, 0x1000).cycles == 1
    loop = BlockCount(0x1000, code, 2, 1000, 999)
    assert MODEL.region_cycles(Region((loop,))) == pytest.approx(1000 + MISPREDICTED, abs=2)


@pytest.mark.parametrize(
    ("code", "said"),
    [("000020d4", "brk"), ("ffffffff", "0x2000"), ("2028221e", "not covered|no rule"), ("0000", "0x2000")],
)
def test_what_has_no_rule_is_an_error(code: str, said: str) -> None:
    with pytest.raises(ToolError, match=said):
        MODEL.block_cost(bytes.fromhex(code), 0x2000)
