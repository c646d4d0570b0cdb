"""The application's firmware folder: a generated model behind the wire server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ConfigError
from pipeline.firmware.render import engine_sources, environment, port_sources, write_folder
from pipeline.links import INSTRUCTION_NS
from pipeline.space.budgets import Budgets


def cycles_per_tick(board: Board, cycles_per_instruction: float) -> float:
    """Core cycles in one tick of the device's counter.

    A counter of cycles gives them directly. One that counts instructions (an emulator under -icount) takes
    the ratio that a timing model found for this program.
    """
    if board.counter.counts == "cycles":
        return board.clock_hz / board.counter.hz
    ticks_per_instruction = board.counter.hz * INSTRUCTION_NS * 1e-9
    return cycles_per_instruction / ticks_per_instruction


def render_app(
    sources: Mapping[str, str], board: Board, budgets: Budgets, out_dir: Path, cycles_per_instruction: float,
    front_end_cycles_per_instruction: float | None = None,
) -> Path:  # fmt: skip
    """Writes the application for `board` to `out_dir` and returns that.

    `sources`: the generated model, file name to text (`engine.emit_c`), with `model.h` among them.
    `budgets` are compiled in, for the device's own check; `cycles_per_instruction` turns its instruction
    count into modelled cycles where its counter counts instructions. `front_end_cycles_per_instruction` is that
    of the audio front end, and needed where the model has one (`model_features`).
    """
    rate = _rate_q16(board, cycles_per_instruction)
    sound = front_end_cycles_per_instruction
    if board.counter.counts == "cycles":
        note = "The counter counts core cycles."
    else:
        note = f"Modelled: {cycles_per_instruction:.4f} cycles an instruction."
    files = port_sources(board) | engine_sources(board)
    files |= {f"app/{name}": text for name, text in sources.items()}
    files["app/main.c"] = (
        environment()
        .get_template("main.c.j2")
        .render(
            board=board,
            latency_budget_us=round((budgets.latency_ms or 0) * 1000),
            sram_budget_bytes=budgets.sram_bytes or 0,
            flash_budget_bytes=budgets.flash_bytes or 0,
            cycles_per_tick_q16=rate,
            front_end_cycles_per_tick_q16=0 if sound is None else _rate_q16(board, sound),
            rate_note=note,
        )
    )
    return write_folder(board, out_dir, "Application", files, definitions=("EDGENAS_LAYER_TICKS",))


def _rate_q16(board: Board, cycles_per_instruction: float) -> int:
    rate = round(cycles_per_tick(board, cycles_per_instruction) * 65536)
    if not 0 < rate < 1 << 32:
        raise ConfigError(f"{cycles_per_instruction:g} cycles an instruction cannot be right")
    return rate
