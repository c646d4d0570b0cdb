"""Leaving out exits of a quantized network, and comparing what is left with the network it was trained as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.export.parity import Int8Network
from pipeline.export.quantized import QuantizedNetwork
from pipeline.export.reference import Int8Array
from pipeline.space.exits import ExitRule
from pipeline.space.graph import Node, OpGraph


def keep_exits(network: QuantizedNetwork, kept: Sequence[int], rule: ExitRule | None) -> QuantizedNetwork:
    """`network` with only the exits at positions `kept` of `network.graph.exits`, and when to leave at them.

    The operators that only a dropped exit needs go with it; all others keep their integers, so that the outputs
    that are left do not change.
    """
    old = network.graph
    exits = tuple(old.exits[i] for i in kept)
    graph, tensors, nodes = prune(old, (*exits, old.output))
    numbers = {tensor: i for i, tensor in enumerate(tensors)}
    return QuantizedNetwork(
        graph=OpGraph(
            graph.tensor_bytes, graph.nodes, graph.input, graph.output, tuple(numbers[t] for t in exits)
        ),
        grids=tuple(network.grids[tensor] for tensor in tensors),
        weights={i: network.weights[node] for i, node in enumerate(nodes) if node in network.weights},
        constants={numbers[t]: value for t, value in network.constants.items() if t in numbers},
        exit_rule=rule,
        front_end=network.front_end,
    )


def prune(graph: OpGraph, outputs: Sequence[int]) -> tuple[OpGraph, list[int], list[int]]:
    """The part of `graph` that `outputs` need, the last being the final one; its tensors and nodes by their
    old numbers."""
    needed = {graph.input, *outputs}
    nodes: list[int] = []
    for i, node in reversed(list(enumerate(graph.nodes))):
        if node.output in needed:
            nodes.insert(0, i)
            needed.update(node.inputs)
    tensors = sorted(needed)
    numbers = {tensor: i for i, tensor in enumerate(tensors)}
    kept = tuple(
        Node(node.op, tuple(numbers[t] for t in node.inputs), numbers[node.output], node.name)
        for node in (graph.nodes[i] for i in nodes)
    )
    sizes = tuple(graph.tensor_bytes[tensor] for tensor in tensors)
    return OpGraph(sizes, kept, numbers[graph.input], numbers[outputs[-1]]), tensors, nodes


@dataclass(frozen=True, slots=True)
class KeptExits:
    """A network seen with only some of its exits, for comparison with the exported file."""

    network: Int8Network
    kept: tuple[int, ...]

    def int8_each(self, x: Int8Array) -> list[Int8Array]:
        outputs = self.network.int8_each(x)
        return [*(outputs[i] for i in self.kept), outputs[-1]]
