"""The searchable blocks and how each becomes operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.errors import ConfigError
from pipeline.space.graph import Node, OpGraph
from pipeline.space.opspec import Activation, OpKind, OpSpec, same_padding

DEPTHWISE_KERNEL = {"dw3": 3, "dw5": 5, "dw7": 7}
EXPANSION = {"ir2": 2, "ir4": 4, "ir6": 6}
SE_REDUCTION = {"se4": 4, "se8": 8}
BLOCK_OPS: tuple[str, ...] = (*DEPTHWISE_KERNEL, *EXPANSION, *SE_REDUCTION, "skip")


@dataclass(frozen=True, slots=True)
class Block:
    """One searchable position: operator, output channels and stride (1 or 2).

    `channels` of a skip equals its input's channels (`Architecture` checks it): a skip has no weights.
    Raises ConfigError where a field has no meaning.
    """

    op: str
    channels: int
    stride: int

    def __post_init__(self) -> None:
        if self.op not in BLOCK_OPS:
            raise ConfigError(
                f"unknown block operator {self.op!r}", hint=f"one of {', '.join(BLOCK_OPS)}", key="ops"
            )
        if type(self.channels) is not int or self.channels < 1:
            raise ConfigError(
                f"block channels must be a positive integer, not {self.channels!r}", key="channels"
            )
        if type(self.stride) is not int or self.stride not in (1, 2):
            raise ConfigError(f"block stride must be 1 or 2, not {self.stride!r}", key="strides")


def se_channels(channels: int, reduction: int) -> int:
    """Width of the squeeze: channels // reduction, rounded up to a multiple of 4 (at least 4)."""
    return max(4, -(-(channels // reduction) // 4) * 4)


@dataclass(frozen=True, slots=True)
class Feature:
    """A tensor of the graph under construction: its number and HWC shape."""

    number: int
    h: int
    w: int
    c: int


@dataclass(slots=True)
class GraphBuilder:
    """Appends operators in execution order; tensor 0 is the input, each node's output is the next number."""

    shape: tuple[int, int, int]
    tensor_bytes: list[int] = field(init=False)
    nodes: list[Node] = field(init=False)

    def __post_init__(self) -> None:
        h, w, c = self.shape
        self.tensor_bytes = [h * w * c]
        self.nodes = []

    @property
    def input(self) -> Feature:
        return Feature(0, *self.shape)

    def graph(self, output: Feature, exits: Sequence[Feature] = ()) -> OpGraph:
        early = tuple(feature.number for feature in exits)
        return OpGraph(tuple(self.tensor_bytes), tuple(self.nodes), 0, output.number, early)

    def _append(self, op: OpSpec, inputs: tuple[int, ...], name: str) -> Feature:
        self.tensor_bytes.append(op.out_bytes)
        output = Feature(len(self.tensor_bytes) - 1, op.out_h, op.out_w, op.out_c)
        self.nodes.append(Node(op, inputs, output.number, name))
        return output

    def window(
        self,
        kind: OpKind,
        x: Feature,
        channels: int,
        kernel: int,
        stride: int,
        activation: Activation,
        name: str,
    ) -> Feature:
        """Square-window operator (convolution or pooling) with SAME padding."""
        out_h, top, bottom = same_padding(x.h, kernel, stride)
        out_w, left, right = same_padding(x.w, kernel, stride)
        op = OpSpec(
            kind, x.h, x.w, x.c, out_h, out_w, channels,
            kernel_h=kernel, kernel_w=kernel, stride_h=stride, stride_w=stride,
            pad_top=top, pad_left=left, pad_bottom=bottom, pad_right=right, activation=activation,
        )  # fmt: skip
        return self._append(op, (x.number,), name)

    def pointwise(self, x: Feature, channels: int, activation: Activation, name: str) -> Feature:
        return self.window("conv2d", x, channels, 1, 1, activation, name)

    def depthwise(self, x: Feature, kernel: int, stride: int, name: str) -> Feature:
        return self.window("depthwise_conv2d", x, x.c, kernel, stride, "relu6", name)

    def mean(self, x: Feature, name: str) -> Feature:
        """Average over H and W, to 1x1xC."""
        return self._append(OpSpec("mean", x.h, x.w, x.c, 1, 1, x.c), (x.number,), name)

    def fully_connected(self, x: Feature, units: int, name: str) -> Feature:
        elements = x.h * x.w * x.c
        return self._append(OpSpec("fully_connected", 1, 1, elements, 1, 1, units), (x.number,), name)

    def binary(self, kind: OpKind, a: Feature, b: Feature, name: str) -> Feature:
        """ADD or MUL of `a` with `b`; `b` is broadcast over H and W where it is 1x1."""
        op = OpSpec(kind, a.h, a.w, a.c, a.h, a.w, a.c, in2_h=b.h, in2_w=b.w, in2_c=b.c)
        return self._append(op, (a.number, b.number), name)


def lower_block(build: GraphBuilder, x: Feature, block: Block, name: str) -> Feature:
    """Append `block` on `x`; returns its output. Operators and order are those the exporter writes."""
    if block.op in DEPTHWISE_KERNEL:
        x = build.depthwise(x, DEPTHWISE_KERNEL[block.op], block.stride, f"{name}/depthwise")
        return build.pointwise(x, block.channels, "relu6", f"{name}/pointwise")
    if block.op in EXPANSION:
        y = build.pointwise(x, x.c * EXPANSION[block.op], "relu6", f"{name}/expand")
        y = build.depthwise(y, 3, block.stride, f"{name}/depthwise")
        y = build.pointwise(y, block.channels, "none", f"{name}/project")
        if block.stride == 1 and x.c == block.channels:
            y = build.binary("add", x, y, f"{name}/add")
        return y
    if block.op in SE_REDUCTION:
        x = build.depthwise(x, 3, block.stride, f"{name}/depthwise")
        x = build.pointwise(x, block.channels, "relu6", f"{name}/pointwise")
        gate = build.mean(x, f"{name}/squeeze")
        hidden = se_channels(block.channels, SE_REDUCTION[block.op])
        gate = build.pointwise(gate, hidden, "relu6", f"{name}/reduce")
        # The hard sigmoid costs nothing: the INT8 output range of scale 1/255, zero point -128 clips it.
        gate = build.pointwise(gate, block.channels, "none", f"{name}/gate")
        return build.binary("mul", x, gate, f"{name}/scale")
    if block.stride == 1:
        return x
    return build.window("max_pool", x, x.c, 2, block.stride, "none", f"{name}/pool")
