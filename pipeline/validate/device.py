"""Run a deployed model on its target and compare every byte."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import Board
from pipeline.engine import Model
from pipeline.errors import LinkError
from pipeline.export.reference import TflmReference
from pipeline.firmware import Build, cycles_per_tick
from pipeline.latency.emulated import EmulatedInference, emulated_inference
from pipeline.links import open_link
from pipeline.wire.client import Client


@dataclass(frozen=True, slots=True)
class Validation:
    """What a target said about itself, and how its outputs compare with TFLite Micro's.

    `ticks` are the device counter's, one inference each; `device_latency_ms` is the device's own figure.
    `layer_cycles` (modelled) and `layer_instructions` come from the emulator's block counts and are empty on a
    real board.
    """

    images: int
    mismatches: int
    worst_difference: int
    reference: str
    accuracy: float | None
    ticks_min: int
    ticks_median: float
    ticks_p95: float
    device_latency_ms: float
    arena_bytes: int
    static_ram_bytes: int
    stack_reserve_bytes: int
    stack_used_bytes: int
    flash_bytes: int
    broken: tuple[str, ...]
    layer_cycles: tuple[float, ...]
    layer_instructions: tuple[int, ...]
    emulated_cycles: float | None

    @property
    def sram_bytes(self) -> int:
        return self.static_ram_bytes + self.stack_reserve_bytes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Validation:
        lists = {key: tuple(raw[key]) for key in ("broken", "layer_cycles", "layer_instructions")}
        return cls(**{**raw, **lists})


def validate(
    model: Model,
    tflite: bytes,
    build: Build,
    board: Board,
    x: NDArray[np.int8],
    labels: NDArray[np.int64] | None = None,
    *,
    on_image: Callable[[int], None] | None = None,
) -> Validation:
    """Boot the firmware, send inputs `x` [n, ...] int8, compare each output byte with TFLite Micro's.

    labels: classes of the inputs, for the accuracy on the device. Raises LinkError for a target that does
    not answer, dies, or runs another firmware than `build`; ToolError where an emulator is missing.
    """
    expected = TflmReference(tflite).run(x)
    outputs, ticks = np.empty_like(expected), []
    with open_link(board, build.elf) as link:
        client = Client(link)
        hello = client.hello()
        if hello.build_id != build.build_id:
            raise LinkError(
                f"the device runs build {hello.build_id.hex()}, not {build.build_id.hex()}",
                hint="flash the firmware that was just built",
            )
        for i, image in enumerate(x):
            result = client.invoke(image.tobytes())
            outputs[i] = np.frombuffer(result.output, np.int8).reshape(expected.shape[1:])
            ticks.append(result.ticks)
            if on_image:
                on_image(i + 1)
        described, memory, verdict = client.describe(), client.memory(), client.check()
    inference = emulated_inference(board, build.elf, x[0].tobytes()) if board.emulator else None
    wrong = (outputs != expected).reshape(len(x), -1).any(axis=1)
    accuracy = None
    if labels is not None:
        accuracy = float((outputs.reshape(len(x), -1).argmax(axis=1) == labels).mean())
    return Validation(
        images=len(x),
        mismatches=int(wrong.sum()),
        worst_difference=int(np.abs(outputs.astype(int) - expected.astype(int)).max()),
        reference="TFLite Micro reference kernels (tflite-micro wheel)",
        accuracy=accuracy,
        ticks_min=min(ticks),
        ticks_median=float(statistics.median(ticks)),
        ticks_p95=float(np.percentile(ticks, 95)),
        device_latency_ms=verdict.latency_us / 1e3,
        arena_bytes=described.arena_bytes,
        static_ram_bytes=memory.static_bytes,
        stack_reserve_bytes=memory.stack_reserve_bytes,
        stack_used_bytes=memory.stack_used_bytes,
        flash_bytes=memory.flash_bytes,
        broken=verdict.broken,
        layer_cycles=tuple(layer.cycles for layer in inference.layers) if inference else (),
        layer_instructions=tuple(layer.instructions for layer in inference.layers) if inference else (),
        emulated_cycles=_whole(board, inference) if inference else None,
    )


def _whole(board: Board, inference: EmulatedInference) -> float:
    """Cycles of one inference: those of the layers, and what ran between them at the layers' average rate."""
    cycles = sum(layer.cycles for layer in inference.layers)
    instructions = sum(layer.instructions for layer in inference.layers)
    if board.counter.counts != "instructions" or not instructions:
        return cycles
    total = inference.ticks * cycles_per_tick(board, 1.0)  # one cycle an instruction: instructions
    return cycles + max(0.0, total - instructions) * cycles / instructions
