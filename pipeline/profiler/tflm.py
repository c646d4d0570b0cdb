"""TflmSession: operators measured in TensorFlow Lite Micro's interpreter, one model each, without a re-flash."""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.closing import Closing
from pipeline.errors import LinkError, ModelError
from pipeline.firmware.build import compiler_version
from pipeline.firmware.render import port_sources
from pipeline.latency.lut import Identity, Overhead
from pipeline.latency.modelled import check_no_waits
from pipeline.latency.timing import timing_model
from pipeline.links import INSTRUCTION_NS
from pipeline.links.blockcount import Region, RegionReader, plugin_args
from pipeline.profiler.identity import placement, timing_name
from pipeline.profiler.journal import Measurement
from pipeline.space.opspec import OpSpec
from pipeline.storage import alone_in
from pipeline.tflm.device import TflmDevice, why_refused
from pipeline.tflm.firmware import CXX_FLAGS
from pipeline.tflm.models import operator_model
from pipeline.tflm.target import Target, is_wheel
from pipeline.wire.client import RefusedError, RestartedError, WrongFirmwareError

RESTARTS = 3  # in a row
_REGION_TIMEOUT_S = 10.0
_WALL_CLOCK_RUNS = 5  # the fastest counts: other programs on the machine only ever make one slower
_SOURCE_SUFFIXES = (".c", ".cc", ".h")


