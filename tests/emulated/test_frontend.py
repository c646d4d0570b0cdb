"""The audio front end as the Cortex-M4 computes it, in QEMU: the host's features bit for bit."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.assets import asset_dir
from pipeline.frontend import FrontEnd, features, frontend_sources

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(
        not (shutil.which("qemu-system-arm") and shutil.which("arm-none-eabi-gcc")),
        reason="needs qemu-system-arm and arm-none-eabi-gcc",
    ),
]

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "fsdd.npz"
# Semihosting answers; the MPS2's timer runs at 25 MHz, which -icount shift=0 makes 40 instructions a tick.
_MAIN = """\
#include "frontend.h"
#define TIMER ((volatile uint32_t *)0x40000000u)
extern const int16_t clips[CLIPS][FRONTEND_SAMPLES];
extern const int8_t wanted[CLIPS][FRONTEND_FRAMES * FRONTEND_COLUMNS];
static frontend_work_t work;
static int8_t out[FRONTEND_FRAMES * FRONTEND_COLUMNS];

static void semihosting(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void say(const char *what, uint32_t number) {
    char text[12], *at = text + 11;
    *at = 0;
    do *--at = (char)('0' + number % 10u); while (number /= 10u);
    semihosting(4, what);
    semihosting(4, at);
    semihosting(4, "\\n");
}

void reset(void) {
    TIMER[2] = 0xFFFFFFFFu;
    TIMER[1] = 0xFFFFFFFFu;
    TIMER[0] = 1;
    uint32_t differ = 0, ticks = 0;
    for (int c = 0; c < CLIPS; c++) {
        const uint32_t start = TIMER[1];
        frontend_clip(&work, clips[c], out);
        ticks += start - TIMER[1];
        for (int i = 0; i < (int)sizeof out; i++) differ += out[i] != wanted[c][i];
    }
    say("ticks ", ticks);
    say("differ ", differ);
    semihosting(0x18, (void *)0x20026);
    for (;;) {}
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {(void *)0x20010000u, reset};
"""
_LINKER = """\
MEMORY { FLASH : ORIGIN = 0, LENGTH = 1M  SRAM : ORIGIN = 0x20000000, LENGTH = 64K }
SECTIONS {
    .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > FLASH
    .bss (NOLOAD) : { *(.bss*) *(COMMON) } > SRAM
}
"""


def speech(front_end: FrontEnd, count: int) -> np.ndarray:
    clips = np.random.default_rng(2).normal(0, 2000, (count, front_end.samples)).astype(np.int16)
    if SHARED.is_file():
        with np.load(SHARED) as archive:
            pcm, offset = archive["pcm"], archive["offset"]
        for row in range(count - 1):  # the last one stays noise
            part = pcm[offset[row * 700] : offset[row * 700 + 1]][: front_end.samples]
            clips[row, : len(part)], clips[row, len(part) :] = part, 0
    return clips


@pytest.mark.parametrize("coefficients", [0, 13])
def test_m4_equals_host(tmp_path: Path, coefficients: int) -> None:
    front_end = FrontEnd(coefficients=coefficients)
    clips = speech(front_end, 4)
    expected = features(front_end, clips).reshape(len(clips), -1)

    def table(kind: str, name: str, rows: np.ndarray) -> str:
        body = ",\n".join("{" + ", ".join(map(str, row)) + "}" for row in rows.tolist())
        return f"const {kind} {name}[{len(rows)}][{rows.shape[1]}] = {{\n{body}}};\n"

    data = "#include <stdint.h>\n" + table("int16_t", "clips", clips) + table("int8_t", "wanted", expected)
    files = {**frontend_sources(front_end), "main.c": _MAIN, "data.c": data, "link.ld": _LINKER}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    sources = [
        "main.c",
        "data.c",
        "frontend.c",
        "frontend_tables.c",
        str(asset_dir("firmware") / "port" / "libc.c"),
    ]
    command = [
        "arm-none-eabi-gcc",
        "-mcpu=cortex-m4",
        "-mthumb",
        "-std=gnu11",
        "-O2",
        "-ffreestanding",
        "-nostdlib",
    ]
    command += [f"-DCLIPS={len(clips)}", "-T", "link.ld", *sources, "-lgcc", "-o", "run.elf"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    machine = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-icount", "shift=0", "-monitor", "none"]
    machine += ["-serial", "none", "-semihosting-config", "enable=on,target=native", "-kernel", "run.elf"]
    done = subprocess.run(machine, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    said = dict(re.findall(r"(\w+) (\d+)", done.stdout + done.stderr))
    assert said.get("differ") == "0", done.stdout + done.stderr
    instructions = int(said["ticks"]) * 40 / len(clips)
    assert instructions < 6e6  # for one second of sound: a few per cent of the core's time
    print(f"{instructions:.0f} instructions a clip")
