"""Validation of TensorFlow Lite Micro on a board: the same inputs and reference as for the generated engine."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import Board
from pipeline.errors import ModelError
from pipeline.export.reference import TflmReference
from pipeline.figures import Figure, Provenance
from pipeline.latency.modelled import check_no_waits
from pipeline.latency.timing import timing_model
from pipeline.links import INSTRUCTION_NS
from pipeline.links.blockcount import RegionReader, plugin_args
from pipeline.space.budgets import Budgets
from pipeline.tflm.device import Prepared, TflmDevice, why_refused
from pipeline.tflm.target import Target
from pipeline.wire.client import RefusedError

_REGION_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class TflmValidation:
    """What the interpreter computed and took. Sizes in bytes; `layer_cycles` is empty without a profiler.

    `latency_ms` is the median; `latency_high_ms`, which a deadline is held against, the 95th percentile. They are one
    figure where a timing model makes it.
    `sram_bytes`: static RAM and stack of the firmware with an arena of exactly `arena_used_bytes` in place of
    its region; `flash_bytes`: its code and the model. Both 0 where there is no firmware (the wheel).
    """

    board: str
    engine: str
    engine_revision: str
    images: int
    mismatches: int
    worst_difference: int
    reference: str
    accuracy: float | None
    ticks_min: int
    ticks_median: float
    ticks_p95: float
    latency_ms: float
    latency_high_ms: float
    provenance: Provenance
    layer_cycles: tuple[float, ...]
    model_bytes: int
    arena_used_bytes: int
    sram_bytes: int
    stack_reserve_bytes: int
    stack_used_bytes: int
    flash_bytes: int
    broken: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Every byte agrees and every budget holds."""
        return not self.mismatches and not self.broken

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "feasible": self.ok}

    def figures(self) -> list[tuple[str, Figure]]:
        """For printing: name and figure."""
        slow = ""
        if self.latency_high_ms != self.latency_ms:
            slow = f": median; 95th percentile {self.latency_high_ms:,.4f} ms"
        rows: list[tuple[str, Figure]] = [
            ("latency", Figure(self.latency_ms, "ms", self.provenance, note=f"engine {self.engine}{slow}")),
            ("arena used", Figure(self.arena_used_bytes, "bytes", "measured", note="arena_used_bytes()")),
            ("model", Figure(self.model_bytes, "bytes", "measured", note="the file")),
        ]
        if self.flash_bytes:
            rows += [
                ("SRAM", Figure(self.sram_bytes, "bytes", "measured", note="arena as used, with stack")),
                ("stack used", Figure(self.stack_used_bytes, "bytes", "measured", note="high-water mark")),
                ("flash", Figure(self.flash_bytes, "bytes", "measured", note="firmware and model")),
            ]
        if self.accuracy is not None:
            rows.append(("accuracy", Figure(self.accuracy, "", "measured", note=f"{self.images} images")))
        return rows


