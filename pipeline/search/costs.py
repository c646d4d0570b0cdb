"""What every choice of every block costs, as tables: the search's fast, differentiable view of the LUT.

Latency is exact for one architecture (a sum over operators); memory and flash are relaxations that guide
the search, and the exact planner (`CostModel.evaluate`) decides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.latency.predictor import LatencyPredictor
from pipeline.space.architecture import Architecture, lower, operator_parameters, parameters
from pipeline.space.budgets import Cost
from pipeline.space.graph import Node, OpGraph
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

Floats = NDArray[np.float64]


class CostModel(Protocol):
    """What the search needs to know about a board; `pipeline.latency.cost` has the real one."""

    layer_overhead_ms: float
    overhead_ms: float

    def op_latency_ms(self, op: OpSpec) -> float: ...

    def exit_ms(self, logits: int) -> float: ...

    def exit_latencies_ms(self, graph: OpGraph) -> tuple[float, ...]: ...

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost: ...


@dataclass(frozen=True, slots=True, eq=False)
class CostTables:
    """Arrays over [block, width of the input, operator, width of the output]; unreachable entries are 0.

    Widths index `space.widths`, outputs index `space.channels`. A skip's row repeats one value over the
    outputs. `*_fixed` is the stem (and per-inference overhead); `*_head` is indexed by the last width.
    `working_set` is the largest sum of live tensors inside a block, in bytes.
    `sram = sram_offset + working set` and `flash = flash_fit[0] + flash_fit[1] * parameters` are fitted
    to exact evaluations.
    """

    space: SearchSpace
    latency_ms: Floats
    latency_fixed: float
    latency_head: Floats
    weights: Floats
    weights_fixed: float
    weights_head: Floats
    working_set: Floats
    working_fixed: float
    sram_offset: float
    flash_fit: tuple[float, float]
    # of the whole model, where `search.latency` asks for it: guides in place of the expectation of the table
    predictor: LatencyPredictor | None = None
    # the part of `latency_fixed` that it does not know of: the audio front end's
    front_end_ms: float = 0.0

    def latency_many(self, paths: ArrayLike) -> Floats:
        """`path_latency_ms` of many: `paths` (n, blocks, 2) of indices to (n,) ms."""
        space, index = self.space, np.asarray(paths, np.int64)
        skip = space.ops.index("skip") if "skip" in space.ops else -1
        place = np.array([space.widths.index(channels) for channels in space.channels])
        state = np.full(len(index), space.widths.index(space.stem_channels))
        total = np.full(len(index), self.latency_fixed)
        for block in range(len(space.strides)):
            op, out = index[:, block, 0], index[:, block, 1]
            total += self.latency_ms[block, state, op, out]
            state = np.where(op == skip, state, place[out])
        return total + self.latency_head[state]

    def path_working_set(self, path: Sequence[tuple[int, int]]) -> float:
        """Largest working set of any block, in bytes."""
        return max(self.working_fixed, *self._entries(path, self.working_set)[0])

    def path_latency_ms(self, path: Sequence[tuple[int, int]]) -> float:
        """Exact LUT latency of one path of (operator index, output width index) per block."""
        return self._walk(path, self.latency_ms, self.latency_head) + self.latency_fixed

    def path_latency_ms_until(self, path: Sequence[tuple[int, int]], block: int) -> float:
        """Of an inference that ends at the exit after `block`, but for what deciding at the exits behind it takes."""
        return sum(self._entries(path, self.latency_ms)[0][: block + 1]) + self.latency_fixed

    def path_parameters(self, path: Sequence[tuple[int, int]]) -> float:
        return self._walk(path, self.weights, self.weights_head) + self.weights_fixed

    def _entries(self, path: Sequence[tuple[int, int]], table: Floats) -> tuple[list[float], int]:
        """The entry of each block along `path`, and the width (its index) that leaves the last one."""
        widths = self.space.widths
        state, entries = widths.index(self.space.stem_channels), []
        for block, (op, out) in enumerate(path):
            entries.append(float(table[block, state, op, out]))
            if self.space.ops[op] != "skip":
                state = widths.index(self.space.channels[out])
        return entries, state

    def _walk(self, path: Sequence[tuple[int, int]], table: Floats, head: Floats) -> float:
        entries, state = self._entries(path, table)
        return sum(entries) + float(head[state])


def live_bytes(nodes: Sequence[Node], input_bytes: int) -> list[int]:
    """Per operator the sum of the tensors alive while it runs, of operators whose input is tensor 0."""
    sizes = {0: input_bytes} | {node.output: node.op.out_bytes for node in nodes}
    last = {number: len(nodes) if number == len(nodes) else -1 for number in sizes}
    for step, node in enumerate(nodes):
        last.update({number: max(step, last[number]) for number in node.inputs})
    return [
        sum(size for n, size in sizes.items() if n <= node.output and last[n] >= step)
        for step, node in enumerate(nodes)
    ]


def working_set_bytes(nodes: Sequence[Node], input_bytes: int) -> int:
    """Largest sum of tensors alive at once in a chain of operators whose input is tensor 0."""
    return max(input_bytes, *live_bytes(nodes, input_bytes), 0)


def operator_price(cost: CostModel, examples: Sequence[OpGraph]) -> Callable[[OpSpec], float]:
    """What an operator and its call take, ms, in models like `examples`: more where all of them are unlike those that
    calibrated the table (`pipeline.latency.cost.CostModel.unlike`)."""
    unlike = getattr(cost, "unlike", None)
    options: dict[str, Any] = {"unlike": True} if unlike is not None and all(map(unlike, examples)) else {}
    return lambda op: cost.op_latency_ms(op, **options) + cost.layer_overhead_ms


def build_tables(space: SearchSpace, cost: CostModel, *, seed: int = 0, samples: int = 12) -> CostTables:
    """Look up every reachable choice once; `samples` random architectures fit the SRAM and flash lines."""
    widths = space.widths
    shape = (len(space.strides), len(widths), len(space.ops), len(space.channels))
    latency, weights, working = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    refused = np.zeros(shape, bool)
    veto = getattr(cost, "veto", lambda _: "")
    rng = np.random.default_rng([seed, 0xC057])
    drawn = [space.random(rng) for _ in range(samples)]
    price = functools.cache(operator_price(cost, [lower(a) for a in drawn]))

    def nodes_latency(nodes: Sequence[Node]) -> float:
        return sum(price(node.op) for node in nodes)

    def nodes_weights(nodes: Sequence[Node]) -> int:
        return sum(operator_parameters(node.op) for node in nodes)

    for block, (h, w, arriving) in enumerate(space.block_inputs()):
        for c_in in arriving:
            for o, op in enumerate(space.ops):
                for c, c_out in enumerate(space.channels):
                    nodes = space.block_nodes(block, h, w, c_in, op, c_out)
                    # an exit counts with its block, as if it were never taken
                    leaving = space.exit_nodes(block, h, w, c_in, op, c_out)
                    where = (block, widths.index(c_in), o, c)
                    latency[where] = nodes_latency(nodes) + nodes_latency(leaving)
                    refused[where] = any(veto(node.op) for node in (*nodes, *leaving))
                    weights[where] = nodes_weights(nodes) + nodes_weights(leaving)
                    working[where] = working_set_bytes(nodes, h * w * c_in)
    # `evaluate` refuses what is vetoed; here it counts as slow, so that the search turns away from it.
    latency[refused] += 2 * latency.max()
    head_latency, head_weights = np.zeros(len(widths)), np.zeros(len(widths))
    for c_in in space.head_inputs():
        nodes = space.head_nodes(c_in)
        head_latency[widths.index(c_in)] = nodes_latency(nodes)
        head_weights[widths.index(c_in)] = nodes_weights(nodes)
    stem = space.stem_nodes()
    stem_working = working_set_bytes(stem, int(np.prod(space.input_shape)))
    deciding = sum(cost.exit_ms(space.classes) for _ in space.exits)
    exact = [cost.evaluate(lower(a), parameters(a)) for a in drawn]
    beyond = [e.sram_bytes - _graph_working_set(a) for a, e in zip(drawn, exact, strict=True)]
    return CostTables(
        space,
        latency,
        nodes_latency(stem) + cost.overhead_ms + deciding,
        head_latency,
        weights,
        float(nodes_weights(stem)),
        head_weights,
        working,
        float(stem_working),
        float(np.median(beyond)),
        fitted_line([parameters(a) for a in drawn], [e.flash_bytes for e in exact]),
        front_end_ms=getattr(cost, "front_end_ms", 0.0),
    )


def _graph_working_set(architecture: Architecture) -> int:
    graph = lower(architecture)
    return working_set_bytes(graph.nodes, graph.tensor_bytes[0])


def fitted_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least-squares (intercept, slope); slope 1 byte a parameter where x does not vary."""
    if np.ptp(x) == 0:
        return float(np.mean(y)) - float(np.mean(x)), 1.0
    slope, intercept = np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)
    return float(intercept), float(slope)


def exact_cost(cost: CostModel, architecture: Architecture) -> Cost:
    return cost.evaluate(lower(architecture), parameters(architecture))
