"""The audio front end in the report: its latency, its memory, and whether its features are NumPy's."""

from __future__ import annotations

from typing import Any

from pipeline.boards import Board
from pipeline.engine import Model
from pipeline.figures import Figure
from pipeline.frontend import FrontEnd
from pipeline.latency.sound import SoundCost
from pipeline.validate.sound import SoundRun


def describe(f: FrontEnd) -> str:
    """E.g. `log-mel energies, 48 frames x 32 bands, windows of 256 samples every 160, 1 s at 8000 Hz`."""
    what = f"{f.coefficients} MFCCs of" if f.coefficients else "log-mel energies,"
    return (
        f"{what} {f.frames} frames x {f.bands} bands, windows of {f.window} samples every {f.hop}, "
        f"{f.samples / f.sample_rate:g} s at {f.sample_rate} Hz"
    )


def sound_check(run: SoundRun) -> dict[str, Any]:
    wrong = f"the features of {run.mismatches} of {run.clips} clips differ from NumPy's"
    detail = f"{wrong} (by up to {run.worst_difference})"
    return {"name": "features", "ok": not run.mismatches, "detail": detail}


def front_end_section(
    board: Board, model: Model, cost: SoundCost, run: SoundRun | None
) -> dict[str, Any] | None:
    """Figures of a validated model's front end; None for a model that was not given sound."""
    if model.front_end is None or model.overlay is None or run is None:
        return None
    ms = 1e3 / board.clock_hz
    how = (
        "executed blocks of the slowest clip"
        if run.cycles is not None
        else "the device's counter, slowest clip"
    )
    predicted = Figure(
        cost.cycles * ms, "ms", cost.provenance, n=cost.clips, low=cost.low * ms, high=cost.high * ms,
        note=f"made-up clips on two small applications: {cost.note}",
    )  # fmt: skip
    observed = Figure(run.cycles_on(board) * ms, "ms", board.latency_provenance, n=run.clips, note=how)
    needed = model.front_end.sound_bytes + model.front_end.work_bytes
    return {
        "description": describe(model.front_end),
        "latency_ms": {"predicted": predicted.to_json(), "observed": observed.to_json()},
        "cycles": {"predicted": cost.cycles, "observed": run.cycles_on(board)},
        "flash_bytes": Figure(
            cost.flash_bytes, "bytes", "measured", note="ELF: an application with it against one without"
        ).to_json(),
        "sram_bytes": Figure(
            needed, "bytes", "measured", note="clip and working memory, in the arena before the inference"
        ).to_json(),
        "arena_bytes": Figure(
            model.arena_bytes - model.plan.arena_bytes,
            "bytes",
            "measured",
            note="what the arena grows by for them",
        ).to_json(),
        "parity": {"clips": run.clips, "mismatches": run.mismatches, "source": run.source},
    }