def validate_tflm(
    tflite: bytes,
    board: Board,
    x: NDArray[np.int8],
    labels: NDArray[np.int64] | None,
    budgets: Budgets,
    folder: Path,
    *,
    engine: str,
    port: str | None = None,
    on_image: Callable[[int], None] | None = None,
) -> TflmValidation:
    """Send the model to the interpreter, then inputs `x` [n, ...] int8; compare each output byte.

    `folder` keeps the firmware's build. Raises ToolError (TFLM_ROOT, compiler, emulator), LinkError (the
    target), ModelError for a model that the interpreter refuses.
    """
    check_no_waits(board)
    reference = TflmReference(tflite)
    if reference.outputs > 1:
        raise ModelError(
            f"the model has {reference.outputs} outputs, and an interpreter cannot leave early",
            hint="validate it with engine edgenas",
        )
    expected = reference.run(x)
    target = Target.build(board, engine, folder)
    outputs, ticks = np.empty_like(expected), []
    with tempfile.TemporaryDirectory(prefix="edgenas-") as scratch:
        counted = Path(scratch) / "regions.bin" if board.counts_instructions and port is None else None
        arguments = plugin_args(counted) if counted else None
        with target.open(port=port, plugin_args=arguments) as device:
            prepared = _load(device, tflite)
            cycles: list[float] = []
            for i, image in enumerate(x):
                result = device.invoke(image)
                outputs[i] = np.frombuffer(result.output, np.int8).reshape(expected.shape[1:])
                ticks.append(result.ticks)
                if i == 0:
                    cycles, total = _cost(board, device, result.ticks, prepared, counted)
                if on_image:
                    on_image(i + 1)
            memory, region = device.memory(), device.region_bytes
    tick_ms = 1e3 / board.counter.hz
    if total is None:
        latency_ms, high_ms = statistics.median(ticks) * tick_ms, float(np.percentile(ticks, 95)) * tick_ms
    else:
        latency_ms = high_ms = total / board.clock_hz * 1e3
    built = target.built
    sram = (
        memory.static_bytes - region + prepared.arena_used_bytes + memory.stack_reserve_bytes if built else 0
    )
    flash = memory.flash_bytes + len(tflite) if built else 0
    accuracy = None
    if labels is not None:
        accuracy = float((outputs.reshape(len(x), -1).argmax(axis=1) == labels).mean())
    return TflmValidation(
        board=board.name,
        engine=engine,
        engine_revision=target.revision_text,
        images=len(x),
        mismatches=int((outputs != expected).reshape(len(x), -1).any(axis=1).sum()),
        worst_difference=int(np.abs(outputs.astype(int) - expected.astype(int)).max()),
        reference="TFLite Micro reference kernels (tflite-micro wheel)",
        accuracy=accuracy,
        ticks_min=min(ticks),
        ticks_median=float(statistics.median(ticks)),
        ticks_p95=float(np.percentile(ticks, 95)),
        latency_ms=latency_ms,
        latency_high_ms=high_ms,
        provenance=board.latency_provenance,
        layer_cycles=tuple(cycles),
        model_bytes=len(tflite),
        arena_used_bytes=prepared.arena_used_bytes,
        sram_bytes=sram,
        stack_reserve_bytes=memory.stack_reserve_bytes,
        stack_used_bytes=memory.stack_used_bytes,
        flash_bytes=flash,
        broken=_broken(budgets, board, high_ms, sram, flash),
    )


def _load(device: TflmDevice, tflite: bytes) -> Prepared:
    try:
        return device.load(tflite)
    except RefusedError as error:
        raise ModelError(
            f"the interpreter refuses the model: {why_refused(error)}",
            hint=f"model ({len(tflite)} bytes) and arena share {device.region_bytes} bytes of RAM",
        ) from error


def _cost(
    board: Board, device: TflmDevice, ticks: int, prepared: Prepared, counted: Path | None
) -> tuple[list[float], float | None]:
    """Cycles of each layer, and of the whole inference where a timing model makes them."""
    if counted is None:
        rate = board.clock_hz / board.counter.hz
        return [t * rate for t in device.layer_ticks()], None
    timing, reader = timing_model(board.core.timing), RegionReader(counted)
    regions = [reader.next(_REGION_TIMEOUT_S) for _ in range(prepared.layers)]
    cycles = [float(timing.region_cycles(region)) for region in regions]
    instructions = sum(region.instructions for region in regions)
    total = ticks * 1e9 / (board.counter.hz * INSTRUCTION_NS)
    # what runs between the layers costs what they cost on average
    return cycles, sum(cycles) + max(0.0, total - instructions) * sum(cycles) / max(1, instructions)


def _broken(budgets: Budgets, board: Board, latency_ms: float, sram: int, flash: int) -> tuple[str, ...]:
    """Names of broken budgets; energy, by the upper end of its estimate, where the board's current is known."""
    energy_mj = board.running.at_most_mj(latency_ms) if board.running else 0.0
    limits = (("latency", latency_ms, budgets.latency_ms), ("sram", sram, budgets.sram_bytes),
              ("flash", flash, budgets.flash_bytes), ("energy", energy_mj, budgets.energy_mj))  # fmt: skip
    return tuple(name for name, value, limit in limits if limit is not None and value > limit)
