"""Architecture: the immutable value that search emits, train builds, and memory and latency cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.space.blocks import BLOCK_OPS, Block, Feature, GraphBuilder, lower_block
from pipeline.space.graph import OpGraph
from pipeline.space.opspec import OpSpec

__all__ = ["BLOCK_OPS", "Architecture", "Block", "lower", "operator_parameters", "parameters"]

_FIELDS = ("input_shape", "classes", "stem_channels", "stem_stride", "blocks")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Stem 3x3 convolution, a chain of blocks, global average, linear classifier.

    `input_shape` is (height, width, channels). `exits` are the blocks, counted from 0 and in order, after which
    an inference may end early: each gets a head of its own. Raises ConfigError where the parts do not fit
    together.
    """

    input_shape: tuple[int, int, int]
    classes: int
    stem_channels: int
    stem_stride: int
    blocks: tuple[Block, ...]
    exits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3:
            raise ConfigError(f"input shape must be (height, width, channels), not {self.input_shape!r}")
        for name, value in zip(("height", "width", "channels"), self.input_shape, strict=True):
            check_positive(f"input {name}", value)
        check_positive("classes", self.classes)
        check_positive("stem_channels", self.stem_channels)
        if type(self.stem_stride) is not int or self.stem_stride not in (1, 2):
            raise ConfigError(f"stem_stride must be 1 or 2, not {self.stem_stride!r}", key="stem_stride")
        channels = self.stem_channels
        for i, block in enumerate(self.blocks):
            if block.op == "skip" and block.channels != channels:
                raise ConfigError(
                    f"block {i} is a skip with {block.channels} channels on an input with {channels}",
                    hint="a skip keeps the number of channels",
                )
            channels = block.channels
        check_exits(self.exits, len(self.blocks), self.classes)

    def to_json(self) -> dict[str, Any]:
        raw = asdict(self)
        exits = raw.pop("exits")
        raw |= {"input_shape": list(self.input_shape), "blocks": list(raw["blocks"])}
        return {**raw, "exits": list(exits)} if exits else raw

    @classmethod
    def from_json(cls, raw: Any) -> Architecture:
        """From `to_json`'s dictionary (with cells or widths: the class that has them), or that as JSON text.

        Raises ConfigError on anything else.
        """
        if isinstance(raw, str):
            try:
                raw = json.loads(raw)
            except json.JSONDecodeError as error:
                raise ConfigError(f"architecture is not JSON: {error}") from error
        if isinstance(raw, dict) and "cells" in raw:
            from pipeline.space.cells import CellArchitecture  # builds on this module

            return CellArchitecture.from_cells_json(raw)
        if isinstance(raw, dict) and "widths" in raw:
            from pipeline.space.pruned import PrunedArchitecture  # builds on this module

            return PrunedArchitecture.from_pruned_json(raw)
        check_keys("architecture", raw, _FIELDS, ("exits",))
        exits = raw.get("exits", ())
        if not all(isinstance(part, list | tuple) for part in (raw["input_shape"], raw["blocks"], exits)):
            raise ConfigError("architecture: input_shape, blocks and exits must be lists")
        blocks = []
        for i, block in enumerate(raw["blocks"]):
            check_keys(f"architecture: blocks[{i}]", block, ("op", "channels", "stride"))
            blocks.append(Block(**block))
        shape = tuple(raw["input_shape"])
        return cls(**{**raw, "input_shape": shape, "blocks": tuple(blocks), "exits": tuple(exits)})

    def lower(self) -> OpGraph:
        """See the function of this name."""
        build = GraphBuilder(self.input_shape)
        x = lower_stem(build, self.stem_channels, self.stem_stride)
        exits = []
        for i, block in enumerate(self.blocks):
            x = lower_block(build, x, block, f"block{i}/{block.op}")
            if i in self.exits:
                exits.append(lower_head(build, x, self.classes, f"exit{i}"))
        return build.graph(lower_head(build, x, self.classes), exits)

    def describe(self) -> str:
        """One line, e.g. `28x28x1 | stem 16/2 | dw3-24 | ir4-32/2 | skip | 10 classes` (`/2`: stride 2)."""

        def stride(value: int) -> str:
            return f"/{value}" if value != 1 else ""

        parts = ["x".join(map(str, self.input_shape)), f"stem {self.stem_channels}{stride(self.stem_stride)}"]
        for i, block in enumerate(self.blocks):
            width = "" if block.op == "skip" else f"-{block.channels}"
            parts.append(f"{block.op}{width}{stride(block.stride)}")
            if i in self.exits:
                parts.append("exit")
        return " | ".join([*parts, f"{self.classes} classes"])


def check_positive(name: str, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ConfigError(f"{name} must be a positive integer, not {value!r}", key=name.split()[-1])


def check_exits(exits: Any, blocks: int, classes: int) -> None:
    """Raises ConfigError unless `exits` are increasing numbers of blocks that others follow."""
    for i in exits:
        if type(i) is not int or not 0 <= i < blocks:
            raise ConfigError(
                f"exits: there is no block {i!r}",
                hint=f"blocks count from 0, there are {blocks}",
                key="exits",
            )
        if i == blocks - 1:
            raise ConfigError(
                f"exits: after block {i}, the last one, comes the classifier itself",
                hint="an early exit needs blocks behind it",
                key="exits",
            )
    if list(exits) != sorted(set(exits)):
        raise ConfigError(
            f"exits must be in increasing order, each once, not {', '.join(map(str, exits))}", key="exits"
        )
    if exits and classes < 2:
        raise ConfigError(
            "exits need at least two classes: their confidence is a margin between two", key="exits"
        )


def check_keys(where: str, raw: Any, expected: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} must be an object, not {type(raw).__name__}")
    missing = [key for key in expected if key not in raw]
    expected = (*expected, *optional)
    unknown = [str(key) for key in raw if key not in expected]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}", hint=f"expected {', '.join(expected)}")


def lower_stem(build: GraphBuilder, channels: int, stride: int) -> Feature:
    return build.window("conv2d", build.input, channels, 3, stride, "relu6", "stem")


def lower_head(build: GraphBuilder, x: Feature, classes: int, name: str = "head") -> Feature:
    return build.fully_connected(build.mean(x, f"{name}/mean"), classes, f"{name}/classifier")


def lower(architecture: Architecture) -> OpGraph:
    """The operators of `architecture` in execution order, equal to those of its exported .tflite."""
    return architecture.lower()


def operator_parameters(op: OpSpec) -> int:
    """Weights and biases of one operator, as they are stored in the .tflite."""
    if op.kind == "conv2d":
        return op.kernel_h * op.kernel_w * op.in_c * op.out_c + op.out_c
    if op.kind == "depthwise_conv2d":
        return op.kernel_h * op.kernel_w * op.out_c + op.out_c
    if op.kind == "fully_connected":
        return op.in_c * op.out_c + op.out_c
    return 0


def parameters(architecture: Architecture) -> int:
    """Weights and biases (batch normalization folded) as they end up in the .tflite."""
    return sum(operator_parameters(node.op) for node in lower(architecture).nodes)
