"""Every kernel against TFLite Micro and LiteRT's reference kernels, over random shapes and scales.

The engine side is the native build with AddressSanitizer and UBSan: one program that reads a kernel number, a
parameter struct and the tensors, so that hundreds of cases need no compiler.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_runner import KernelRunner
from one_operator import Builder, options, quantization, run_litert, run_tflm

from pipeline.engine import load

CASES = settings(
    max_examples=int(os.environ.get("EDGENAS_KERNEL_CASES", "60")),
    deadline=None,
    derandomize=True,  # the same cases on every machine; raise EDGENAS_KERNEL_CASES to look further
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ACTIVATIONS = st.sampled_from([0, 1, 3])  # none, relu, relu6
ZERO = st.integers(-128, 127)
SCALE = st.floats(0.002, 0.2).map(lambda v: float(np.float32(v)))
SEED = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> KernelRunner:
    return KernelRunner(tmp_path_factory.mktemp("kernels"))


def check(
    runner: KernelRunner, content: bytes, seed: int, *, litert: bool = True, extremes: bool = True
) -> None:
    """Engine and references on two random inputs, and on the extreme ones."""
    model = load(content)
    rng = np.random.default_rng(seed)
    inputs = [rng.integers(-128, 128, model.input_shape).astype(np.int8) for _ in range(2)]
    if extremes:
        inputs += [np.full(model.input_shape, v, np.int8) for v in (-128, 127)]
    for x in inputs:
        ours = runner.run(model, x)
        np.testing.assert_array_equal(ours, run_tflm(content, [x]).reshape(-1))
        if litert:
            np.testing.assert_array_equal(ours, run_litert(content, [x]).reshape(-1))


@st.composite
def windows(draw: st.DrawFn, max_kernel: int = 5, max_channels: int = 9, dilations: bool = True) -> dict:
    kernel_h, kernel_w = draw(st.integers(1, max_kernel)), draw(st.integers(1, max_kernel))
    dilation = draw(st.sampled_from([1, 1, 1, 2])) if dilations else 1
    stride = draw(st.integers(1, 3))
    if dilation > 1:
        stride = 1
    least_h, least_w = (kernel_h - 1) * dilation + 1, (kernel_w - 1) * dilation + 1
    same = draw(st.booleans())
    return {
        "h": draw(st.integers(1 if same else least_h, least_h + 8)),
        "w": draw(st.integers(1 if same else least_w, least_w + 8)),
        "c": draw(st.integers(1, max_channels)),
        "kernel": (kernel_h, kernel_w),
        "stride": stride,
        "dilation": dilation,
        "same": same,
    }


def output_size(size: int, kernel: int, window: dict) -> int:
    """Independent of the package: TensorFlow's formulas for SAME and VALID."""
    reach = (kernel - 1) * window["dilation"] + 1
    return -(-size // window["stride"]) if window["same"] else -(-(size - reach + 1) // window["stride"])


def convolution(
    window: dict,
    channels: int,
    depthwise: bool,
    activation: int,
    q: dict,
    seed: int,
    exponents: Sequence[int] = (0,),
    bias_bits: Sequence[int] = (14,),
) -> bytes:
    """`exponents`: powers of two on the channels' scales; `bias_bits`: magnitudes of their biases; both repeated."""
    rng = np.random.default_rng(seed)
    kh, kw = window["kernel"]
    c = window["c"]
    out_c = c * channels if depthwise else channels
    shape = (1, kh, kw, out_c) if depthwise else (out_c, kh, kw, c)
    taps = kh * kw * (1 if depthwise else c)
    scales = np.ldexp(rng.uniform(0.001, 0.02, out_c), np.resize(exponents, out_c)).astype(np.float32)
    most = 1.2 * np.ldexp(1.0, np.resize(bias_bits, out_c))
    builder = Builder()
    x = builder.tensor((1, window["h"], window["w"], c), quantization(q["in"], q["in_zero"]))
    weights = builder.tensor(
        shape, quantization(scales, 0, 3 if depthwise else 0), rng.integers(-127, 128, shape), np.int8
    )
    bias = builder.tensor(
        (out_c,),
        quantization(scales * np.float32(q["in"])),
        rng.uniform(-most, most).astype(np.int64),
        np.int32,
    )
    # an output scale that uses the range: about sqrt(taps) products of medium size
    out_scale = float(np.float32(q["in"] * 0.01 * 64 * np.sqrt(taps) * q["stretch"]))
    oh, ow = output_size(window["h"], kh, window), output_size(window["w"], kw, window)
    y = builder.tensor((1, oh, ow, out_c), quantization(out_scale, q["out_zero"]))
    common = {
        "padding": 0 if window["same"] else 1,
        "strideH": window["stride"],
        "strideW": window["stride"],
        "dilationHFactor": window["dilation"],
        "dilationWFactor": window["dilation"],
        "fusedActivationFunction": activation,
    }
    if depthwise:
        builder.operator(
            "DEPTHWISE_CONV_2D", (x, weights, bias), y,
            options("DepthwiseConv2DOptions", depthMultiplier=channels, **common), 3,
        )  # fmt: skip
    else:
        builder.operator("CONV_2D", (x, weights, bias), y, options("Conv2DOptions", **common), 3)
    return builder.content([x], y)


QUANTS = st.fixed_dictionaries(
    {"in": SCALE, "in_zero": ZERO, "out_zero": ZERO, "stretch": st.floats(0.05, 8.0)}
)


@CASES
@given(windows(), st.integers(1, 7), ACTIVATIONS, QUANTS, SEED)
def test_conv(runner: KernelRunner, window: dict, channels: int, activation: int, q: dict, seed: int) -> None:
    check(runner, convolution(window, channels, False, activation, q, seed), seed)


@CASES
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 20), ACTIVATIONS, QUANTS, SEED
)
def test_pointwise_conv(
    runner: KernelRunner, h: int, w: int, c: int, channels: int, activation: int, q: dict, seed: int
) -> None:
    window = {"h": h, "w": w, "c": c, "kernel": (1, 1), "stride": 1, "dilation": 1, "same": True}
    content = convolution(window, channels, False, activation, q, seed)
    assert load(content).layers[0].kernel == "edgenas_conv_1x1"
    check(runner, content, seed)


