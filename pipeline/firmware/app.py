"""The application's firmware folder: a generated model behind the wire server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ConfigError
from pipeline.firmware.render import engine_sources, environment, port_sources, write_folder
from pipeline.links import INSTRUCTION_NS
from pipeline.space.budgets import Budgets

_MOST_U32 = (1 << 32) - 1  # ticks of one inference, and microseconds of the device's own latency
LEAST_LATENCY_MS = 0.001  # the device compares whole microseconds, and 0 stands for no budget


def cycles_per_tick(board: Board, cycles_per_instruction: float) -> float:
    """Core cycles in one tick of the device's counter.

    A counter of cycles or of time gives them directly. One that counts instructions (an emulator under -icount)
    takes the ratio that a timing model found for this program.
    """
    if not board.counts_instructions:
        return board.clock_hz / board.counter.hz
    ticks_per_instruction = board.counter.hz * INSTRUCTION_NS * 1e-9
    return cycles_per_instruction / ticks_per_instruction


def most_latency_ms(board: Board, cycles_per_instruction: float = 1.0) -> float:
    """The longest inference, in whole microseconds, that the device's 32-bit counter can tell from a shorter one.

    Where the counter counts instructions this depends on the program; without its ratio, at a cycle each.
    """
    counted_ms = _MOST_U32 * cycles_per_tick(board, cycles_per_instruction) / board.clock_hz * 1e3
    return min(math.floor(counted_ms * 1e3), _MOST_U32) / 1e3


def too_long(latency_ms: float, board: Board, cycles_per_instruction: float = 1.0) -> str:
    """Why the device cannot hold an inference against `latency_ms`; empty where it can."""
    most = most_latency_ms(board, cycles_per_instruction)
    return "" if latency_ms <= most else f"at most {most:,} ms: {board.name} cannot time longer inferences"


def check_deadline(latency_ms: float | None, board: Board, setting: str) -> None:
    """Raises ConfigError, by the name of its `setting`, for a deadline that the device cannot hold an inference
    against; None is no deadline."""
    if latency_ms is None:
        return
    why = too_long(latency_ms, board)
    if latency_ms < LEAST_LATENCY_MS:
        why = f"at least {LEAST_LATENCY_MS:g} ms: the device compares whole microseconds"
    if why:
        raise ConfigError(f"{setting} is {latency_ms:,}", hint=why)


def render_app(
    sources: Mapping[str, str], board: Board, budgets: Budgets, out_dir: Path, cycles_per_instruction: float,
    front_end_cycles_per_instruction: float | None = None,
) -> Path:  # fmt: skip
    """Writes the application for `board` to `out_dir` and returns that.

    `sources`: the generated model, file name to text (`engine.emit_c`), with `model.h` among them.
    `budgets` are compiled in, for the device's own check; `cycles_per_instruction` turns its instruction
    count into modelled cycles where its counter counts instructions. `front_end_cycles_per_instruction` is that
    of the audio front end, and needed where the model has one (`model_features`). Raises ConfigError for a ratio that
    cannot be, and for a latency budget beyond what the device's counter can time.
    """
    if why := too_long(budgets.latency_ms or 0.0, board, cycles_per_instruction):
        raise ConfigError(f"a latency budget of {budgets.latency_ms:,} ms cannot be checked", hint=why)
    rate = _rate_q16(board, cycles_per_instruction)
    sound = front_end_cycles_per_instruction
    if not board.counts_instructions:
        note = f"The counter counts {board.counter.counts}."
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
