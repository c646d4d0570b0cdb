"""What the pipeline knows of the kernels' sources: their names, limits and structs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np

from pipeline.engine import include_dir, kernel_sources, slow
from pipeline.space.kernels import DEPTHWISE_LEFT_SHIFTS, KERNELS, STRUCT_BYTES


def test_what_is_slow_is_told_by_the_kernels_own_limits() -> None:
    (source,) = (path for path in kernel_sources() if path.name == "depthwise_planes.c")
    limits = dict(re.findall(r"#define (LEFT_MAX|RIGHT_MAX|SUM_MAX) (.+)", source.read_text()))
    assert limits == {
        "LEFT_MAX": str(DEPTHWISE_LEFT_SHIFTS),
        "RIGHT_MAX": str(slow._RIGHT_MAX),
        "SUM_MAX": "(1 << 30)",
    }
    assert slow._SUM_MAX == 1 << 30


def test_struct_sizes_on_a_32_bit_target(tmp_path: Path) -> None:
    """STRUCT_BYTES, which the flash model relies on, against a compiler that lays structs out the same way."""
    asserts = "".join(
        f'_Static_assert(sizeof(edgenas_{name}_t) == {size} + POINTERS_{name} * (sizeof(void *) - 4), "{name}");\n'
        for name, size in STRUCT_BYTES.items()
    )
    pointers = {"conv": 4, "elementwise": 0, "pool": 0, "pad": 0, "table": 1, "softmax": 1}
    defines = "".join(f"#define POINTERS_{name} {count}\n" for name, count in pointers.items())
    padding = "" if np.dtype(np.intp).itemsize == 4 else "#pragma pack(push, 4)\n"
    source = tmp_path / "sizes.c"
    source.write_text(f'{defines}{padding}#include "edgenas/kernels.h"\n{asserts}')
    done = subprocess.run(
        ["gcc", "-std=c11", f"-I{include_dir()}", "-fsyntax-only", str(source)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_kernel_has_a_source() -> None:
    text = "".join(path.read_text() for path in kernel_sources())
    for name in KERNELS:
        assert f"void {name}(" in text
