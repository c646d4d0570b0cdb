"""The weight-sharing supernet: every architecture of the space is a slice of one set of super-kernels.

One path runs at a time, so memory and time are those of one architecture, however many choices there are.
Within a block, the three depthwise-separable kernel sizes and both squeeze-and-excitation ratios share one
7x7 depthwise super-kernel (smaller kernels are its centre) and one pointwise super-kernel (narrower layers
are its first channels); the inverted residuals share another triple. Normalization uses the batch's own
statistics (running ones would mix those of different paths), with scale and shift per operator.

No residual connection ties the features of a block's choices together: started at random, a block learns from
paths whose channels mean different things. `identity` starts all choices near the same function instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.space.blocks import DEPTHWISE_KERNEL, EXPANSION, SE_REDUCTION, se_channels
from pipeline.space.opspec import same_padding
from pipeline.space.search_space import SearchSpace
from pipeline.train.seeding import seeded

# One (operator index, output-width index) per block.
Path = Sequence[tuple[int, int]]


class Affine(nn.Module):
    """Batch normalization by batch statistics; scale and shift common to all rows (operators), sliced to the
    width, and what each row adds to them: an operator that was rarely drawn starts from what others learnt."""

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.row_scale = nn.Parameter(torch.zeros(rows, channels))
        self.row_shift = nn.Parameter(torch.zeros(rows, channels))

    def forward(self, x: Tensor, row: int) -> Tensor:
        c = x.shape[1]
        scale, shift = self.scale[:c] + self.row_scale[row, :c], self.shift[:c] + self.row_shift[row, :c]
        return F.batch_norm(x, None, None, scale, shift, training=True)


def kernel(out_channels: int, in_channels: int, size: int, *, fan_in: int | None = None) -> nn.Parameter:
    deviation = math.sqrt(2.0 / (fan_in or in_channels * size * size))
    return nn.Parameter(torch.randn(out_channels, in_channels, size, size) * deviation)


def convolve(x: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """2-D convolution with TFLite's SAME padding (asymmetric where the stride makes it so)."""
    size = weight.shape[-1]
    _, top, bottom = same_padding(x.shape[2], size, stride)
    _, left, right = same_padding(x.shape[3], size, stride)
    if top == bottom and left == right:
        return F.conv2d(x, weight, stride=stride, padding=(top, left), groups=groups)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, stride=stride, groups=groups)


def max_pool(x: Tensor) -> Tensor:
    """2x2 maximum, stride 2, SAME: an odd edge is padded with values that never win."""
    return F.max_pool2d(x, 2, 2, ceil_mode=True)


class SuperBlock(nn.Module):
    """All choices of one block."""

    def __init__(self, space: SearchSpace, stride: int) -> None:
        super().__init__()
        self.space, self.stride = space, stride
        wide_in, wide_out = max(space.widths), max(space.channels)
        separable = [op for op in space.ops if op in DEPTHWISE_KERNEL or op in SE_REDUCTION]
        inverted = [op for op in space.ops if op in EXPANSION]
        self.row = {op: i for ops in (separable, inverted) for i, op in enumerate(ops)}
        if separable:
            largest = max(DEPTHWISE_KERNEL.get(op, 3) for op in separable)
            self.depthwise = kernel(wide_in, 1, largest, fan_in=9)
            with torch.no_grad():
                # Larger kernels start as the 3x3 one: zero around its centre.
                ring = (largest - 3) // 2
                centre = self.depthwise[:, :, ring : ring + 3, ring : ring + 3].clone()
                self.depthwise.zero_()[:, :, ring : ring + 3, ring : ring + 3] = centre
            self.pointwise = kernel(wide_out, wide_in, 1)
            self.depthwise_norm = Affine(len(separable), wide_in)
            self.pointwise_norm = Affine(len(separable), wide_out)
        if any(op in SE_REDUCTION for op in separable):
            hidden = se_channels(wide_out, min(SE_REDUCTION[op] for op in separable if op in SE_REDUCTION))
            self.reduce, self.gate = kernel(hidden, wide_out, 1), kernel(wide_out, hidden, 1)
            self.reduce_bias = nn.Parameter(torch.zeros(hidden))
            # Gates start half open on the linear part of the hard sigmoid.
            self.gate_bias = nn.Parameter(torch.ones(wide_out))
        if inverted:
            wide = wide_in * max(EXPANSION[op] for op in inverted)
            self.expand, self.inner = kernel(wide, wide_in, 1), kernel(wide, 1, 3)
            self.project = kernel(wide_out, wide, 1, fan_in=wide_in)
            self.expand_norm = Affine(len(inverted), wide)
            self.inner_norm = Affine(len(inverted), wide)
            self.project_norm = Affine(len(inverted), wide_out)

    @torch.no_grad()
    def add_identity(self, gain: float) -> None:
        """Let every choice pass its input on: `gain` more from each channel to the one of the same number."""
        for name in ("depthwise", "inner"):
            if hasattr(self, name):
                weight = getattr(self, name)
                centre = weight.shape[-1] // 2
                weight[:, :, centre, centre] += gain
        for name in ("pointwise", "expand", "project"):
            if hasattr(self, name):
                getattr(self, name)[:, :, 0, 0].diagonal().add_(gain)

    def forward(self, x: Tensor, op: str, channels: int) -> Tensor:
        """`x` (n, c, h, w) through `op` with `channels` outputs."""
        if op == "skip":
            return x if self.stride == 1 else max_pool(x)
        row, c = self.row[op], x.shape[1]
        if op in EXPANSION:
            wide = c * EXPANSION[op]
            y = F.relu6(self.expand_norm(F.conv2d(x, self.expand[:wide, :c]), row))
            y = F.relu6(self.inner_norm(convolve(y, self.inner[:wide], self.stride, wide), row))
            y = self.project_norm(F.conv2d(y, self.project[:channels, :wide]), row)
            return x + y if self.stride == 1 and c == channels else y
        size = DEPTHWISE_KERNEL.get(op, 3)
        cut = (self.depthwise.shape[-1] - size) // 2
        weight = self.depthwise[:c, :, cut : cut + size, cut : cut + size]
        y = F.relu6(self.depthwise_norm(convolve(x, weight, self.stride, c), row))
        y = F.relu6(self.pointwise_norm(F.conv2d(y, self.pointwise[:channels, :c]), row))
        if op not in SE_REDUCTION:
            return y
        hidden = se_channels(channels, SE_REDUCTION[op])
        gate = y.mean((2, 3), keepdim=True)
        gate = F.relu6(F.conv2d(gate, self.reduce[:hidden, :channels], self.reduce_bias[:hidden]))
        gate = F.conv2d(gate, self.gate[:channels, :hidden], self.gate_bias[:channels])
        return y * F.hardsigmoid(gate)


