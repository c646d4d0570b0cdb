"""Run a deployed model on its target and compare every byte."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import Board
from pipeline.engine import Model
from pipeline.errors import DataError, LinkError
from pipeline.firmware import Build, cycles_per_tick
from pipeline.firmware.symbolize import fault_explainer
from pipeline.fleet import Fleet, Targets, Worker
from pipeline.frontend import features
from pipeline.frontend.probes import probing_clips
from pipeline.latency.emulated import EmulatedInference, emulated_inference
from pipeline.links import Link, open_link
from pipeline.validate.exits import ExitRun, Expected, executed_layers, exit_runs, expect
from pipeline.validate.sound import SoundRun, sound_bytes, sound_run
from pipeline.wire.client import (
    Check,
    Client,
    FeaturesResult,
    InvokeResult,
    RefusedError,
    WrappedError,
    WrongFirmwareError,
)
from pipeline.wire.messages import DescribeReply, MemoryReply

T = TypeVar("T")

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

    With a front end `sound` has what it did and took; `ticks` are then of the inferences alone, and the device's
    own latency and verdict are of both.
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
    sound: SoundRun | None = None

    @property
    def sram_bytes(self) -> int:
        return self.static_ram_bytes + self.stack_reserve_bytes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Validation:
        lists = {key: tuple(raw[key]) for key in ("broken", "layer_cycles", "layer_instructions")}
        exits = tuple(ExitRun(**row) for row in raw.get("exits", ()))
        sound = SoundRun(**raw["sound"]) if raw.get("sound") else None
        return cls(**{**raw, **lists, "exits": exits, "sound": sound})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device made of one input; `made` where that was a clip."""

    result: InvokeResult
    made: FeaturesResult | None = None


class Runner:
    """Runs inferences on one target; a target that dies in the middle is started again.

    Raises LinkError: it answers not at all, dies too often, or runs another firmware than `build`.
    """

    def __init__(self, board: Board, build: Build, port: str | None) -> None:
        self._board, self._build, self._port = board, build, port
        self._link: Link | None = None
        self._client: Client | None = None

    def infer(self, images: Sequence[bytes]) -> list[Answer]:
        """One result an image."""
        return [Answer(self._alive(partial(Client.invoke, x=x))) for x in images]

    def infer_sound(self, clips: Sequence[bytes]) -> list[Answer]:
        """One result a clip, which goes through the device's front end."""

        def both(client: Client, clip: bytes) -> Answer:
            made = client.features(clip)
            return Answer(client.invoke_loaded(made.features), made)

        return [self._alive(partial(both, clip=clip)) for clip in clips]

    def _alive(self, work: Callable[[Client], T]) -> T:
        deaths = 0
        while True:
            try:
                return work(self._start())
            except (RefusedError, WrappedError, WrongFirmwareError):
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
    sound: NDArray[np.int16] | None = None,
    targets: Targets | None = None,
    on_image: Callable[[int], None] | None = None,
) -> Validation:
    """Start the firmware, send inputs `x` [n, ...] int8, compare each output byte with TFLite Micro's.

    sound: clips (n, samples) for a model with a front end, sent in place of `x`, which must be their features by
    NumPy. Without them such a model gets `x`, and its front end a few made-up clips.
    labels: classes of the inputs, for the accuracy on the device. Several `targets` share the inputs; the
    figures are the first one's. Raises LinkError for a target that does not answer, keeps dying, or runs
    another firmware than `build`; ToolError where an emulator is missing; DataError for clips whose features are
    not `x`.
    """
    if sound is not None and (
        model.front_end is None
        or not np.array_equal(features(model.front_end, sound), x.reshape(-1, *x.shape[1:]))
    ):
        raise DataError("the inputs are not the features of the clips", hint="give the clips alone")
    expected = expect(model, tflite, x)
    answers = expected.answers
    targets = targets or Targets()
    last = expected.slowest if expected.with_exits else None
    probes = probing_clips(model.front_end) if model.front_end is not None and sound is None else None
    answered, probed, figures = _infer_all(build, board, x, sound, targets, on_image, last, probes)
    results = [answer.result for answer in answered]
    described, memory, verdict = figures
    outputs = np.stack([np.frombuffer(r.output, np.int8).reshape(answers.shape[1:]) for r in results])
    ticks = [r.ticks for r in results]
    port = targets.each[0]
    inference = emulated_inference(board, build.elf, expected.slowest, port=port, layers=expected.layers)
    heard = None
    if model.front_end is not None:
        clips, source = (sound, "the inputs' clips") if sound is not None else (probes, "made-up clips")
        made = [a.made for a in (answered if sound is not None else probed) if a.made is not None]
        assert clips is not None
        heard = sound_run(model.front_end, board, build.elf, clips, made, source, port)
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
        exits=_exits(model, expected, build, board, x, ticks, heard) if expected.with_exits else (),
        ticks_slowest=inference.ticks if expected.with_exits else 0,
        sound=heard,
    )


