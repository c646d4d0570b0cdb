"""Widths of a graph's tensors: which must be equal, and the same graph with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import ConfigError
from pipeline.space.graph import Node, OpGraph

_CONTRACTING = ("conv2d", "fully_connected")  # every output channel sees every input channel


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors whose channels are kept or removed together: number c of one is number c of all.

    producers, consumers: nodes (by index) whose output channels are the group's, and contracting nodes that
    read them.
    """

    tensors: tuple[int, ...]
    channels: int
    producers: tuple[int, ...]
    consumers: tuple[int, ...]


def groups(graph: OpGraph) -> tuple[Group, ...]:
    """The groups whose width can be chosen, by their first tensor.

    Convolutions begin a group; depthwise convolutions, pooling and averages carry it on, additions and products
    join those of their operands. Input and outputs keep their widths, and what they are joined with.
    """
    leader = list(range(len(graph.tensor_bytes)))

    def find(tensor: int) -> int:
        while leader[tensor] != tensor:
            tensor = leader[tensor]
        return tensor

    for node in graph.nodes:
        if node.op.kind not in _CONTRACTING:
            if node.op.kind == "depthwise_conv2d" and node.op.out_c != node.op.in_c:
                raise ConfigError(f"{node.name}: the widths of a depth multiplier cannot be chosen")
            for tensor in (*node.inputs, node.output):
                one, other = sorted((find(tensor), find(node.output)))
                leader[other] = one
    fixed = {find(tensor) for tensor in (graph.input, *graph.outputs)}
    found = []
    for first in sorted({find(node.output) for node in graph.nodes} - fixed):
        tensors = tuple(t for t in range(len(leader)) if find(t) == first)
        producers = tuple(i for i, node in enumerate(graph.nodes) if node.output in tensors)
        consumers = tuple(
            i
            for i, node in enumerate(graph.nodes)
            if node.op.kind in _CONTRACTING and node.inputs[0] in tensors
        )
        channels = graph.nodes[producers[0]].op.out_c
        found.append(Group(tensors, channels, producers, consumers))
    return tuple(found)


def resize(graph: OpGraph, widths: Sequence[int]) -> OpGraph:
    """`graph` with `widths` channels in its groups, in their order. Raises ConfigError for widths that do not fit."""
    chosen = groups(graph)
    if len(widths) != len(chosen):
        raise ConfigError(f"{len(widths)} widths for {len(chosen)} groups of channels")
    of: dict[int, int] = {}
    for group, width in zip(chosen, widths, strict=True):
        if type(width) is not int or not 1 <= width <= group.channels:
            raise ConfigError(f"a width of {width!r}, which must be in 1..{group.channels}")
        of |= dict.fromkeys(group.tensors, width)
    sizes = list(graph.tensor_bytes)
    nodes = []
    for node in graph.nodes:
        op = node.op
        # a FULLY_CONNECTED reads a 1x1 tensor whole
        op = replace(op, in_c=of.get(node.inputs[0], op.in_c), out_c=of.get(node.output, op.out_c))
        if op.in2_c:
            op = replace(op, in2_c=of.get(node.inputs[1], op.in2_c))
        sizes[node.output] = op.out_bytes
        nodes.append(Node(op, node.inputs, node.output, node.name))
    return replace(graph, tensor_bytes=tuple(sizes), nodes=tuple(nodes))
