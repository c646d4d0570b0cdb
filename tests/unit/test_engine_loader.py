"""The .tflite reader against damaged and unsupported files: ModelError with a hint, never anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_operator import Builder, options, quantization

from pipeline.engine import load
from pipeline.errors import ModelError

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"


def dense(x: tuple[int, ...] = (1, 8), dtype: type = np.int8, weights: type = np.int8) -> bytes:
    builder = Builder()
    a = builder.tensor(x, quantization(0.1, 3) if dtype is np.int8 else None, dtype=dtype)
    w = builder.tensor((4, 8), quantization(0.01), np.ones((4, 8)), weights)
    y = builder.tensor((x[0], 4), quantization(0.2, -5) if dtype is np.int8 else None, dtype=dtype)
    builder.operator("FULLY_CONNECTED", (a, w, -1), y, options("FullyConnectedOptions"), 4)
    return builder.content([a], y)


def unsupported() -> bytes:
    builder = Builder()
    x = builder.tensor((1, 8), quantization(0.1, 3))
    y = builder.tensor((1, 8), quantization(0.1, 3), name="the_tanh")
    builder.operator("TANH", (x,), y)
    return builder.content([x], y)


def survives(content: bytes) -> None:
    try:
        load(content)
    except ModelError as error:
        assert error.message and error.hint


def test_the_undamaged_file_loads() -> None:
    assert load(dense()).parameters == 4 * 8 + 4


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, len(dense()) - 1))
def test_truncated_file(length: int) -> None:
    survives(dense()[:length])


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, len(dense()) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes(flips: list[tuple[int, int]]) -> None:
    content = bytearray(dense())
    for position, value in flips:
        content[position] = value
    survives(bytes(content))


@pytest.mark.parametrize("name", ["ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8"])
def test_damaged_mlperf_model(name: str) -> None:
    path = MODELS / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: only small models are damaged")
    original = path.read_bytes()
    rng = np.random.default_rng(3)
    for i in range(25):
        content = bytearray(original)
        if i % 5 == 0:
            del content[int(rng.integers(len(content))) :]
        else:
            # tables lie at both ends of the file, weights in between
            for position in rng.integers(0, 4000, 3):
                content[int(position) * (1 if i % 2 else -1)] = int(rng.integers(256))
        survives(bytes(content))


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_garbage(content: bytes) -> None:
    survives(content)
    survives(content[:4] + b"TFL3" + content[4:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dense(dtype=np.float32, weights=np.float32), "FLOAT32"),
        (dense(dtype=np.float32), "FLOAT32"),  # dynamic range: int8 weights, float activations
        (unsupported(), "layer 0 \\(TANH 'the_tanh'\\)"),
        (b"", "not a .tflite"),
    ],
)
def test_refusals_say_what_is_wrong(content: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load(content)
    assert caught.value.hint


def test_a_padding_beyond_the_kernels_16_bits() -> None:
    """5 taps 32,767 pixels apart: 65,534 pixels of padding on either side would be -2 in the parameter struct."""
    builder = Builder()
    x = builder.tensor((1, 4, 4, 1), quantization(0.1))
    filters = builder.tensor((1, 5, 5, 1), quantization(0.1), np.ones((1, 5, 5, 1)), np.int8)
    y = builder.tensor((1, 4, 4, 1), quantization(0.1))
    far = {"dilationHFactor": 32767, "dilationWFactor": 32767, "strideH": 1, "strideW": 1, "padding": 0}
    builder.operator("CONV_2D", (x, filters), y, options("Conv2DOptions", **far), 3)
    with pytest.raises(ModelError, match="a padding of 65534"):
        load(builder.content([x], y))


def test_batch_must_be_one() -> None:
    builder = Builder()
    x = builder.tensor((2, 4, 4, 3), quantization(0.1))
    y = builder.tensor((2, 2, 2, 3), quantization(0.1))
    option = options("Pool2DOptions", padding=1, strideH=2, strideW=2, filterHeight=2, filterWidth=2)
    builder.operator("MAX_POOL_2D", (x,), y, option, 2)
    with pytest.raises(ModelError, match="batch 2"):
        load(builder.content([x], y))


def unary(kind: str, scales: tuple[float, float], option: Any = None) -> bytes:
    builder = Builder()
    x, y = (builder.tensor((1, 4, 4, 3), quantization(scale, 5)) for scale in scales)
    builder.operator(kind, (x,), y, option)
    return builder.content([x], y)


def test_scales_so_small_that_float32_overflows() -> None:
    """6 / 1e-42 is infinite in float32."""
    relu6 = options("Pool2DOptions", padding=0, strideH=1, strideW=1, filterHeight=2, filterWidth=2,
                    fusedActivationFunction=3)  # fmt: skip
    (layer,) = load(unary("MAX_POOL_2D", (1e-42, 1e-42), relu6)).layers
    assert (layer.fields["activation_min"], layer.fields["activation_max"]) == (5, 127)
    for scales in ((1.0, 1e-42), (3e38, 3e38)):
        with pytest.raises(ModelError, match="do not go together"):
            load(unary("HARD_SWISH", scales))


@pytest.mark.parametrize("kind", ["MUL", "MEAN"])
def test_scales_whose_results_leave_32_bits_are_refused(kind: str) -> None:
    """Inputs reach 133 from their zero point of 5: products 133 * 133, sums of 16 pixels 16 * 133. The shift to the
    left that the scales ask for (a mean's is 4 less, its count being a divisor) must keep them below 2^31."""

    def content(ratio: float) -> bytes:
        builder = Builder()
        x = builder.tensor((1, 4, 4, 3), quantization(1.0, 5))
        shape = (1, 4, 4, 3) if kind == "MUL" else (1, 1, 1, 3)
        y = builder.tensor(shape, quantization(1.0 / ratio, 5))
        if kind == "MUL":
            builder.operator(kind, (x, x), y, options("MulOptions"), 2)
        else:
            axes = builder.tensor((2,), data=[1, 2], dtype=np.int32)
            builder.operator(kind, (x, axes), y, options("ReducerOptions", keepDims=True), 2)
        return builder.content([x], y)

    most = 16 if kind == "MUL" else 23
    assert 133 * (133 if kind == "MUL" else 16) << (most if kind == "MUL" else most - 4) < 1 << 31
    assert load(content(0.75 * 2**most)).layers
    with pytest.raises(ModelError, match=rf"{kind}.* overflows? when .* requantized") as caught:
        load(content(0.75 * 2 ** (most + 1)))
    assert "quantize again" in caught.value.hint


def test_missing_file() -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load(Path("no-such-file.tflite"))
