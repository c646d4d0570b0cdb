"""The counting plugin inside QEMU, on programs whose instructions are counted by hand."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.assets import asset_dir
from pipeline.errors import LinkError, ToolError
from pipeline.latency.timing import timing_model
from pipeline.links import compiled
from pipeline.links.blockcount import Region, RegionReader, plugin_args, plugin_library

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(
        not (shutil.which("qemu-system-arm") and shutil.which("arm-none-eabi-gcc") and shutil.which("gcc")),
        reason="needs qemu-system-arm, arm-none-eabi-gcc and gcc",
    ),
]

BEGIN, END = ".inst.w 0xf3af8040", ".inst.w 0xf3af8041"
ICOUNT = ("-icount", "shift=6")
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
{body}
    movs r0, #0x18          @ SYS_EXIT, ADP_Stopped_ApplicationExit
    ldr r1, =0x20026
    bkpt 0xab
    b .
    .thumb_func
leaf:
    adds r4, #1
    bx lr
    .ltorg
"""


def build(body: str, folder: Path) -> Path:
    source, elf = folder / "program.S", folder / "program.elf"
    source.write_text(PROGRAM.format(body=body), encoding="utf-8")
    command = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-nostdlib", "-Wl,-Ttext=0"]
    subprocess.run([*command, str(source), "-o", str(elf)], check=True, timeout=60)
    return elf