@CASES
@given(windows(max_channels=6), st.integers(1, 3), ACTIVATIONS, QUANTS, SEED)
def test_depthwise(
    runner: KernelRunner, window: dict, multiplier: int, activation: int, q: dict, seed: int
) -> None:
    check(runner, convolution(window, multiplier, True, activation, q, seed), seed)


@CASES
@given(
    st.sampled_from([3, 5, 7]), st.integers(1, 14), st.integers(1, 14), st.integers(1, 12), st.integers(1, 2),
    ACTIVATIONS, QUANTS, SEED,
)  # fmt: skip
def test_depthwise_square(
    runner: KernelRunner,
    kernel: int,
    h: int,
    w: int,
    c: int,
    stride: int,
    activation: int,
    q: dict,
    seed: int,
) -> None:
    window = {
        "h": h,
        "w": w,
        "c": c,
        "kernel": (kernel, kernel),
        "stride": stride,
        "dilation": 1,
        "same": True,
    }
    content = convolution(window, 1, True, activation, q, seed)
    expected = "edgenas_depthwise_3x3" if kernel == 3 else "edgenas_depthwise_plain"
    assert load(content).layers[0].kernel == expected
    check(runner, content, seed)


@CASES
@given(
    st.sampled_from([3, 5, 7]), st.integers(1, 2), st.lists(st.sampled_from([*range(-27, 13)]), min_size=1, max_size=8),
    st.lists(st.integers(10, 30), min_size=1, max_size=8), ACTIVATIONS, QUANTS, SEED,
)  # fmt: skip
def test_depthwise_of_any_scale(
    runner: KernelRunner, kernel: int, stride: int, exponents: list[int], bits: list[int], activation: int, q: dict,
    seed: int,
) -> None:  # fmt: skip
    window = {
        "h": 6,
        "w": 7,
        "c": 8,
        "kernel": (kernel, kernel),
        "stride": stride,
        "dilation": 1,
        "same": True,
    }
    # what the engine refuses: an accumulator or a scaled one beyond 32 bits
    limited = [
        min(b, 30 if e < -8 else 20 - e)
        for b, e in zip(np.resize(bits, 8), np.resize(exponents, 8), strict=True)
    ]
    q = q | {"stretch": 0.05}  # shifts of about -32 to 11
    content = convolution(window, 1, True, activation, q, seed, np.resize(exponents, 8), limited)
    check(runner, content, seed)