class TflmSession(Closing):
    """Measures operators one by one; the target starts with the first and ends with the context.

    `folder` keeps the firmware's build; `port` is a real board's, which must run that firmware. Raises
    ToolError (TFLM_ROOT not set, no compiler, no emulator).
    """

    def __init__(self, board: Board, folder: Path, engine: str, *, port: str | None = None) -> None:
        check_no_waits(board)
        self._board, self._port = board, port
        with alone_in(folder):
            self._target = Target.build(board, engine, folder)
        self._timing = timing_model(board.core.timing) if board.counts_instructions else None
        self._scratch = tempfile.TemporaryDirectory(prefix="edgenas-")
        self._opened: ExitStack | None = None
        self._device: TflmDevice | None = None
        self._reader: RegionReader | None = None
        self._starts = 0

    @property
    def starts(self) -> int:
        """How often the target was started."""
        return self._starts

    def measure(self, op: OpSpec) -> Measurement:
        """One run of `op` alone in the interpreter, the dispatch of one operator included.

        An operator that the interpreter refuses, or that has no .tflite form, is recorded as refused; a target
        that dies is restarted. Raises LinkError after RESTARTS restarts without a result.
        """
        try:
            model = operator_model(op)
        except ModelError as error:
            return Measurement(op, refused=error.message)
        deaths = 0
        while True:
            try:
                return self._measure(op, model)
            except RefusedError as error:
                if self._reader is not None:
                    self._reader.read_all()
                return Measurement(op, refused=why_refused(error))
            except WrongFirmwareError:
                self._stop()
                raise
            except LinkError as error:
                self._stop()
                deaths += 1
                if deaths > RESTARTS:
                    if isinstance(error, RestartedError) and error.fault is not None:
                        return Measurement(op, refused=f"FAULT {error.message}")
                    what = f"{self._board.name} died {deaths} times over {op.key}: {error.message}"
                    raise LinkError(what, hint=error.hint) from error

    def _measure(self, op: OpSpec, model: bytes) -> Measurement:
        device = self._start()
        prepared = device.load(model)
        x = _input(prepared.input_bytes)
        fastest = None
        for _ in range(_WALL_CLOCK_RUNS if self._board.counter.counts == "time" else 1):
            result = device.invoke(x)
            ticks = device.layer_ticks()
            if len(ticks) != 1:
                raise LinkError(f"{op.key}: the interpreter ran {len(ticks)} operators, not one")
            fastest = min(fastest or ticks[0], ticks[0])
        cycles, instructions = self._cost(fastest or 0)
        return Measurement(op, cycles, instructions, fastest or 0, zlib.crc32(result.output))

    def _cost(self, ticks: int) -> tuple[float, int]:
        """(cycles, instructions) of the region that just ended."""
        if self._reader is None or self._timing is None:
            return ticks * self._board.clock_hz / self._board.counter.hz, 0
        region: Region = self._reader.next(_REGION_TIMEOUT_S)
        if self._reader.read_all():
            raise LinkError("more than one marked region in a model of one operator")
        return float(self._timing.region_cycles(region)), region.instructions

    def overhead(self, models: tuple[bytes, bytes], cycles_per_instruction: float) -> Overhead:
        """What an inference costs besides its operators, from a large and a small network.

        All 0 where the interpreter has no profiler (the wheel).
        """
        spans, layers, cycles_a_tick = [], [], self._cycles_per_tick(cycles_per_instruction)
        for model in models:
            device = self._start()
            prepared = device.load(model)
            result = device.invoke(_input(prepared.input_bytes))
            each = device.layer_ticks()
            if self._reader is not None:
                for _ in range(prepared.layers):
                    self._reader.next(_REGION_TIMEOUT_S)
            if not each:
                return Overhead()
            spans.append(result.ticks - sum(each))
            layers.append(prepared.layers)
        layer = max(0.0, (spans[0] - spans[1]) / (layers[0] - layers[1]))
        whole = max(0.0, spans[0] - layer * layers[0])
        ratio = cycles_a_tick / cycles_per_instruction if self._board.counts_instructions else 0.0
        return Overhead(
            *(round(value, 1) for value in (
                layer * cycles_a_tick, layer * ratio, whole * cycles_a_tick, whole * ratio,
            ))
        )  # fmt: skip

    def _cycles_per_tick(self, cycles_per_instruction: float) -> float:
        if self._board.counts_instructions:
            return cycles_per_instruction / (self._board.counter.hz * INSTRUCTION_NS * 1e-9)
        return self._board.clock_hz / self._board.counter.hz

    def _start(self) -> TflmDevice:
        if self._device is None:
            self._starts += 1
            arguments = None
            if self._timing is not None:
                regions = Path(self._scratch.name) / f"regions-{self._starts}.bin"
                arguments = plugin_args(regions)
                self._reader = RegionReader(regions)
            self._opened = ExitStack()
            target = self._target.open(port=self._port, plugin_args=arguments)
            self._device = self._opened.enter_context(target)
        return self._device

    def _stop(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = self._device = self._reader = None

    def close(self) -> None:
        self._stop()
        self._scratch.cleanup()


def tflm_identity(board: Board, engine: str) -> Identity:
    """Identity of measurements with the library at hand; `engine_revision` begins with the library's hash."""
    revision, compiler = Target.revision(board, engine)
    around = "none"
    if not is_wheel(board):
        firmware = asset_dir("firmware")
        measuring = _sources(firmware / "tflm")
        measuring |= _sources(firmware / "emulator") if board.counts_instructions else {}
        revision += f" {_revision(measuring)}"
        around = _revision(port_sources(board))
    return Identity(
        board=board.name,
        clock_hz=board.clock_hz,
        memory=placement(board, "model and data"),
        engine=engine,
        engine_revision=revision,
        firmware_revision=around,
        compiler=compiler_version(compiler) if compiler else "that of the wheel",
        flags=" ".join((*board.core.cflags, *CXX_FLAGS)) if compiler else "",
        timing=timing_name(board),
        counter=board.counter.counts,
    )


def _sources(folder: Path) -> dict[str, str]:
    """Texts of the sources in `folder`, those of its own folders left out."""
    return {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.*") if p.suffix in _SOURCE_SUFFIXES}


def _revision(texts: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()[:8]


def _input(count: int) -> bytes:
    return np.random.default_rng(count).integers(-128, 128, count).astype(np.int8).tobytes()