def _exits(
    model: Model, expected: Expected, build: Build, board: Board, x: NDArray[np.int8], ticks: list[int],
    sound: SoundRun | None,
) -> tuple[ExitRun, ...]:  # fmt: skip
    """What the inputs took, and the cycles of an inference to each output, the front end's with them."""
    before = sound.cycles_on(board) if sound else 0.0
    cycles: list[float | None] = []
    for number in range(len(model.exits) + 1):
        example = expected.example(number, x)
        if example is None:
            cycles.append(None)
        elif board.counts_instructions:
            layers = executed_layers(model, number)
            seen = emulated_inference(board, build.elf, example, layers=layers)
            cycles.append(before + _whole(board, seen))
        else:
            median = statistics.median(ticks[i] for i in np.flatnonzero(expected.taken == number))
            cycles.append(before + median * board.clock_hz / board.counter.hz)
    return exit_runs(model, expected.taken, cycles)


def _infer_all(
    build: Build, board: Board, x: NDArray[np.int8], sound: NDArray[np.int16] | None, targets: Targets,
    on_image: Callable[[int], None] | None, last: bytes | None, probes: NDArray[np.int16] | None,
) -> tuple[list[Answer], list[Answer], tuple[DescribeReply, MemoryReply, Check]]:  # fmt: skip
    """The images or clips in small lots, each to whichever target is free; answers to `probes` come apart.

    `last` is the input before the figures.
    """
    method = "infer" if sound is None else "infer_sound"
    inputs = [one.tobytes() for one in x] if sound is None else [sound_bytes(clip) for clip in sound]
    lots = [list(range(i, min(i + _LOT, len(x)))) for i in range(0, len(x), _LOT)]
    results: list[Answer | None] = [None] * len(x)
    probed: list[Answer] = []

    def factory(index: int) -> Callable[[], Runner]:
        return partial(Runner, board, build, targets.each[index])

    done = 0
    with Fleet(factory, min(len(targets.each), len(lots)), board=board.name, ray=targets.ray) as fleet:
        running: dict[Future[list[Answer]], tuple[Worker, list[int]]] = {}
        for worker in fleet.workers:
            _send(worker, method, lots, inputs, running)
        while running:
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                worker, lot = running.pop(future)
                for i, result in zip(lot, future.result(), strict=True):
                    results[i] = result
                done += len(lot)
                if on_image:
                    on_image(done)
                _send(worker, method, lots, inputs, running)
        if probes is not None:
            probed = fleet.workers[0].submit("infer_sound", [sound_bytes(clip) for clip in probes]).result()
        if last is not None:
            fleet.workers[0].submit("infer", [last]).result()
        figures = fleet.workers[0].submit("figures").result()
    return [r for r in results if r is not None], probed, figures


def _send(
    worker: Worker, method: str, lots: list[list[int]], inputs: list[bytes],
    running: dict[Future[list[Answer]], tuple[Worker, list[int]]],
) -> None:  # fmt: skip
    if lots:
        lot = lots.pop(0)
        running[worker.submit(method, [inputs[i] for i in lot])] = worker, lot


def _whole(board: Board, inference: EmulatedInference) -> float:
    """Cycles of one inference: those of the layers, and what ran between them at the layers' average rate."""
    cycles = sum(layer.cycles for layer in inference.layers)
    instructions = sum(layer.instructions for layer in inference.layers)
    if not instructions:
        return cycles
    total = inference.ticks * cycles_per_tick(board, 1.0)  # one cycle an instruction: instructions
    return cycles + max(0.0, total - instructions) * cycles / instructions
