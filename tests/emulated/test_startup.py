"""Start-up code as each compiler makes it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.boards import load_board
from pipeline.firmware import render_bench
from pipeline.firmware.render import COMPILE_FLAGS

pytestmark = pytest.mark.emulated


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("qemu-cortex-m4", "cortexm_startup.c"),
        ("qemu-rv32", "riscv_startup.c"),
        ("qemu-cortex-a53", "aarch64.c"),
    ],
)
def test_the_stack_is_painted_without_a_call(name: str, source: str, tmp_path: Path) -> None:
    """A called memset would overwrite what it has itself pushed below the stack pointer."""
    board = load_board(name)
    if shutil.which(f"{board.core.toolchain}gcc") is None:
        pytest.skip(f"needs {board.core.toolchain}gcc")
    render_bench(board, tmp_path)
    (path,) = tmp_path.rglob(source)
    folders = sorted({header.parent for header in tmp_path.rglob("*.h")})
    made = tmp_path / "startup.o"
    subprocess.run(
        [f"{board.core.toolchain}gcc", *board.core.cflags, *COMPILE_FLAGS,
         *(f"-I{folder}" for folder in folders), "-c", path, "-o", made],
        check=True, timeout=60,
    )  # fmt: skip
    listing = subprocess.run(
        [f"{board.core.toolchain}objdump", "-dr", made],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    ).stdout
    assert "main" in listing
    # one call zeroes .bss, which lies elsewhere
    assert len(re.findall(r"R_\w+\s+memset\b", listing)) <= 1