@CASES
@given(st.integers(1, 3), st.integers(1, 80), st.integers(1, 20), ACTIVATIONS, QUANTS, st.booleans(), SEED)
def test_fully_connected(
    runner: KernelRunner, rows: int, depth: int, units: int, activation: int, q: dict, bias: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight_scale = float(np.float32(rng.uniform(0.001, 0.02)))
    builder = Builder()
    x = builder.tensor((rows, depth), quantization(q["in"], q["in_zero"]))
    w = builder.tensor((units, depth), quantization(weight_scale), rng.integers(-127, 128, (units, depth)))
    b = -1
    if bias:
        product = float(np.float32(q["in"]) * np.float32(weight_scale))
        b = builder.tensor((units,), quantization(product), rng.integers(-20000, 20000, units), np.int32)
    out = float(np.float32(q["in"] * weight_scale * 64 * np.sqrt(depth) * q["stretch"]))
    y = builder.tensor((rows, units), quantization(out, q["out_zero"]))
    builder.operator(
        "FULLY_CONNECTED",
        (x, w, b),
        y,
        options("FullyConnectedOptions", fusedActivationFunction=activation),
        4,
    )
    # LiteRT rounds differently here (docs/kernels.md), so only TFLite Micro is compared bit for bit
    check(runner, builder.content([x], y), seed, litert=False)


BROADCASTS = st.sampled_from([((5, 4, 6), (5, 4, 6)), ((5, 4, 6), (1, 1, 6)), ((1, 1, 7), (3, 2, 7)),
                              ((4, 3, 5), (1, 1, 1)), ((2, 3, 4), (2, 3, 1))])  # fmt: skip


@pytest.mark.parametrize("kind", ["ADD", "MUL"])
@CASES
@given(BROADCASTS, ACTIVATIONS, SCALE, SCALE, SCALE, ZERO, ZERO, ZERO, SEED)
def test_elementwise(
    runner: KernelRunner, kind: str, shapes: tuple, activation: int, sa: float, sb: float, sy: float,
    za: int, zb: int, zy: int, seed: int,
) -> None:  # fmt: skip
    builder = Builder()
    a = builder.tensor((1, *shapes[0]), quantization(sa, za))
    b = builder.tensor((1, *shapes[1]), quantization(sb, zb))
    out = (1, *np.broadcast_shapes(*shapes))
    y = builder.tensor(out, quantization(sy if kind == "ADD" else sy * 8, zy))
    option = options("AddOptions" if kind == "ADD" else "MulOptions", fusedActivationFunction=activation)
    builder.operator(kind, (a, b), y, option, 2)
    content = builder.content([a, b], y)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        xa = rng.integers(-128, 128, (1, *shapes[0])).astype(np.int8)
        xb = rng.integers(-128, 128, (1, *shapes[1])).astype(np.int8)
        ours = runner.run_two_inputs(content, xa, xb)
        np.testing.assert_array_equal(ours, run_tflm(content, [xa, xb]))
        np.testing.assert_array_equal(ours, run_litert(content, [xa, xb]))


@CASES
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 20), st.booleans(), SCALE, SCALE, ZERO, ZERO, SEED
)
def test_mean(
    runner: KernelRunner,
    h: int,
    w: int,
    c: int,
    keep: bool,
    sx: float,
    sy: float,
    zx: int,
    zy: int,
    seed: int,
) -> None:
    builder = Builder()
    x = builder.tensor((1, h, w, c), quantization(sx, zx))
    axes = builder.tensor((2,), None, [1, 2], np.int32)
    y = builder.tensor((1, 1, 1, c) if keep else (1, c), quantization(sy, zy))
    builder.operator("MEAN", (x, axes), y, options("ReducerOptions", keepDims=keep), 2)
    check(runner, builder.content([x], y), seed)


