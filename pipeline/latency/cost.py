"""CostModel: latency, SRAM and flash of any operator graph on one board, fast enough for a search loop.

All its latencies are upper quantiles: the upper end of the table's interval (`pipeline.latency.intervals`). Flash is
an upper bound too (`FlashModel.most_flash_bytes`), SRAM exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace

from pipeline.boards import Board
from pipeline.errors import LutError
from pipeline.latency.lut import Lut, Prediction
from pipeline.latency.predictor import LatencyPredictor
from pipeline.latency.sound import SoundCost
from pipeline.memory.flash import FlashModel, layers
from pipeline.memory.overlay import overlay
from pipeline.memory.planner import plan
from pipeline.runstate import fingerprint
from pipeline.space.budgets import Cost
from pipeline.space.graph import OpGraph
from pipeline.space.opspec import OpSpec
from pipeline.space.vetoes import Vetoes

# What comparing the margin of an exit's logits takes, in cycles: a call, and so many a logit. No table has it; this
# is on the high side of what the cores need for the generated loop (tests/emulated/test_exits.py).
_EXIT_CYCLES, _LOGIT_CYCLES = 40, 16


class CostModel:
    """Costs from `lut`, at the clock of `board`. Raises LutError where the table has no flash model.

    `sound`: what the front end adds, for models whose input it makes; every cost then has it in it.
    """

    def __init__(
        self, board: Board, lut: Lut, vetoes: Vetoes | None = None, sound: SoundCost | None = None
    ) -> None:
        if lut.flash is None:
            raise LutError(
                f"the table of {board.name} has no flash model",
                hint=f"measure it: edgenas profile --board {board.name}",
            )
        if lut.identity.board != board.name or lut.identity.clock_hz != board.clock_hz:
            raise LutError(
                f"a table of {lut.identity.board} at {lut.identity.clock_hz} Hz cannot cost "
                f"{board.name} at {board.clock_hz} Hz",
                hint=f"measure it: edgenas profile --board {board.name}",
            )
        self.board = board
        self.vetoes = vetoes or Vetoes()
        self.lut = lut
        self.flash: FlashModel = lut.flash
        self.interval = lut.interval
        self.sound = sound
        self._front_end = sound.prediction(lut.interval) if sound else None
        self.front_end_ms = self._ms(self._front_end.high) if self._front_end else 0.0
        self.overhead_ms = self._ms(lut.overhead.inference_cycles) + self.front_end_ms
        self.layer_overhead_ms = self._ms(lut.overhead.layer_cycles + lut.overhead.between_cycles)
        # of whole models, for a search that is guided by it; budgets are held against `evaluate` all the same
        self.predictor: LatencyPredictor | None = None
        self._op_ms: dict[tuple[OpSpec, bool], float] = {}

    @property
    def key(self) -> str:
        """Changes with whatever changes a cost but single rows (`key_over`), for caches; not with the predictor, which
        costs nothing.

        The footprint counts by itself: a stack or a port that changed leaves the identity of the measurements as it is.
        """
        return fingerprint(
            self.lut.key, asdict(self.interval), asdict(self.vetoes),
            asdict(self.sound) if self.sound else None, repr(self.board.running), self.flash.to_table(),
            asdict(self.lut.overhead), repr(self.lut.waits), self.board.core.array_alignment,
        )  # fmt: skip

    def key_over(self, ops: Iterable[OpSpec]) -> str:
        """`key`, and what the table has of `ops`: measuring more of them changes no identity. Where it lacks one, any
        row may change the estimate, so all count."""
        wanted = list(ops)
        rows = {op.key: asdict(row) for op in wanted if (row := self.lut.row(op)) is not None}
        if self.lut.missing(wanted):
            rows = {key: asdict(row) for key, row in self.lut.rows.items()}
        return fingerprint(self.key, rows)

    def sums_key(self, ops: Iterable[OpSpec]) -> str:
        """Changes with the latencies of graphs of `ops` before the interval's factors; no front end is in it."""
        rows = {op.key: asdict(row) for op in ops if (row := self.lut.row(op)) is not None}
        return fingerprint(asdict(self.lut.overhead), repr(self.lut.waits), rows)

    def without_sound(self) -> CostModel:
        """Of the models themselves, which predictors are fitted to. Without a predictor."""
        return CostModel(self.board, self.lut, self.vetoes)

    def op_latency_ms(self, op: OpSpec, *, unlike: bool = False) -> float:
        """One operator's part of the upper quantile, without its call; `unlike`: of a model as in `Lut.unlike`."""
        found = self._op_ms.get((op, unlike))
        if found is None:
            found = self._op_ms[op, unlike] = self._ms(self.lut.predict_op(op, unlike=unlike).high)
        return found

    def unlike(self, graph: OpGraph) -> bool:
        """As `Lut.unlike`."""
        return self.lut.unlike(graph)

    def latency_ms(self, graph: OpGraph) -> float:
        """One inference, upper quantile: what a latency budget is held against."""
        unlike = self.unlike(graph)
        operators = sum(self.op_latency_ms(node.op, unlike=unlike) for node in graph.nodes)
        deciding = sum(self.exit_ms(graph.tensor_bytes[tensor]) for tensor in graph.exits)
        return operators + layers(graph) * self.layer_overhead_ms + self.overhead_ms + deciding

    def exit_ms(self, logits: int) -> float:
        """What deciding at an exit with so many logits takes."""
        return self._ms(_EXIT_CYCLES + _LOGIT_CYCLES * logits)

    def exit_latencies_ms(self, graph: OpGraph) -> tuple[float, ...]:
        """Latency of an inference that ends at each output, in execution order; the last is the worst case."""
        return tuple(self.latency_ms(graph.until(tensor)) for tensor in graph.outputs)

    def sram_bytes(self, graph: OpGraph) -> int:
        """Planned arena, other static RAM and reserved stack. The front end's memory lies in the arena."""
        planned, more = plan(graph), 0
        arena = planned.arena_bytes
        if self.sound is not None:
            arena, more = overlay(planned, graph, self.sound.front_end).arena_bytes, self.sound.ram_bytes
        alignment = self.board.core.array_alignment
        count, exits = layers(graph), bool(graph.exits)
        return self.flash.sram_bytes(arena, count, exits=exits, array_alignment=alignment) + more

    def expected_flash_bytes(self, graph: OpGraph) -> int:
        """What the linked application will take, to about a percent; a budget is held against `evaluate`'s."""
        return self.flash.flash_bytes(graph) + self._front_end_flash

    @property
    def _front_end_flash(self) -> int:
        return self.sound.flash_bytes if self.sound else 0

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        """All that a budget can limit. Raises LutError for a kernel that was never measured."""
        latency_ms, power = self.latency_ms(graph), self.board.running
        return Cost(
            latency_ms=latency_ms,
            sram_bytes=self.sram_bytes(graph),
            flash_bytes=self.flash.most_flash_bytes(graph) + self._front_end_flash,
            parameters=parameters,
            vetoed=sum(1 for node in graph.nodes if self.veto(node.op)),
            energy_mj=power.at_most_mj(latency_ms) if power else None,
        )

    def veto(self, op: OpSpec) -> str:
        """Why `op` cannot be deployed; empty where it can."""
        return self.vetoes.reason(op)

    def predict(self, graph: OpGraph) -> Prediction:
        """Cycles layer by layer, with intervals; its `high_cycles` are what `latency_ms` says."""
        prediction = self.lut.predict(graph)
        return replace(prediction, front_end=self._front_end)

    def cycles_per_instruction(self, graph: OpGraph) -> float:
        """For a device whose counter counts instructions: what it multiplies them with."""
        return self.lut.cycles_per_instruction(graph)

    def _ms(self, cycles: float) -> float:
        """Upper quantile, from the upper end of the rows."""
        return self.interval.high * cycles / self.board.clock_hz * 1e3
