"""The interpreter's firmware folder: wire server, port and the user's library; models come over the wire."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.firmware.build import Build, build
from pipeline.firmware.render import environment, port_sources, write_folder
from pipeline.tflm.library import Library

MAX_LAYERS = 256
# The interpreter plans memory on the stack: some 3 kB deep with GCC 12.
_STACK_BYTES = 8192
# server, port, interpreter and the C library's own data; the linker checks it
_OTHER_STATIC_BYTES = 8192
CXX_FLAGS = (
    "-O2", "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics", "-ffunction-sections",
    "-fdata-sections", "-DTF_LITE_STATIC_MEMORY", "-DTF_LITE_DISABLE_X86_NEON", "-Wall", "-Wextra",
    "-Wno-unused-parameter",
)  # fmt: skip


def region_bytes(board: Board) -> int:
    """RAM that a model and its arena may take together."""
    return (board.memory.sram.bytes - _stack(board) - _OTHER_STATIC_BYTES) // 16 * 16


def render_tflm(board: Board, library: Library, out_dir: Path) -> Path:
    """Writes the firmware for `board` around `library` to `out_dir` and returns that."""
    board = replace(board, stack_bytes=_stack(board))
    files = port_sources(board)
    for source in sorted((asset_dir("firmware") / "tflm").iterdir()):
        if source.suffix in (".c", ".cc", ".h"):
            files[f"tflm/{source.name}"] = source.read_text(encoding="utf-8")
    values = {
        "board": board, "library": library, "region_bytes": region_bytes(board), "max_layers": MAX_LAYERS,
        "flags": [*board.core.cflags, *CXX_FLAGS],
    }  # fmt: skip
    for name, path in (("tflm_config.h", "tflm/tflm_config.h"), ("tflm_library.cmake", "tflm/library.cmake")):
        files[path] = environment().get_template(f"{name}.j2").render(values)
    return write_folder(board, out_dir, "TensorFlow Lite Micro", files)


def build_tflm(board: Board, library: Library, folder: Path) -> Build:
    """Render and build; raises ToolError (compiler missing, or the library does not link)."""
    return build(render_tflm(board, library, folder), replace(board, stack_bytes=_stack(board)))


def _stack(board: Board) -> int:
    return max(board.stack_bytes, _STACK_BYTES)
