"""What a table can be measured of: the generated engine, or TensorFlow Lite Micro's interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipeline.boards import Board
from pipeline.errors import ConfigError
from pipeline.latency.lut import Identity, Lut, Overhead
from pipeline.memory.flash import FlashModel
from pipeline.profiler.bench import BenchSession, Session
from pipeline.profiler.footprint import beginning, measure_footprint, sample_network
from pipeline.profiler.identity import ENGINE, current_identity
from pipeline.profiler.tflm import TflmSession, tflm_identity
from pipeline.progress import Reporter
from pipeline.space.graph import OpGraph
from pipeline.tflm.library import ENGINES as TFLM_ENGINES

ENGINES = (ENGINE, *TFLM_ENGINES)


class Engine(Protocol):
    """How operators are measured, under which identity, and what an application takes besides them."""

    name: str

    def identity(self, board: Board) -> Identity: ...
    def session(self, board: Board, folder: Path, port: str | None = None) -> Session: ...
    def footprint(
        self, board: Board, graph: OpGraph, lut: Lut, folder: Path, reporter: Reporter
    ) -> tuple[FlashModel | None, Overhead]: ...


class GeneratedEngine:
    """The C that this project generates; its kernels are called one at a time by the benchmark firmware."""

    name = ENGINE

    def identity(self, board: Board) -> Identity:
        return current_identity(board)

    def session(self, board: Board, folder: Path, port: str | None = None) -> Session:
        return BenchSession(board, folder, port=port)

    def footprint(
        self, board: Board, graph: OpGraph, lut: Lut, folder: Path, reporter: Reporter
    ) -> tuple[FlashModel | None, Overhead]:
        reporter.say("  footprint: building two applications")
        return measure_footprint(board, graph, lut, folder)


class TflmEngine:
    """TensorFlow Lite Micro. Its code's size is not modelled: the interpreter brings all kernels along."""

    def __init__(self, name: str) -> None:
        self.name = name

    def identity(self, board: Board) -> Identity:
        return tflm_identity(board, self.name)

    def session(self, board: Board, folder: Path, port: str | None = None) -> Session:
        return TflmSession(board, folder, self.name, port=port)

    def footprint(
        self, board: Board, graph: OpGraph, lut: Lut, folder: Path, reporter: Reporter
    ) -> tuple[FlashModel | None, Overhead]:
        if board.emulator is None:  # where it is connected is known to the sessions only
            return None, Overhead()
        reporter.say("  overhead: interpreting two networks")
        ratio = lut.cycles_per_instruction(graph) if board.counts_instructions else 1.0
        models = sample_network(graph), sample_network(beginning(graph))
        with TflmSession(board, folder, self.name) as session:
            return None, session.overhead(models, ratio)


def engine_named(name: str) -> Engine:
    """Raises ConfigError for an engine that there is not."""
    if name == ENGINE:
        return GeneratedEngine()
    if name in TFLM_ENGINES:
        return TflmEngine(name)
    raise ConfigError(f"unknown engine '{name}'", hint=f"choose one of: {', '.join(ENGINES)}")
