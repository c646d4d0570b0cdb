"""The operator benchmark's firmware folder."""

from __future__ import annotations

from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.firmware.render import engine_sources, environment, port_sources, write_folder
from pipeline.space.kernels import KERNELS
from pipeline.space.opspec import OP_KINDS

# What the server, the port and padding take of the SRAM besides the stack; the linker checks it.
_OTHER_STATIC_BYTES = 4096


def bench_pool_bytes(board: Board) -> int:
    """Bytes that one operator's tensors, weights, constants and scratch may take together."""
    return (board.memory.sram.bytes - board.stack_bytes - _OTHER_STATIC_BYTES) // 8 * 8


def render_bench(board: Board, out_dir: Path) -> Path:
    """Writes the benchmark firmware for `board` to `out_dir` and returns that.

    It runs any kernel with the parameters that the host sends, so it is built and flashed once per board.
    """
    files = port_sources(board) | engine_sources(board)
    source = asset_dir("firmware") / "bench" / "bench.c"
    files["bench/bench.c"] = source.read_text(encoding="utf-8")
    files["bench/bench_config.h"] = (
        environment()
        .get_template("bench_config.h.j2")
        .render(kernels=KERNELS, op_kinds=OP_KINDS, pool_bytes=bench_pool_bytes(board))
    )
    return write_folder(board, out_dir, "Operator benchmark", files)
