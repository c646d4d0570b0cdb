"""Run a deployed model on its target and compare every byte."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import Board
from pipeline.engine import Model
from pipeline.errors import LinkError
from pipeline.firmware import Build, cycles_per_tick
from pipeline.firmware.symbolize import fault_explainer
from pipeline.fleet import Fleet, Targets, Worker
from pipeline.latency.emulated import EmulatedInference, emulated_inference
from pipeline.links import Link, open_link
from pipeline.validate.exits import ExitRun, Expected, executed_layers, exit_runs, expect
from pipeline.wire.client import Check, Client, InvokeResult, RefusedError, WrongFirmwareError
from pipeline.wire.messages import DescribeReply, MemoryReply

_RESTARTS = 3  # in a row
_LOT = 5  # images handed to a target at a time


@dataclass(frozen=True, slots=True)
class Validation:
    """What a target said about itself, and how its outputs compare with TFLite Micro's.

    `ticks` are the device counter's, one inference each; `device_latency_ms` is the device's own figure.
    Where the device counts instructions, `layer_cycles` and `emulated_cycles` are modelled from the emulator's
    block counts; else its counter times each layer, and `emulated_cycles` is None.

    With early exits `exits` has one entry an output. Latencies and the device's verdict are then of the slowest
    inference known, layers beyond which it did not go missing from `layer_cycles`.
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
    exits: tuple[ExitRun, ...] = ()
    ticks_slowest: int = 0  # only with exits: an inference that goes as far as any known one

    @property
    def sram_bytes(self) -> int:
        return self.static_ram_bytes + self.stack_reserve_bytes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Validation:
        lists = {key: tuple(raw[key]) for key in ("broken", "layer_cycles", "layer_instructions")}
        exits = tuple(ExitRun(**row) for row in raw.get("exits", ()))
        return cls(**{**raw, **lists, "exits": exits})


class Runner:
    """Runs inferences on one target; a target that dies in the middle is started again.

    Raises LinkError: it answers not at all, dies too often, or runs another firmware than `build`.
    """

    def __init__(self, board: Board, build: Build, port: str | None) -> None:
        self._board, self._build, self._port = board, build, port
        self._link: Link | None = None
        self._client: Client | None = None

    def infer(self, images: Sequence[bytes]) -> list[InvokeResult]:
        """One result an image."""
        return [self._infer(image) for image in images]

    def _infer(self, image: bytes) -> InvokeResult:
        deaths = 0
        while True:
            try:
                return self._start().invoke(image)
            except (RefusedError, WrongFirmwareError):
                raise
            except LinkError:
                self.close()
                deaths += 1
                if deaths > _RESTARTS:
                    raise

    def figures(self) -> tuple[DescribeReply, MemoryReply, Check]:
        """What the device says about itself, after at least one inference."""
        client = self._start()
        return client.describe(), client.memory(), client.check()

    def _start(self) -> Client:
        if self._client is None:
            self._link = open_link(self._board, self._build.elf, port=self._port)
            client = Client(self._link, explain=fault_explainer(self._build.elf, self._board))
            hello = client.hello()
            if hello.build_id != self._build.build_id:
                self.close()
                raise WrongFirmwareError(
                    f"the device runs build {hello.build_id.hex()}, not {self._build.build_id.hex()}",
                    hint=f"flash the firmware that was just built: edgenas flash --board {self._board.name} "
                    f"--elf {self._build.elf}",
                )
            self._client = client
        return self._client

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = self._client = None


