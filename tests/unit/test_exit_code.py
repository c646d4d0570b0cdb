"""What early exits add to a program, on each compiler at hand, is within what the flash model adds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.boards import load_board
from pipeline.engine.emit_exits import _DECIDE
from pipeline.firmware.render import COMPILE_FLAGS
from pipeline.memory.flash import EXIT_BYTES, EXIT_CODE_BYTES, EXIT_RAM_BYTES

_HEAD = """\
#include <stdint.h>
#define MODEL_OUTPUT_BYTES 11
void layer(void);
const int8_t *model_output(void);
uint32_t model_exit(void);
void model_invoke(void);
static int8_t arena[65536];
#define AT(offset) (arena + (offset))
int8_t *model_input(void);
int8_t *model_input(void) { return arena; }
"""


def sections(board_name: str, exits: int, folder: Path) -> tuple[int, int]:
    """(flash, RAM) bytes of a program with so many exits among five layers, garbage collection imitated."""
    board = load_board(board_name)
    body = [f"    layer();\n{_leave(i) if i < exits else ''}" for i in range(5)]
    last = f"    model_leave(60000, {exits});\n" if exits else ""
    output = _DECIDE if exits else "const int8_t *model_output(void) { return AT(60000); }\n"
    text = f"{_HEAD}{output}void model_invoke(void) {{\n{''.join(body)}{last}}}\n"
    (folder / "a.c").write_text(text)
    tools = board.core.toolchain
    command = [f"{tools}gcc", *board.core.cflags, *COMPILE_FLAGS, "-c", "a.c", "-o", "a.o"]
    subprocess.run(command, cwd=folder, check=True)
    listing = subprocess.run(
        [f"{tools}size", "-A", "a.o"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    sizes = {line.split()[0]: int(line.split()[1]) for line in listing.splitlines() if line.startswith(".")}
    flash = sum(s for name, s in sizes.items() if name.startswith((".text", ".rodata", ".data")))
    ram = sum(s for name, s in sizes.items() if name.startswith((".bss", ".data")))
    return flash - sizes.get(".text.model_exit", 0), ram  # which the application does not call


def _leave(i: int) -> str:
    offset = 12000 * i + 1004
    return f"    if (model_is_sure({offset}, {i + 200})) {{ model_leave({offset}, {i}); return; }}\n"


@pytest.mark.parametrize("board", ["qemu-cortex-m4", "qemu-cortex-m7", "qemu-rv32", "qemu-cortex-a53"])
@pytest.mark.parametrize("exits", [1, 2, 4])
def test_code_of_exits_is_within_the_model(board: str, exits: int, tmp_path: Path) -> None:
    if not shutil.which(f"{load_board(board).core.toolchain}gcc"):
        pytest.skip(f"no compiler for {board}")
    flash, ram = sections(board, exits, tmp_path)
    flash_without, ram_without = sections(board, 0, tmp_path)
    assert 0 < flash - flash_without <= EXIT_CODE_BYTES + EXIT_BYTES * exits
    assert ram - ram_without == EXIT_RAM_BYTES