class Supernet(nn.Module):
    """Stem, super-blocks and classifier; images are (n, c, h, w) float in 0..1.

    `gates`, where given, holds straight-through gates (value 1 for what was sampled): one per operator
    (blocks, ops) and one per width (blocks, channels), through which gradients reach the sampler.
    `identity` is for weights that many paths share (see SuperBlock.add_identity); it does not help one trained alone.
    """

    def __init__(self, space: SearchSpace, seed: int, identity: float = 0.0) -> None:
        super().__init__()
        with seeded(seed):
            self.space = space
            self.stem = kernel(space.stem_channels, space.input_shape[2], 3)
            self.stem_norm = Affine(1, space.stem_channels)
            self.blocks = nn.ModuleList(SuperBlock(space, stride) for stride in space.strides)
            for block in self.blocks:
                block.add_identity(identity)
            widest = max(space.widths)
            self.classifier = nn.Parameter(torch.randn(space.classes, widest) / math.sqrt(widest))
            self.classifier_bias = nn.Parameter(torch.zeros(space.classes))
        # (channel, width): whether a block of that width has the channel
        included = torch.arange(widest)[:, None] < torch.tensor(space.channels)[None, :]
        self.included: Tensor
        self.register_buffer("included", included, persistent=False)

    def forward(self, x: Tensor, path: Path, gates: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Logits (n, classes) of the architecture that `path` names."""
        return self.classify(self.pooled(x, path, gates)[-1])

    def pooled(
        self, x: Tensor, path: Path, gates: tuple[Tensor, Tensor] | None = None, exits: Sequence[int] = ()
    ) -> list[Tensor]:
        """Means over the image (n, channels): after each block of `exits`, in order, then after the last one."""
        space, found = self.space, []
        x = F.relu6(self.stem_norm(convolve(x, self.stem, space.stem_stride), 0))
        for i, (op, out) in enumerate(path):
            x = self.blocks[i](x, space.ops[op], space.channels[out])
            if gates is not None:
                x = x * self._gate(gates, i, op, out, x)
            if i in exits:
                found.append(x.mean((2, 3)))
        return [*found, x.mean((2, 3))]

    def classify(self, pooled: Tensor) -> Tensor:
        """Final logits (n, classes) of (n, channels)."""
        return F.linear(pooled, self.classifier[:, : pooled.shape[1]], self.classifier_bias)

    def _gate(self, gates: tuple[Tensor, Tensor], block: int, op: int, out: int, x: Tensor) -> Tensor:
        """Factor of value 1: the operator's gate times, per channel, the gates of the widths with it."""
        operator = gates[0][block, op]
        if self.space.ops[op] == "skip":
            return operator.reshape(1, 1, 1, 1)
        included = self.included[: x.shape[1]].to(x.dtype)
        return (operator * (included @ gates[1][block])).reshape(1, -1, 1, 1)

    def first_nonfinite(self, x: Tensor, path: Path) -> str:
        """Where the first value that is not a number appears on the way of `x`; empty where there is none."""
        space = self.space
        with torch.no_grad():
            if not torch.isfinite(x).all():
                return "the images"
            x = F.relu6(self.stem_norm(convolve(x, self.stem, space.stem_stride), 0))
            if not torch.isfinite(x).all():
                return "the stem"
            for i, (op, out) in enumerate(path):
                x = self.blocks[i](x, space.ops[op], space.channels[out])
                if not torch.isfinite(x).all():
                    return f"block {i + 1} ({space.ops[op]}, {space.channels[out]} channels)"
            x = self.classify(x.mean((2, 3)))
        return "" if torch.isfinite(x).all() else "the classifier"
