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

    `exits` are the outputs, in execution order, at which an inference may end early (pipeline.space.exits).
    """

    tensor_bytes: tuple[int, ...]
    nodes: tuple[Node, ...]
    input: int
    output: int
    exits: tuple[int, ...] = ()

    @property
    def outputs(self) -> tuple[int, ...]:
        """All outputs in execution order, as the .tflite lists them: exits, then the final one."""
        return (*self.exits, self.output)

    def until(self, output: int) -> OpGraph:
        """What is executed where the inference ends at `output`: the nodes up to it, and in `exits` the margins
        that are looked at, its own among them."""
        if output not in self.exits:
            return self
        last = next(i for i, node in enumerate(self.nodes) if node.output == output)
        exits = self.exits[: self.exits.index(output) + 1]
        return OpGraph(self.tensor_bytes, self.nodes[: last + 1], self.input, output, exits)

    @property
    def macs(self) -> int:
        return sum(node.op.macs for node in self.nodes)
