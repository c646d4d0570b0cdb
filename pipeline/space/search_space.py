"""SearchSpace: which architectures a search may choose from, and how many there are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.space.architecture import Architecture, check_exits, lower_head, lower_stem
from pipeline.space.blocks import BLOCK_OPS, Block, Feature, GraphBuilder, lower_block
from pipeline.space.graph import Node
from pipeline.space.opspec import OpSpec, same_padding

CHANNELS = (16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """A chain of searchable blocks; each chooses an operator of `ops` and a width of `channels`.

    `input_shape` is (height, width, channels); `strides` has one entry (1 or 2) per block; the defaults suit
    28x28 and 32x32 inputs (`for_input` chooses strides for others): most blocks work at 7x7 or 8x8, where a
    weight costs 49 or 64 multiply-accumulates. A skip has no width of its own, so a block has
    len(ops without skip) * len(channels) + 1 options. `exits` are the blocks after which an early exit may be
    placed: what is searched carries them all (the worst case), and which of them stay is decided after training
    (pipeline.search.exits). Raises ConfigError on a field without meaning.
    """

    input_shape: tuple[int, int, int]
    classes: int
    stem_channels: int = 16
    stem_stride: int = 1
    strides: tuple[int, ...] = (2, 1, 2, 1, 1, 1, 1)
    ops: tuple[str, ...] = BLOCK_OPS
    channels: tuple[int, ...] = CHANNELS
    exits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        Architecture(self.input_shape, self.classes, self.stem_channels, self.stem_stride, ())
        if not self.strides:
            raise ConfigError(
                "the search space has no blocks", hint="give one stride (1 or 2) per block", key="strides"
            )
        for name, values in (("ops", self.ops), ("channels", self.channels)):
            if not values:
                raise ConfigError(f"the search space has no {name}", key=name)
            if len(set(values)) != len(values):
                raise ConfigError(
                    f"the search space lists some {name} twice: {', '.join(map(str, values))}", key=name
                )
        for stride in self.strides:
            for op in self.ops:
                for channels in self.channels:
                    Block(op, channels, stride)
        if list(self.channels) != sorted(self.channels):
            raise ConfigError("the search space's channels must be in increasing order", key="channels")
        check_exits(self.exits, len(self.strides), self.classes)

    @classmethod
    def for_input(
        cls, input_shape: tuple[int, int, int], classes: int, *, blocks: int = 7, **fields: Any
    ) -> SearchSpace:
        """A space that halves the image in every other block, until it is 5 to 10 pixels high.

        Inputs of about 40 pixels and more are halved by the stem already.
        """
        if blocks < 1:
            raise ConfigError(f"a search space needs at least one block, not {blocks}", key="blocks")
        halvings = max(0, round(math.log2(max(1, min(input_shape[:2])) / 7)))
        stem_stride = fields.pop("stem_stride", 2 if halvings > 2 else 1)
        halvings -= stem_stride == 2
        strides = tuple(2 if i % 2 == 0 and i // 2 < halvings else 1 for i in range(blocks))
        return cls(input_shape, classes, stem_stride=stem_stride, strides=strides, **fields)

    @property
    def widths(self) -> tuple[int, ...]:
        """Every channel count a block's input can have: the choices and the stem's."""
        return tuple(sorted({self.stem_channels, *self.channels}))

    @property
    def options(self) -> tuple[tuple[str, int], ...]:
        """The distinct choices of one block: (operator, channels); channels is 0 for skip."""
        wide = [(op, c) for op in self.ops if op != "skip" for c in self.channels]
        return (*wide, ("skip", 0)) if "skip" in self.ops else tuple(wide)

    def build(self, choices: Sequence[tuple[str, int]]) -> Architecture:
        """The architecture of one (operator, channels) per block; a skip's channels are ignored."""
        if len(choices) != len(self.strides):
            raise ConfigError(f"{len(choices)} choices for {len(self.strides)} blocks")
        blocks, width = [], self.stem_channels
        for (op, channels), stride in zip(choices, self.strides, strict=True):
            width = width if op == "skip" else channels
            blocks.append(Block(op, width, stride))
        return Architecture(
            self.input_shape, self.classes, self.stem_channels, self.stem_stride, tuple(blocks), self.exits
        )

    def named(self, blocks: Sequence[str]) -> Architecture:
        """The architecture of one name per block, as `describe` writes them without strides: `dw3-32` or `skip`.

        Raises ConfigError, naming the first, for what the space does not have.
        """
        if len(blocks) != len(self.strides):
            raise ConfigError(
                f"{len(blocks)} blocks are given, the space has {len(self.strides)}",
                hint='one entry a block, such as "ir4-32" or "skip"; their strides are those of [space]',
            )
        known = {f"{op}-{channels}" if channels else op: (op, channels) for op, channels in self.options}
        for i, name in enumerate(blocks):
            if name not in known:
                raise ConfigError(
                    f"block {i} is {name!r}, which the space does not have",
                    hint=f"operators {', '.join(self.ops)}; widths {', '.join(map(str, self.channels))}",
                )
        return self.build([known[name] for name in blocks])

    def random(self, rng: np.random.Generator) -> Architecture:
        """One architecture, uniformly over the distinct ones."""
        options = self.options
        return self.build([options[i] for i in rng.integers(len(options), size=len(self.strides))])

    def count(self) -> int:
        """Exact number of distinct architectures."""
        return len(self.options) ** len(self.strides)

    def contains(self, architecture: Architecture) -> bool:
        """Whether `architecture` is one of this space's."""
        if tuple(b.stride for b in architecture.blocks) != self.strides:
            return False
        choices = [(b.op, 0 if b.op == "skip" else b.channels) for b in architecture.blocks]
        if not (set(choices) <= set(self.options) and set(architecture.exits) <= set(self.exits)):
            return False
        return self.build(choices) == replace(architecture, exits=self.exits)

    def block_inputs(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Per block: height and width of its input, and the channel counts that can arrive there."""
        h, w = (same_padding(size, 3, self.stem_stride)[0] for size in self.input_shape[:2])
        arriving = {self.stem_channels}
        for stride in self.strides:
            yield h, w, tuple(sorted(arriving))
            h, w = -(-h // stride), -(-w // stride)
            wide = set(self.channels) if set(self.ops) != {"skip"} else set()
            arriving = wide | (arriving if "skip" in self.ops else set())

    def stem_nodes(self) -> tuple[Node, ...]:
        build = GraphBuilder(self.input_shape)
        lower_stem(build, self.stem_channels, self.stem_stride)
        return tuple(build.nodes)

    def block_nodes(
        self, index: int, height: int, width: int, channels: int, op: str, out: int
    ) -> tuple[Node, ...]:
        """Operators of one choice in block `index`; tensor 0 is the block's input."""
        build = GraphBuilder((height, width, channels))
        block = Block(op, channels if op == "skip" else out, self.strides[index])
        lower_block(build, build.input, block, f"block{index}/{op}")
        return tuple(build.nodes)

    def exit_nodes(
        self, index: int, height: int, width: int, channels: int, op: str, out: int
    ) -> tuple[Node, ...]:
        """Operators of the early exit after block `index`, of the same choice as `block_nodes`; none where no
        exit is allowed."""
        if index not in self.exits:
            return ()
        stride = self.strides[index]
        wide = channels if op == "skip" else out
        build = GraphBuilder((-(-height // stride), -(-width // stride), wide))
        lower_head(build, build.input, self.classes, f"exit{index}")
        return tuple(build.nodes)

    def head_nodes(self, channels: int) -> tuple[Node, ...]:
        h, w, _ = list(self.block_inputs())[-1]
        h, w = -(-h // self.strides[-1]), -(-w // self.strides[-1])
        build = GraphBuilder((h, w, channels))
        lower_head(build, Feature(0, h, w, channels), self.classes)
        return tuple(build.nodes)

    def head_inputs(self) -> tuple[int, ...]:
        """Channel counts that can arrive at the head."""
        arriving = set(list(self.block_inputs())[-1][2]) if "skip" in self.ops else set()
        return tuple(sorted(arriving | (set(self.channels) if set(self.ops) != {"skip"} else set())))

    def operators(self) -> list[OpSpec]:
        """Every distinct operator instance that some architecture of the space contains, sorted."""
        found = {node.op for node in self.stem_nodes()}
        for i, (h, w, arriving) in enumerate(self.block_inputs()):
            for c_in in arriving:
                for op, c_out in self.options:
                    found.update(node.op for node in self.block_nodes(i, h, w, c_in, op, c_out))
                    found.update(node.op for node in self.exit_nodes(i, h, w, c_in, op, c_out))
        for c_in in self.head_inputs():
            found.update(node.op for node in self.head_nodes(c_in))
        return sorted(found)

    def to_json(self) -> dict[str, Any]:
        raw = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return raw if self.exits else {key: v for key, v in raw.items() if key != "exits"}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> SearchSpace:
        """Inverse of `to_json`. Raises TypeError and ConfigError for what is no search space."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return cls(**fields)