def validate(
    model: Model,
    tflite: bytes,
    build: Build,
    board: Board,
    x: NDArray[np.int8],
    labels: NDArray[np.int64] | None = None,
    *,
    targets: Targets | None = None,
    on_image: Callable[[int], None] | None = None,
) -> Validation:
    """Start the firmware, send inputs `x` [n, ...] int8, compare each output byte with TFLite Micro's.

    labels: classes of the inputs, for the accuracy on the device. Several `targets` share the inputs; the
    figures are the first one's. Raises LinkError for a target that does not answer, keeps dying, or runs
    another firmware than `build`; ToolError where an emulator is missing.
    """
    expected = expect(model, tflite, x)
    answers = expected.answers
    targets = targets or Targets()
    last = expected.slowest if expected.with_exits else None
    results, figures = _infer_all(build, board, x, targets, on_image, last)
    described, memory, verdict = figures
    outputs = np.stack([np.frombuffer(r.output, np.int8).reshape(answers.shape[1:]) for r in results])
    ticks = [r.ticks for r in results]
    port = targets.each[0]
    inference = emulated_inference(board, build.elf, expected.slowest, port=port, layers=expected.layers)
    wrong = (outputs != answers).reshape(len(x), -1).any(axis=1)
    accuracy = None
    if labels is not None:
        accuracy = float((expected.logits(outputs).argmax(axis=1) == labels).mean())
    return Validation(
        images=len(x),
        mismatches=int(wrong.sum()),
        worst_difference=int(np.abs(outputs.astype(int) - answers.astype(int)).max()),
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
        layer_cycles=tuple(layer.cycles for layer in inference.layers),
        layer_instructions=tuple(layer.instructions for layer in inference.layers),
        emulated_cycles=_whole(board, inference) if board.counts_instructions else None,
        exits=_exits(model, expected, build, board, x, ticks) if expected.with_exits else (),
        ticks_slowest=inference.ticks if expected.with_exits else 0,
    )


def _exits(
    model: Model, expected: Expected, build: Build, board: Board, x: NDArray[np.int8], ticks: list[int]
) -> tuple[ExitRun, ...]:
    """What the inputs took, and the cycles of an inference to each output."""
    cycles: list[float | None] = []
    for number in range(len(model.exits) + 1):
        example = expected.example(number, x)
        if example is None:
            cycles.append(None)
        elif board.counts_instructions:
            layers = executed_layers(model, number)
            cycles.append(_whole(board, emulated_inference(board, build.elf, example, layers=layers)))
        else:
            median = statistics.median(ticks[i] for i in np.flatnonzero(expected.taken == number))
            cycles.append(median * board.clock_hz / board.counter.hz)
    return exit_runs(model, expected.taken, cycles)


def _infer_all(
    build: Build, board: Board, x: NDArray[np.int8], targets: Targets, on_image: Callable[[int], None] | None,
    last: bytes | None = None,
) -> tuple[list[InvokeResult], tuple[DescribeReply, MemoryReply, Check]]:  # fmt: skip
    """The images in small lots, each to whichever target is free; `last` is the input before the figures."""
    lots = [list(range(i, min(i + _LOT, len(x)))) for i in range(0, len(x), _LOT)]
    results: list[InvokeResult | None] = [None] * len(x)

    def factory(index: int) -> Callable[[], Runner]:
        return partial(Runner, board, build, targets.each[index])

    done = 0
    with Fleet(factory, min(len(targets.each), len(lots)), board=board.name, ray=targets.ray) as fleet:
        running: dict[Future[list[InvokeResult]], tuple[Worker, list[int]]] = {}
        for worker in fleet.workers:
            _send(worker, lots, x, running)
        while running:
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                worker, lot = running.pop(future)
                for i, result in zip(lot, future.result(), strict=True):
                    results[i] = result
                done += len(lot)
                if on_image:
                    on_image(done)
                _send(worker, lots, x, running)
        if last is not None:
            fleet.workers[0].submit("infer", [last]).result()
        figures = fleet.workers[0].submit("figures").result()
    return [r for r in results if r is not None], figures


def _send(
    worker: Worker, lots: list[list[int]], x: NDArray[np.int8],
    running: dict[Future[list[InvokeResult]], tuple[Worker, list[int]]],
) -> None:  # fmt: skip
    if lots:
        lot = lots.pop(0)
        running[worker.submit("infer", [x[i].tobytes() for i in lot])] = worker, lot


def _whole(board: Board, inference: EmulatedInference) -> float:
    """Cycles of one inference: those of the layers, and what ran between them at the layers' average rate."""
    cycles = sum(layer.cycles for layer in inference.layers)
    instructions = sum(layer.instructions for layer in inference.layers)
    if not instructions:
        return cycles
    total = inference.ticks * cycles_per_tick(board, 1.0)  # one cycle an instruction: instructions
    return cycles + max(0.0, total - instructions) * cycles / instructions
