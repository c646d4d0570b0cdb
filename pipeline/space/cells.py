"""Cells of densely connected nodes: an operator on every edge, after DARTS-CC.

The published space ("Neural architecture search with target hardware control", 2025): three cells of equal
structure, four intermediate nodes each, one of three operators on every edge. What the paper leaves open is
decided in docs/search.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.space.architecture import (
    Architecture,
    check_keys,
    check_positive,
    lower_head,
    lower_stem,
)
from pipeline.space.blocks import Block, Feature, GraphBuilder
from pipeline.space.graph import OpGraph
from pipeline.space.opspec import OpSpec

CELL_OPS: tuple[str, ...] = ("conv", "pool", "identity")
_FIELDS = ("input_shape", "classes", "stem_channels", "stem_stride", "channels", "strides", "cells")


def edges(nodes: int) -> tuple[tuple[int, int], ...]:
    """(node, source) of a cell's edges in execution order; source 0 is the cell's input, j + 1 is node j."""
    return tuple((node, source) for node in range(nodes) for source in range(node + 1))


def node_count(edge_count: int) -> int:
    """Inverse of `len(edges(nodes))`. Raises ConfigError where no cell has so many edges."""
    nodes = next(n for n in range(1, edge_count + 2) if n * (n + 1) // 2 >= edge_count)
    if edge_count != nodes * (nodes + 1) // 2:
        raise ConfigError(f"a cell cannot have {edge_count} edges", hint="n nodes have n (n + 1) / 2")
    return nodes


@dataclass(frozen=True, slots=True)
class CellArchitecture(Architecture):
    """Stem, cells, global average, linear classifier; the chain of blocks is empty.

    Before cell i: 2x2 max pooling where `strides[i]` is 2, and a pointwise convolution where `channels[i]`
    differs from what arrives. A node is the sum of its edges, a cell's output the sum of its nodes. `cells`
    has the operators of each cell's edges in the order of `edges`. Raises ConfigError where parts do not fit.
    """

    blocks: tuple[Block, ...] = field(default=(), init=False)
    exits: tuple[int, ...] = field(default=(), init=False)
    channels: tuple[int, ...] = field(kw_only=True)
    strides: tuple[int, ...] = field(kw_only=True)
    cells: tuple[tuple[str, ...], ...] = field(kw_only=True)

    def __post_init__(self) -> None:
        Architecture.__post_init__(self)
        if not self.cells or not len(self.cells) == len(self.channels) == len(self.strides):
            raise ConfigError(
                f"{len(self.cells)} cells with {len(self.channels)} channels and {len(self.strides)} strides",
                hint="one of each per cell, at least one cell",
                key="strides" if len(self.cells) == len(self.channels) else "channels",
            )
        for channels, stride, ops in zip(self.channels, self.strides, self.cells, strict=True):
            check_positive("cell channels", channels)
            if type(stride) is not int or stride not in (1, 2):
                raise ConfigError(f"a cell's stride must be 1 or 2, not {stride!r}", key="strides")
            node_count(len(ops))
            for op in ops:
                if op not in CELL_OPS:
                    raise ConfigError(
                        f"unknown cell operator {op!r}", hint=f"one of {', '.join(CELL_OPS)}", key="ops"
                    )

    def to_json(self) -> dict[str, Any]:
        raw = {name: getattr(self, name) for name in _FIELDS}
        lists = {name: list(value) for name, value in raw.items() if isinstance(value, tuple)}
        return {**raw, **lists, "cells": [list(ops) for ops in self.cells]}

    @classmethod
    def from_cells_json(cls, raw: Any) -> CellArchitecture:
        """Inverse of `to_json`. Raises ConfigError on anything else."""
        check_keys("architecture", raw, _FIELDS)
        parts = [raw["input_shape"], raw["channels"], raw["strides"], raw["cells"]]
        if not all(isinstance(part, list | tuple) for part in parts) or not all(
            isinstance(ops, list | tuple) for ops in raw["cells"]
        ):
            raise ConfigError(
                "architecture: input_shape, channels, strides, cells and each cell must be lists"
            )
        lists = {name: tuple(raw[name]) for name in ("input_shape", "channels", "strides")}
        return cls(**{**raw, **lists, "cells": tuple(tuple(ops) for ops in raw["cells"])})

    def describe(self) -> str:
        """One line, e.g. `28x28x1 | stem 16 | cell 16 c+pi+iii | cell 32/2 c+cc+pip | 10 classes`.

        Operators by their first letter, sums of a node's edges between plus signs.
        """

        def stride(value: int) -> str:
            return f"/{value}" if value != 1 else ""

        parts = ["x".join(map(str, self.input_shape)), f"stem {self.stem_channels}{stride(self.stem_stride)}"]
        for channels, step, ops in zip(self.channels, self.strides, self.cells, strict=True):
            nodes = [""] * node_count(len(ops))
            for (node, _), op in zip(edges(len(nodes)), ops, strict=True):
                nodes[node] += op[0]
            parts.append(f"cell {channels}{stride(step)} {'+'.join(nodes)}")
        return " | ".join([*parts, f"{self.classes} classes"])

    def lower(self) -> OpGraph:
        build = GraphBuilder(self.input_shape)
        x = lower_stem(build, self.stem_channels, self.stem_stride)
        for i, ops in enumerate(self.cells):
            x = lower_transition(build, x, self.channels[i], self.strides[i], f"cell{i}")
            x = _lower_cell(build, x, ops, f"cell{i}")
        return build.graph(lower_head(build, x, self.classes), [])


def lower_transition(build: GraphBuilder, x: Feature, channels: int, stride: int, name: str) -> Feature:
    """What stands before a cell: pooling, and a pointwise convolution where the width changes."""
    if stride == 2:
        x = build.window("max_pool", x, x.c, 2, 2, "none", f"{name}/reduce")
    return x if x.c == channels else build.pointwise(x, channels, "relu6", f"{name}/widen")


def lower_edge(build: GraphBuilder, x: Feature, op: str, name: str) -> Feature:
    if op == "conv":
        return build.pointwise(
            build.depthwise(x, 3, 1, f"{name}/depthwise"), x.c, "relu6", f"{name}/pointwise"
        )
    return build.window("max_pool", x, x.c, 3, 1, "none", f"{name}/pool") if op == "pool" else x


def _lower_cell(build: GraphBuilder, x: Feature, ops: tuple[str, ...], name: str) -> Feature:
    # Summed as they come, so that no more tensors than necessary are alive.
    found, sums = [x], dict[int, Feature]()
    for (node, source), op in zip(edges(node_count(len(ops))), ops, strict=True):
        where = f"{name}/node{node}/edge{source}"
        y = lower_edge(build, found[source], op, where)
        sums[node] = build.binary("add", sums[node], y, f"{where}/add") if node in sums else y
        if source == node:
            found.append(sums[node])
    total = found[1]
    for node, y in enumerate(found[2:], 1):
        total = build.binary("add", total, y, f"{name}/sum{node}")
    return total


@dataclass(frozen=True, slots=True)
class CellSpace:
    """All CellArchitectures of one outline; `nodes` are the intermediate nodes of a cell.

    A path names one architecture: an index into `ops` per edge, cell after cell. The default suits inputs of
    28 and 32 pixels. Raises ConfigError on a field without meaning.
    """

    input_shape: tuple[int, int, int]
    classes: int
    stem_channels: int = 16
    stem_stride: int = 1
    channels: tuple[int, ...] = (16, 32, 64)
    strides: tuple[int, ...] = (2, 2, 1)
    nodes: int = 4
    ops: tuple[str, ...] = CELL_OPS

    def __post_init__(self) -> None:
        check_positive("nodes", self.nodes)
        if not self.ops or len(set(self.ops)) != len(self.ops):
            raise ConfigError(f"a cell space needs operators, each once, not {self.ops!r}", key="ops")
        for op in range(len(self.ops)):
            self.build((op,) * self.positions)

    @property
    def edges(self) -> int:
        """Edges of one cell."""
        return self.nodes * (self.nodes + 1) // 2

    @property
    def positions(self) -> int:
        """Edges of all cells: the length of a path."""
        return len(self.channels) * self.edges

    def build(self, path: tuple[int, ...]) -> CellArchitecture:
        if len(path) != self.positions:
            raise ConfigError(f"{len(path)} choices for {self.positions} edges")
        ops = [self.ops[op] for op in path]
        return CellArchitecture(
            self.input_shape, self.classes, self.stem_channels, self.stem_stride,
            channels=self.channels, strides=self.strides,
            cells=tuple(tuple(ops[i : i + self.edges]) for i in range(0, len(ops), self.edges)),
        )  # fmt: skip

    def path(self, architecture: CellArchitecture) -> tuple[int, ...]:
        """Inverse of `build`. Raises ValueError for an operator that the space lacks."""
        return tuple(self.ops.index(op) for ops in architecture.cells for op in ops)

    def random_path(self, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(int(op) for op in rng.integers(len(self.ops), size=self.positions))

    def random(self, rng: np.random.Generator) -> CellArchitecture:
        """One architecture, uniformly over the distinct ones."""
        return self.build(self.random_path(rng))

    def count(self) -> int:
        """Exact number of distinct architectures."""
        return int(len(self.ops) ** self.positions)

    def edge_operators(self) -> Iterator[tuple[tuple[OpSpec, ...], ...]]:
        """Per cell the operators of each choice of `ops`: all edges of a cell have the same shape."""
        build = GraphBuilder(self.input_shape)
        x = lower_stem(build, self.stem_channels, self.stem_stride)
        for channels, stride in zip(self.channels, self.strides, strict=True):
            x = lower_transition(build, x, channels, stride, "cell")
            found = []
            for op in self.ops:
                edge = GraphBuilder((x.h, x.w, x.c))
                lower_edge(edge, edge.input, op, "edge")
                found.append(tuple(node.op for node in edge.nodes))
            yield tuple(found)

    def operators(self) -> list[OpSpec]:
        """Every distinct operator instance that some architecture of the space contains, sorted."""
        found = {node.op for node in self.build((0,) * self.positions).lower().nodes}
        found |= {op for choices in self.edge_operators() for each in choices for op in each}
        return sorted(found)

    def to_json(self) -> dict[str, Any]:
        raw = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {"kind": "cells", **raw}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> CellSpace:
        """Inverse of `to_json`. Raises TypeError and ConfigError for what is no space of cells."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        if fields.pop("kind", None) != "cells":
            raise ConfigError(f"{raw.get('kind')!r} is no space of cells")
        return cls(**fields)