@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@CASES
@given(windows(dilations=False), ACTIVATIONS, SCALE, ZERO, SEED)
def test_pool(
    runner: KernelRunner, kind: str, window: dict, activation: int, scale: float, zero: int, seed: int
) -> None:
    kh, kw = window["kernel"]
    builder = Builder()
    x = builder.tensor((1, window["h"], window["w"], window["c"]), quantization(scale, zero))
    oh, ow = output_size(window["h"], kh, window), output_size(window["w"], kw, window)
    y = builder.tensor((1, oh, ow, window["c"]), quantization(scale, zero))
    option = options(
        "Pool2DOptions", padding=0 if window["same"] else 1, strideH=window["stride"], strideW=window["stride"],
        filterHeight=kh, filterWidth=kw, fusedActivationFunction=activation,
    )  # fmt: skip
    builder.operator(kind, (x,), y, option, 2)
    check(runner, builder.content([x], y), seed)


@CASES
@given(st.tuples(*[st.integers(0, 3)] * 6), st.tuples(*[st.integers(1, 6)] * 3), SCALE, ZERO, SEED)
def test_pad(runner: KernelRunner, pads: tuple, shape: tuple, scale: float, zero: int, seed: int) -> None:
    builder = Builder()
    x = builder.tensor((1, *shape), quantization(scale, zero))
    table = [[0, 0], list(pads[0:2]), list(pads[2:4]), list(pads[4:6])]
    p = builder.tensor((4, 2), None, table, np.int32)
    out = tuple(n + a + b for n, (a, b) in zip(shape, table[1:], strict=True))
    y = builder.tensor((1, *out), quantization(scale, zero))
    builder.operator("PAD", (x, p), y, options("PadOptions"), 2)
    check(runner, builder.content([x], y), seed)


@CASES
@given(st.floats(0.001, 0.5), ZERO)
def test_logistic_of_every_value(runner: KernelRunner, scale: float, zero: int) -> None:
    builder = Builder()
    x = builder.tensor((1, 256), quantization(scale, zero))
    y = builder.tensor((1, 256), quantization(1 / 256, -128))
    builder.operator("LOGISTIC", (x,), y, None, 2)
    content = builder.content([x], y)
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    np.testing.assert_array_equal(runner.run(load(content), every), run_tflm(content, [every]).reshape(-1))


@CASES
@given(st.floats(0.001, 0.2), st.floats(0.3, 4.0), ZERO, ZERO)
def test_hard_swish_of_every_value(
    runner: KernelRunner, scale: float, ratio: float, zx: int, zy: int
) -> None:
    builder = Builder()
    x = builder.tensor((1, 1, 1, 256), quantization(scale, zx))
    y = builder.tensor((1, 1, 1, 256), quantization(scale * ratio, zy))
    builder.operator("HARD_SWISH", (x,), y, options("HardSwishOptions"), 1)
    content = builder.content([x], y)
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 1, 256)
    np.testing.assert_array_equal(runner.run(load(content), every), run_tflm(content, [every]).reshape(-1))


@CASES
@given(st.integers(1, 3), st.integers(1, 40), st.floats(0.002, 0.9), ZERO, SEED)
def test_softmax(runner: KernelRunner, rows: int, depth: int, scale: float, zero: int, seed: int) -> None:
    builder = Builder()
    x = builder.tensor((rows, depth), quantization(scale, zero))
    y = builder.tensor((rows, depth), quantization(1 / 256, -128))
    builder.operator("SOFTMAX", (x,), y, options("SoftmaxOptions", beta=1.0), 2)
    # LiteRT computes int8 softmax with a float table; TFLite Micro in fixed point
    check(runner, builder.content([x], y), seed, litert=False)
