"""Kernels as they are compiled for the target, in QEMU: its instruction set's sources replace portable ones there.

Small networks with shapes that leave remainders in every loop (odd channels, pixels, outputs), against TFLite Micro.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.engine import emit_c, load, slower_than_measured
from pipeline.firmware import build, render_app
from pipeline.latency.emulated import emulated_inference
from pipeline.links import open_link
from pipeline.space.budgets import Budgets
from pipeline.wire import Client

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from one_operator import Builder, options, quantization, run_tflm

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]


@dataclass(frozen=True)
class Tensor:
    """An activation: index in the file, NHWC (or [1, n]) shape, scale."""

    index: int
    shape: tuple[int, ...]
    scale: float


class Net:
    """Chains operators with random weights, scales and zero points."""

    def __init__(self, seed: int, h: int, w: int, c: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = Builder()
        self.input = self._new((1, h, w, c), 0.03)

    def _new(self, shape: tuple[int, ...], scale: float, zero: int | None = None) -> Tensor:
        scale = float(np.float32(scale))
        zero = int(self.rng.integers(-60, 60)) if zero is None else zero
        return Tensor(self.b.tensor(shape, quantization(scale, zero)), shape, scale)

    def _weights(
        self, shape: tuple[int, ...], axis: int, x: Tensor, *, single: bool = False
    ) -> tuple[int, int]:
        channels = shape[axis]
        scales = self.rng.uniform(0.004, 0.02, 1 if single else channels).astype(np.float32)
        data = self.rng.integers(-127, 128, shape)
        offsets = self.rng.integers(-4000, 4000, channels)
        weights = self.b.tensor(shape, quantization(scales, 0, axis), data)
        return weights, self.b.tensor(
            (channels,), quantization(scales * np.float32(x.scale)), offsets, np.int32
        )

    def _out_scale(self, x: Tensor, taps: int) -> float:
        return x.scale * 0.012 * 100 * float(np.sqrt(taps))  # the sum's spread over about half the range

    def conv(self, x: Tensor, out_c: int, k: int, *, stride: int = 1, same: bool = True, activation: int = 0,
             dilation: int = 1, depthwise: int = 0) -> Tensor:  # fmt: skip
        """depthwise: the multiplier, 0 for an ordinary convolution (then out_c counts)."""
        _, h, w, c = x.shape
        channels = c * depthwise or out_c
        shape = (1, k, k, channels) if depthwise else (channels, k, k, c)
        weights, bias = self._weights(shape, 3 if depthwise else 0, x)
        reach = (k - 1) * dilation + 1
        oh, ow = (-(-(n if same else n - reach + 1) // stride) for n in (h, w))
        y = self._new((1, oh, ow, channels), self._out_scale(x, k * k * (1 if depthwise else c)))
        common = {"padding": 0 if same else 1, "strideH": stride, "strideW": stride, "dilationHFactor": dilation,
                  "dilationWFactor": dilation, "fusedActivationFunction": activation}  # fmt: skip
        if depthwise:
            option = options("DepthwiseConv2DOptions", depthMultiplier=depthwise, **common)
            self.b.operator("DEPTHWISE_CONV_2D", (x.index, weights, bias), y.index, option, 3)
        else:
            option = options("Conv2DOptions", **common)
            self.b.operator("CONV_2D", (x.index, weights, bias), y.index, option, 3)
        return y

    def dense(self, x: Tensor, out: int, activation: int = 0) -> Tensor:
        weights, bias = self._weights((out, x.shape[-1]), 0, x, single=True)
        y = self._new((1, out), self._out_scale(x, x.shape[-1]))
        option = options("FullyConnectedOptions", fusedActivationFunction=activation)
        self.b.operator("FULLY_CONNECTED", (x.index, weights, bias), y.index, option, 4)
        return y

    def two(self, kind: str, a: Tensor, b: Tensor, activation: int = 0) -> Tensor:
        scale = max(a.scale, b.scale) * 1.3 if kind == "ADD" else a.scale * b.scale * 70
        y = self._new(a.shape, scale)
        option = options("AddOptions" if kind == "ADD" else "MulOptions", fusedActivationFunction=activation)
        self.b.operator(kind, (a.index, b.index), y.index, option, 2)
        return y

    def mean(self, x: Tensor, *, keep: bool) -> Tensor:
        axes = self.b.tensor((2,), None, [1, 2], np.int32)
        y = self._new((1, 1, 1, x.shape[3]) if keep else (1, x.shape[3]), x.scale / 2)
        self.b.operator("MEAN", (x.index, axes), y.index, options("ReducerOptions", keepDims=keep), 2)
        return y

    def pool(self, kind: str, x: Tensor, size: int, stride: int, *, same: bool) -> Tensor:
        # quantization of a pool's ends is the same: no new scale and zero point
        q = self.b.tensors[x.index].quantization
        oh, ow = (-(-(n if same else n - size + 1) // stride) for n in x.shape[1:3])
        shape = (1, oh, ow, x.shape[3])
        y = Tensor(self.b.tensor(shape, quantization(x.scale, int(q.zeroPoint[0]))), shape, x.scale)
        option = options("Pool2DOptions", padding=0 if same else 1, strideH=stride, strideW=stride,
                         filterHeight=size, filterWidth=size, fusedActivationFunction=0)  # fmt: skip
        self.b.operator(kind, (x.index,), y.index, option, 2)
        return y

    def pad(self, x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
        q = self.b.tensors[x.index].quantization
        _, h, w, c = x.shape
        shape = (1, h + top + bottom, w + left + right, c)
        y = Tensor(self.b.tensor(shape, quantization(x.scale, int(q.zeroPoint[0]))), shape, x.scale)
        amounts = self.b.tensor((4, 2), None, [[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        self.b.operator("PAD", (x.index, amounts), y.index, options("PadOptions"), 2)
        return y

    def logistic(self, x: Tensor) -> Tensor:
        y = self._new(x.shape, 1 / 256, -128)
        self.b.operator("LOGISTIC", (x.index,), y.index, None, 2)
        return y

    def hard_swish(self, x: Tensor) -> Tensor:
        y = self._new(x.shape, x.scale)
        self.b.operator("HARD_SWISH", (x.index,), y.index, options("HardSwishOptions"), 1)
        return y

    def softmax(self, x: Tensor) -> Tensor:
        y = self._new(x.shape, 1 / 256, -128)
        self.b.operator("SOFTMAX", (x.index,), y.index, options("SoftmaxOptions", beta=1.0), 2)
        return y

    def content(self, y: Tensor) -> bytes:
        return self.b.content([self.input.index], y.index)


def odd_convolutions() -> bytes:
    net = Net(1, 9, 7, 3)
    y = net.conv(net.input, 5, 3, stride=2)
    y = net.conv(y, 7, 1, activation=3)
    y = net.conv(y, 9, 2, same=False)
    y = net.conv(y, 1, 1)
    y = net.conv(y, 6, 1, activation=1)
    return net.content(net.conv(y, 11, 3, dilation=2))


def pointwise_of_every_remainder() -> bytes:
    """1x1 with 1 to 9 channels in and out, over 35 pixels."""
    net = Net(2, 5, 7, 1)
    y = net.input
    for out_c in (2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 16, 31):
        y = net.conv(y, out_c, 1)
    return net.content(y)


def depthwise() -> bytes:
    net = Net(3, 11, 13, 5)
    y = net.conv(net.input, 0, 3, depthwise=1, activation=3)
    y = net.conv(y, 0, 3, depthwise=1, stride=2)
    y = net.conv(y, 0, 5, depthwise=1)
    y = net.conv(y, 0, 2, depthwise=2, same=False)
    y = net.conv(y, 7, 1)
    y = net.conv(y, 0, 3, depthwise=1, dilation=2)
    return net.content(net.conv(y, 0, 7, depthwise=1))


def depthwise_by_fours() -> bytes:
    """Widths of outputs with every remainder by four, at stride 1."""
    net = Net(9, 9, 23, 8)
    y = net.conv(net.input, 0, 3, depthwise=1, activation=3)
    y = net.conv(y, 0, 3, depthwise=1, same=False)
    y = net.conv(y, 0, 5, depthwise=1)
    y = net.conv(y, 0, 7, depthwise=1)
    return net.content(net.conv(y, 0, 2, depthwise=1, same=False))


def depthwise_wide_by_fours() -> bytes:
    """The same of 5x5 and 7x7, stride 2 as well."""
    net = Net(11, 14, 18, 12)
    y = net.conv(net.input, 0, 7, depthwise=1, stride=2)
    y = net.conv(y, 0, 5, depthwise=1, activation=1)
    y = net.conv(y, 0, 5, depthwise=1, stride=2)
    return net.content(net.conv(y, 0, 7, depthwise=1))


def depthwise_strides_by_fours() -> bytes:
    """Stride 2 over images of even and odd widths, and stride 3."""
    net = Net(10, 31, 30, 4)
    y = net.conv(net.input, 0, 3, depthwise=1, stride=2)
    y = net.conv(y, 0, 3, depthwise=1, stride=2)
    y = net.conv(y, 8, 1)
    y = net.conv(y, 0, 7, depthwise=1, stride=2)
    y = net.conv(y, 0, 5, depthwise=1, stride=2)
    return net.content(net.conv(y, 0, 3, depthwise=1, stride=3))


def depthwise_narrow_images() -> bytes:
    """Edges meet: images of one to three pixels under windows of three and five."""
    net = Net(4, 3, 5, 6)
    y = net.conv(net.input, 0, 3, depthwise=1, stride=2)
    y = net.conv(y, 0, 3, depthwise=1)
    y = net.conv(y, 9, 1)
    y = net.conv(y, 0, 5, depthwise=1, stride=2)
    return net.content(net.conv(y, 0, 3, depthwise=3))


def squeeze_and_excitation() -> bytes:
    net = Net(5, 7, 5, 3)
    x = net.hard_swish(net.conv(net.input, 13, 3))
    gate = net.conv(net.mean(x, keep=True), 3, 1, activation=1)
    x = net.two("MUL", x, net.logistic(net.conv(gate, 13, 1)))
    x = net.two("ADD", x, net.conv(x, 13, 3), 1)
    x = net.two("MUL", x, x)
    return net.content(x)


def pools_and_classifier() -> bytes:
    net = Net(6, 13, 9, 7)
    y = net.pool("MAX_POOL_2D", net.input, 3, 2, same=True)
    y = net.pad(y, 1, 0, 2, 1)
    y = net.pool("AVERAGE_POOL_2D", y, 3, 1, same=True)
    y = net.pool("AVERAGE_POOL_2D", net.conv(y, 10, 1), 2, 2, same=False)
    y = net.dense(net.mean(y, keep=False), 15, 1)
    return net.content(net.dense(net.dense(y, 9), 21))


def dense_and_softmax() -> bytes:
    net = Net(7, 1, 1, 33)
    y = net.dense(net.mean(net.input, keep=False), 5)
    logits = net.dense(y, 7)
    net.b.tensors[logits.index].quantization.scale[:] = 0.04  # probabilities between the extremes
    return net.content(net.softmax(logits))


def additions() -> bytes:
    """Of different and of equal scales, with every remainder by four, also broadcast, and of a narrower range."""
    net = Net(12, 7, 5, 6)
    x = net.conv(net.input, 6, 3)
    y = net.two("ADD", x, net.conv(x, 6, 3))
    y = net.two("ADD", y, y)
    y = net.conv(y, 5, 3)
    y = net.two("ADD", net.conv(y, 5, 1), y)
    y = net.two("ADD", y, net.mean(y, keep=True))
    y = net.conv(y, 3, 3, stride=2)
    return net.content(net.two("ADD", y, net.conv(y, 3, 1), 1))


NETWORKS: list[Callable[[], bytes]] = [
    odd_convolutions, pointwise_of_every_remainder, depthwise, depthwise_by_fours,
    depthwise_wide_by_fours, depthwise_strides_by_fours, depthwise_narrow_images, squeeze_and_excitation,
    pools_and_classifier, dense_and_softmax, additions,
]  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_bytes_equal_tflite_micro(network: Callable[[], bytes], tmp_path: Path) -> None:
    board = load_board("qemu-cortex-m4")
    content = network()
    model = load(content)
    built = build(render_app(emit_c(model), board, Budgets(), tmp_path, 1.0), board)
    shape = model.input_shape
    rng = np.random.default_rng(8)
    inputs = [np.full(shape, value, np.int8) for value in (-128, 127)]
    inputs.append(rng.choice(np.array([-128, 127], np.int8), shape))
    inputs += [rng.integers(-128, 128, shape).astype(np.int8) for _ in range(7)]
    outputs = []
    with open_link(board, built.elf) as link:
        client = Client(link)
        client.hello()
        for x in inputs:
            outputs.append(np.frombuffer(client.invoke(x.tobytes()).output, np.int8))
            np.testing.assert_array_equal(outputs[-1], run_tflm(content, [x]).reshape(-1))
    # outputs that do not depend on the input would prove nothing
    assert len({output.tobytes() for output in outputs}) > 5
    assert len(np.unique(outputs)) > 10


def scaled_depthwise(kernel: int, stride: int, exponents: list[int], bias: int, activation: int) -> bytes:
    """One depthwise convolution of eight channels, scaled by about 2^exponents."""
    rng = np.random.default_rng(9)
    b = Builder()
    x = b.tensor((1, 12, 12, 8), quantization(0.02, 3))
    scales = np.ldexp(rng.uniform(0.5, 1.0, 8), exponents).astype(np.float32)
    data = rng.integers(-127, 128, (1, kernel, kernel, 8))
    weights = b.tensor(data.shape, quantization(scales, 0, 3), data)
    offsets = b.tensor((8,), quantization(scales * np.float32(0.02)), [bias, 9] * 4, np.int32)
    y = b.tensor((1, -(-12 // stride), -(-12 // stride), 8), quantization(0.02, -128 if activation else 4))
    option = options("DepthwiseConv2DOptions", depthMultiplier=1, padding=0, strideH=stride, strideW=stride,
                     dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=activation)  # fmt: skip
    b.operator("DEPTHWISE_CONV_2D", (x, weights, offsets), y, option, 3)
    return b.content([x], y)


def scaled_convolution(exponents: list[int]) -> bytes:
    """A 1x1 convolution whose channels are scaled by about 2^exponents, with sums that round to ties."""
    rng = np.random.default_rng(14)
    b = Builder()
    channels = len(exponents)
    x = b.tensor((1, 9, 9, 8), quantization(0.5, 3))
    scales = np.ldexp(np.where(np.arange(channels) % 2, 1.0, rng.uniform(0.5, 1.0, channels)), exponents)
    scales = scales.astype(np.float32)
    data = rng.integers(-3, 4, (channels, 1, 1, 8))
    weights = b.tensor(data.shape, quantization(scales, 0, 0), data)
    offsets = rng.integers(-60, 60, channels)
    bias = b.tensor((channels,), quantization(scales * np.float32(0.5)), offsets, np.int32)
    y = b.tensor((1, 9, 9, channels), quantization(0.5, -7))
    option = options("Conv2DOptions", padding=0, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    b.operator("CONV_2D", (x, weights, bias), y, option, 3)
    return b.content([x], y)


@pytest.mark.parametrize("board_name", ["qemu-cortex-m4", "qemu-cortex-m7"])
def test_convolutions_round_every_scale_as_the_reference(board_name: str, tmp_path: Path) -> None:
    """Shifts to the left and to the right by none, one and many bits, on even and odd channels."""
    board = load_board(board_name)
    content = scaled_convolution([0, 0, -1, -1, -2, -3, 1, 1, 3, 4, -6, -8, 2, -1, 0])
    built = build(render_app(emit_c(load(content)), board, Budgets(), tmp_path, 1.0), board)
    rng = np.random.default_rng(15)
    with open_link(board, built.elf) as link:
        client = Client(link)
        client.hello()
        for _ in range(5):
            x = rng.integers(-128, 128, (1, 9, 9, 8)).astype(np.int8)
            found = np.frombuffer(client.invoke(x.tobytes()).output, np.int8)
            np.testing.assert_array_equal(found, run_tflm(content, [x]).reshape(-1))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (7, 2)])
def test_no_scale_changes_the_cycles_of_a_depthwise_convolution(
    kernel: int, stride: int, tmp_path: Path
) -> None:
    board = load_board("qemu-cortex-m4")
    x = np.random.default_rng(3).integers(-128, 128, (1, 12, 12, 8)).astype(np.int8)

    def cycles(name: str, content: bytes) -> float:
        model = load(content)
        assert [slower_than_measured(layer) for layer in model.layers] == [None]
        built = build(render_app(emit_c(model), board, Budgets(), tmp_path / name, 1.0), board)
        found = emulated_inference(board, built.elf, x.tobytes())
        assert found.output == run_tflm(content, [x]).tobytes()
        return sum(layer.cycles for layer in found.layers)

    usual = cycles("usual", scaled_depthwise(kernel, stride, [-7] * 8, 100, 1))
    for name, exponents, bias in (
        ("none", [0, -7] * 4, 100),
        ("right", [-17, -21] * 4, 100),
        ("quiet", [-7, -25] * 4, 1 << 30),
        ("left", [1, -7] * 4, 100),
        ("far left", [7, 4] * 4, 100),
    ):
        assert cycles(name, scaled_depthwise(kernel, stride, exponents, bias, 1)) == usual, name


def test_a_layer_that_is_slower_than_its_table_row_is_named() -> None:
    (layer,) = load(scaled_depthwise(3, 1, [0, -7] * 4, 100, 0)).layers
    assert "4 of 8 channels" in (slower_than_measured(layer) or "")


@pytest.mark.parametrize("kind", ["CONV_2D", "ADD"])
def test_a_range_narrower_than_int8_is_named_and_slower(kind: str, tmp_path: Path) -> None:
    """Kernels of this instruction set reckon with the whole range, which a ReLU at zero point -128 leaves."""
    board = load_board("qemu-cortex-m4")
    cycles = {}
    for zero in (-128, 0):
        net = Net(13, 8, 8, 8)
        x = net.input
        y = net.two("ADD", x, x, 1) if kind == "ADD" else net.conv(x, 8, 1, activation=1)
        net.b.tensors[y.index].quantization.zeroPoint[:] = zero
        content = net.content(y)
        model = load(content)
        (layer,) = model.layers
        assert (slower_than_measured(layer) is None) == (zero == -128)
        built = build(render_app(emit_c(model), board, Budgets(), tmp_path / str(zero), 1.0), board)
        image = np.random.default_rng(3).integers(-128, 128, (1, 8, 8, 8)).astype(np.int8)
        found = emulated_inference(board, built.elf, image.tobytes())
        assert found.output == run_tflm(content, [image]).tobytes()
        cycles[zero] = sum(one.cycles for one in found.layers)
    assert cycles[0] > 1.05 * cycles[-128]