def run(elf: Path, out: Path, *more: str) -> bytes:
    command = ["qemu-system-arm", "-M", "mps2-an386", "-nodefaults", "-display", "none", "-semihosting"]
    done = subprocess.run(
        [*command, "-kernel", str(elf), "-plugin", *plugin_args(out), *more],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


def regions(body: str, folder: Path, *more: str) -> list[Region]:
    out = folder / "counts.bin"
    run(build(body, folder), out, *more)
    return RegionReader(out).read_all()


@pytest.mark.parametrize("more", [(), ICOUNT], ids=["plain", "icount"])
class TestCounts:
    def test_loop(self, more: tuple[str, ...], tmp_path: Path) -> None:
        body = (
            f"movw r1, #1000; nop; {BEGIN}; movs r2, #1; 1: adds r0, r2; subs r1, #1; bne 1b; nop; {END}; nop"
        )
        (region,) = regions(body, tmp_path, *more)
        assert region.instructions == 1 + 1000 * 3 + 1
        # the branch is taken 999 times
        assert sum(block.taken for block in region.blocks) == 999
        # movs; then adds, subs, bne: 1 + 1 + 1, and P = 2 where taken; nop
        assert timing_model("cortex_m4").region_cycles(region) == 1 + 1000 * 3 + 999 * 2 + 1

    def test_markers_next_to_each_other_count_nothing(self, more: tuple[str, ...], tmp_path: Path) -> None:
        (region,) = regions(f"nop; {BEGIN}; {END}; nop", tmp_path, *more)
        assert region.instructions == 0
        assert region.blocks == ()

    def test_both_markers_in_one_block(self, more: tuple[str, ...], tmp_path: Path) -> None:
        (region,) = regions(f"nop; {BEGIN}; nop; movw r0, #5; nop; {END}; nop; nop", tmp_path, *more)
        (block,) = region.blocks
        assert (block.instructions, block.runs, block.taken) == (3, 1, 0)
        assert block.code == bytes.fromhex("00bf 40f20500 00bf")

    def test_calls_and_untaken_branches(self, more: tuple[str, ...], tmp_path: Path) -> None:
        body = f"""
            movs r4, #0; movs r5, #7; {BEGIN}
        1:  bl leaf                     @ 2 in the leaf
            cmp r4, #3
            bne 2f                      @ falls through once
            nop
        2:  subs r5, #1
            bne 1b
            {END}
        """.replace(";", "\n")
        (region,) = regions(body, tmp_path, *more)
        assert region.instructions == 7 * (1 + 2 + 4) + 1
        # bl and bx 7 each, bne 2f 6, bne 1b 6
        assert sum(block.taken for block in region.blocks) == 7 + 7 + 6 + 6

    def test_one_record_a_region_and_code_written_once(self, more: tuple[str, ...], tmp_path: Path) -> None:
        body = f"movs r6, #3; 3: movs r1, #9; {BEGIN}; 1: subs r1, #1; bne 1b; {END}; subs r6, #1; bne 3b"
        found = regions(body, tmp_path, *more)
        assert [region.instructions for region in found] == [18, 18, 18]
        data = (tmp_path / "counts.bin").read_bytes()
        loops = {block.code for region in found for block in region.blocks}
        assert all(
            data.count(len(code).to_bytes(4, "little") + (len(code) // 2).to_bytes(4, "little") + code) == 1
            for code in loops
        )

    def test_device_access_inside_a_block(self, more: tuple[str, ...], tmp_path: Path) -> None:
        """Under -icount QEMU leaves the block at each access to the timer and resumes behind it."""
        body = f"""
            ldr r0, =0x40000000; movs r1, #1; str r1, [r0]; movs r5, #50; {BEGIN}
        1:  nop; ldr r2, [r0, #4]; nop; ldr r3, [r0, #4]; adds r4, #1; subs r5, #1
            bne 1b
            {END}
        """.replace(";", "\n")
        (region,) = regions(body, tmp_path, *more)
        assert region.instructions == 50 * 7
        assert sum(block.taken for block in region.blocks) == 49


@pytest.mark.parametrize("before", ["nop", "nop.w"])
def test_instruction_across_two_pages(before: str, tmp_path: Path) -> None:
    """QEMU ends the block before it, and tells plugins too long a size for the block's last instruction."""
    size = 2 if before == "nop" else 4
    body = f"b 3f; .org {0x1000 - 2 - size - 4:#x}; 3: {BEGIN}; {before}; movw r0, #5; nop; {END}"
    (region,) = regions(body, tmp_path)
    assert region.instructions == 3
    code = b"".join(block.code for block in sorted(region.blocks, key=lambda block: block.pc))
    assert code == bytes.fromhex("00bf" if size == 2 else "aff30080") + bytes.fromhex("40f20500 00bf")
    assert sum(block.taken for block in region.blocks) == 0
    assert timing_model("cortex_m4").region_cycles(region) == 3


def test_a_loop_takes_as_long_wherever_a_page_cuts_it(tmp_path: Path) -> None:
    """Loads pipeline over the end of a page as they do within one."""

    def cycles(name: str, offset: int) -> float:
        loop = (
            "1: ldr r2, [r3]; ldr r4, [r3, #4]; ldr.w r6, [r3, #8]; smlad r5, r2, r4, r5; subs r1, #1; bne 1b"
        )
        body = f"b 3f; .org {offset:#x}; 3: ldr r3, =0x100; movs r1, #99; {BEGIN}; {loop}; {END}"
        folder = tmp_path / name
        folder.mkdir()
        (region,) = regions(body, folder)
        assert region.instructions == 99 * 6
        return timing_model("cortex_m4").region_cycles(region)

    whole = cycles("whole", 0x600)
    assert [cycles(f"cut{back}", 0x1000 - back) for back in range(10, 26, 2)] == [whole] * 8


def test_long_regions_are_the_same_in_every_run(tmp_path: Path) -> None:
    """Long enough for -icount to run out of its budget of instructions in the middle of blocks."""
    loop = "1: adds r0, #1; eor r3, r0; nop; nop; subs r1, #1; bne 1b"
    body = f"ldr r1, =10000000; nop; {BEGIN}; {loop}; {END}"
    elf = build(body, tmp_path)
    with_icount = [run(elf, tmp_path / f"{n}.bin", *ICOUNT) for n in range(2)]
    without = [run(elf, tmp_path / f"plain{n}.bin") for n in range(2)]
    assert with_icount[0] == with_icount[1] == without[0] == without[1]
    (region,) = RegionReader(tmp_path / "0.bin").read_all()
    assert region.instructions == 60_000_000


@pytest.mark.skipif(
    not (shutil.which("qemu-system-riscv32") and shutil.which("riscv64-unknown-elf-gcc")),
    reason="needs qemu-system-riscv32 and riscv64-unknown-elf-gcc",
)
def test_riscv_markers(tmp_path: Path) -> None:
    source, elf, out = tmp_path / "program.S", tmp_path / "program.elf", tmp_path / "counts.bin"
    body = """.globl _start; _start: li a1, 1000; nop; slti x0, x0, 0x740; li a2, 1
        1: add a0, a0, a2; addi a1, a1, -1; bnez a1, 1b; nop; slti x0, x0, 0x741
        li t0, 0x100000; li t1, 0x5555; sw t1, 0(t0); 2: j 2b"""
    source.write_text(body.replace(";", "\n") + "\n", encoding="utf-8")
    command = [
        "riscv64-unknown-elf-gcc",
        "-march=rv32imc",
        "-mabi=ilp32",
        "-nostdlib",
        "-Wl,-Ttext=0x80000000",
    ]
    subprocess.run([*command, str(source), "-o", str(elf)], check=True, timeout=60)
    qemu = ["qemu-system-riscv32", "-M", "virt", "-bios", "none", "-display", "none", "-nodefaults"]
    subprocess.run([*qemu, "-kernel", str(elf), "-plugin", *plugin_args(out)], check=True, timeout=60)
    (region,) = RegionReader(out).read_all()
    assert region.instructions == 1 + 1000 * 3 + 1
    assert sum(block.taken for block in region.blocks) == 999


@pytest.mark.skipif(
    not (shutil.which("qemu-system-aarch64") and shutil.which("aarch64-linux-gnu-gcc")),
    reason="needs qemu-system-aarch64 and aarch64-linux-gnu-gcc",
)
def test_aarch64_markers(tmp_path: Path) -> None:
    source, elf, out = tmp_path / "program.S", tmp_path / "program.elf", tmp_path / "counts.bin"
    body = """.globl _start; _start: mov w1, 1000; nop; hint #0x40; mov w2, 1
        1: add w0, w0, w2; subs w1, w1, 1; b.ne 1b; nop; hint #0x41
        mov w0, 0x18; adr x1, 2f; hlt 0xf000; 3: b 3b; .balign 8; 2: .quad 0x20026, 0"""  # SYS_EXIT
    source.write_text(body.replace(";", "\n") + "\n", encoding="utf-8")
    command = ["aarch64-linux-gnu-gcc", "-nostdlib", "-static", "-Wl,-Ttext=0x40200000,--build-id=none"]
    subprocess.run([*command, str(source), "-o", str(elf)], check=True, timeout=60)
    qemu = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-display", "none", "-nodefaults"]
    load = ["-semihosting", "-device", f"loader,file={elf},cpu-num=0"]
    subprocess.run([*qemu, *load, "-plugin", *plugin_args(out)], check=True, timeout=60)
    (region,) = RegionReader(out).read_all()
    assert region.instructions == 1 + 1000 * 3 + 1
    assert sum(block.taken for block in region.blocks) == 999


def test_reading_while_it_is_written(tmp_path: Path) -> None:
    body = f"movs r1, #4; {BEGIN}; nop; {END}; nop; {BEGIN}; nop; nop; {END}"
    data = run(build(body, tmp_path), tmp_path / "counts.bin")
    partial = tmp_path / "partial.bin"
    reader = RegionReader(partial)
    assert reader.read_all() == []  # not there yet
    found = []
    for end in range(len(data) + 1):
        partial.write_bytes(data[:end])
        found += reader.read_all()
    assert [region.instructions for region in found] == [1, 2]
    with pytest.raises(LinkError, match="no counted region"):
        reader.next(0.05)
    whole = RegionReader(tmp_path / "counts.bin")
    assert [whole.next(1.0), whole.next(1.0)] == found


def test_a_file_that_is_not_the_plugins(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no such thing")
    with pytest.raises(LinkError, match="not a block count file"):
        RegionReader(tmp_path / "x").read_all()


def test_a_comma_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="comma"):
        plugin_args(tmp_path / "a,b")


def test_library_is_compiled_once_and_needs_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = plugin_library()
    assert library.parent == tmp_path / "edgenas"
    stamp = library.stat().st_mtime_ns
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert plugin_library() == library
    assert library.stat().st_mtime_ns == stamp
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(ToolError, match="compiler") as caught:
        plugin_library()
    assert "apt" in caught.value.hint


def test_library_is_compiled_by_several_threads_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        found = {future.result() for future in [pool.submit(plugin_library) for _ in range(4)]}
    assert found == set((tmp_path / "edgenas").iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ToolError, match="cannot be kept in") as caught:
        plugin_library()
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_source_compiles_without_warnings(tmp_path: Path) -> None:
    source = asset_dir("firmware") / "emulator" / "blockcount.c"
    command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, str(source), "-o", str(tmp_path / "x.so")], check=True, timeout=60)
