"""OpGraph: what the planner, the latency model and the engine all look at."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.space.opspec import OpSpec


@dataclass(frozen=True, slots=True)
class Node:
    """One operator in execution order; tensor numbers refer to `OpGraph.tensor_bytes`."""

    op: OpSpec
    inputs: tuple[int, ...]
    output: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class OpGraph:
    """Activations (INT8, so elements = bytes) and the operators between them, in execution order.

    The same architecture lowered by `pipeline.space` and read back from its exported .tflite by
    `pipeline.engine` gives equal graphs (names apart): that is what makes predictions exact.
    """

    tensor_bytes: tuple[int, ...]
    nodes: tuple[Node, ...]
    input: int
    output: int

    @property
    def macs(self) -> int:
        return sum(node.op.macs for node in self.nodes)
