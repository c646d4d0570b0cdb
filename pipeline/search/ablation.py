"""What EdgeNAS is without one of its parts (EdgeNAS, section 4.4), and the multiply-accumulates as a proxy of time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import ConfigError
from pipeline.search.costs import CostModel
from pipeline.space.architecture import lower
from pipeline.space.budgets import Cost
from pipeline.space.graph import OpGraph
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class AblationConfig:
    """`[search.ablation]`: EdgeNAS without its latency penalty, with a fixed penalty, or guided by
    multiply-accumulates instead of the table (`guide = "macs"`). Budgets stay hard in any case: what comes out
    is checked, and repaired where need be, with the table. Raises ConfigError for another guide.
    """

    latency_penalty: bool = True
    adaptive: bool = True
    guide: str = "table"

    def __post_init__(self) -> None:
        if self.guide not in ("table", "macs"):
            raise ConfigError(f"search.ablation.guide must be 'table' or 'macs', not {self.guide!r}")


class MacProxy:
    """A cost model whose latency is a line through multiply-accumulates; memory is that of the real one.

    The line is the best case for the proxy: fitted, in relative error, to what the table says of random
    architectures of the space.
    """

    layer_overhead_ms = 0.0

    def __init__(self, cost: CostModel, space: SearchSpace, seed: int) -> None:
        rng = np.random.default_rng([seed, 0xF10B])
        graphs = [lower(space.random(rng)) for _ in range(_SAMPLES)]
        macs = np.array([graph.macs for graph in graphs], float)
        time = np.array([cost.evaluate(graph, 0).latency_ms for graph in graphs])
        weighted = np.stack([1 / time, macs / time], axis=1)
        (start, slope), *_ = np.linalg.lstsq(weighted, np.ones(len(time)), rcond=None)
        self._cost = cost
        self.overhead_ms = float(max(0.0, start))
        self._ms_per_mac = float(slope)

    def op_latency_ms(self, op: OpSpec) -> float:
        return self._ms_per_mac * op.macs

    def exit_ms(self, logits: int) -> float:
        return 0.0  # no multiply-accumulates

    def exit_latencies_ms(self, graph: OpGraph) -> tuple[float, ...]:
        return tuple(self.evaluate(graph.until(tensor), 0).latency_ms for tensor in graph.outputs)

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        exact = self._cost.evaluate(graph, parameters)
        return replace(exact, latency_ms=self.overhead_ms + self._ms_per_mac * graph.macs)
