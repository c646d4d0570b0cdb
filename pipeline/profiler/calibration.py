"""Operators that are measured besides those asked for, so that every kernel can be interpolated.

Small ones, over varied shapes: together they take about a second in an emulator.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from pipeline.space.opspec import OpKind, OpSpec, same_padding

# measured again and again, to notice a clock or a temperature that changes
ANCHOR = OpSpec("conv2d", 8, 8, 16, 8, 8, 16)


def calibration_operators() -> list[OpSpec]:
    """Varied operators of every kernel, sorted."""
    return sorted({*_convolutions(), *_depthwise(), *_pools(), *_elementwise(), *_others()})


def window(
    kind: OpKind, h: int, w: int, c: int, out_c: int, kernel: tuple[int, int], stride: int, dilation: int = 1
) -> OpSpec:
    """A convolution or pooling with SAME padding."""
    out_h, top, bottom = same_padding(h, kernel[0], stride, dilation)
    out_w, left, right = same_padding(w, kernel[1], stride, dilation)
    return OpSpec(
        kind, h, w, c, out_h, out_w, out_c, kernel_h=kernel[0], kernel_w=kernel[1], stride_h=stride,
        stride_w=stride, dilation_h=dilation, dilation_w=dilation, pad_top=top, pad_left=left,
        pad_bottom=bottom, pad_right=right,
    )  # fmt: skip


def _convolutions() -> Iterator[OpSpec]:
    for (h, w), c, out_c in product(((6, 6), (9, 7)), (1, 3, 8), (5, 8)):
        yield window("conv2d", h, w, c, out_c, (3, 3), 1)
        yield window("conv2d", h, w, c, out_c, (5, 3), 2)
    for c, out_c in ((4, 8), (16, 8), (3, 5)):
        yield window("conv2d", 8, 8, c, out_c, (1, 1), 2)
        yield window("conv2d", 9, 5, c, out_c, (3, 3), 1, dilation=2)
        yield OpSpec("conv2d", 8, 8, c, 6, 6, out_c, kernel_h=3, kernel_w=3)
    # deep and wide ones, so that the inner loops' cost is told apart from that of copying patches
    for c, out_c, stride in product((16, 32, 64), (2, 16, 48), (1, 2)):
        yield window("conv2d", 5, 4, c, out_c, (3, 3), stride)
    for out_c, stride in product((2, 32, 64), (1, 2)):
        yield window("conv2d", 12, 6, 1, out_c, (10, 4), stride)
        yield window("conv2d", 8, 7, 3, out_c, (3, 3), stride)
    for (h, w), c, out_c in product(((1, 1), (3, 3), (4, 6)), (4, 11, 32), (2, 9, 16)):
        yield window("conv2d", h, w, c, out_c, (1, 1), 1)
    for rows, c, out_c in product((1, 3), (4, 10, 33, 64), (2, 7, 16)):
        yield OpSpec("fully_connected", rows, 1, c, rows, 1, out_c)
    for c, out_c in product((8, 128, 640), (2, 10, 128)):
        yield OpSpec("fully_connected", 1, 1, c, 1, 1, out_c)


def _depthwise() -> Iterator[OpSpec]:
    for (h, w), c, kernel, stride in product(((6, 6), (9, 7), (13, 12)), (4, 9), (3, 5, 7), (1, 2)):
        yield window("depthwise_conv2d", h, w, c, c, (kernel, kernel), stride)
    for kernel_h, kernel_w in ((4, 4), (3, 5), (1, 3), (2, 6), (3, 7), (6, 5), (4, 2)):
        yield window("depthwise_conv2d", 10, 8, 6, 6, (kernel_h, kernel_w), 1)
    for (h, w), c, multiplier, stride in product(((6, 6), (9, 7)), (1, 4), (2, 8), (1, 2)):
        yield window("depthwise_conv2d", h, w, c, c * multiplier, (3, 3), stride)
    for kernel_h in (5, 10):
        yield window("depthwise_conv2d", 12, 6, 1, 8, (kernel_h, 4), 2)
    yield window("depthwise_conv2d", 9, 7, 4, 4, (3, 3), 1, dilation=2)


def _pools() -> Iterator[OpSpec]:
    kinds: tuple[OpKind, ...] = ("avg_pool", "max_pool")
    for kind, (h, w), c, kernel in product(kinds, ((6, 6), (9, 7)), (4, 9), (2, 3)):
        yield window(kind, h, w, c, c, (kernel, kernel), 2)
        yield OpSpec(kind, h, w, c, 1, 1, c, kernel_h=h, kernel_w=w, stride_h=h, stride_w=w)
    for (h, w), c in product(((3, 3), (7, 5), (1, 9)), (4, 16, 33)):
        yield OpSpec("mean", h, w, c, 1, 1, c)


def _elementwise() -> Iterator[OpSpec]:
    kinds: tuple[OpKind, ...] = ("add", "mul")
    for kind, (h, w), c in product(kinds, ((1, 1), (3, 3), (6, 5)), (4, 10, 32)):
        yield OpSpec(kind, h, w, c, h, w, c, in2_h=h, in2_w=w, in2_c=c)
        yield OpSpec(kind, h, w, c, h, w, c, in2_h=1, in2_w=1, in2_c=c)


def _others() -> Iterator[OpSpec]:
    for (h, w), c, around in product(((3, 3), (6, 5)), (1, 4, 10), (1, 2)):
        yield OpSpec(
            "pad", h, w, c, h + 2 * around, w + around, c,
            pad_top=around, pad_left=around, pad_bottom=around,
        )  # fmt: skip
    kinds: tuple[OpKind, ...] = ("logistic", "hard_swish")
    for kind, count in product(kinds, (2, 10, 33, 100, 256)):
        yield OpSpec(kind, 1, 1, count, 1, 1, count)
    for rows, count in product((1, 2, 5), (2, 10, 33)):
        yield OpSpec("softmax", rows, 1, count, rows, 1, count)
