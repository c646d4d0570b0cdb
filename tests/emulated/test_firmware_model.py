"""A .tflite through the engine and the application, in QEMU, against TFLite Micro's interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.engine import emit_c, load
from pipeline.firmware import build, code_size, render_app, static_ram_bytes
from pipeline.links import open_link
from pipeline.space.budgets import Budgets
from pipeline.wire import Client

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from one_operator import Builder, options, quantization, run_tflm

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]


def small_network(seed: int) -> bytes:
    """Convolution 3x3/2 (ReLU6), depthwise 3x3, fully connected, softmax over 10 classes."""
    draw = np.random.default_rng(seed)
    b = Builder()

    def weights(*shape: int, channels: int, axis: int) -> tuple[int, np.ndarray]:
        scale = draw.uniform(0.002, 0.01, channels).astype(np.float32)
        data = draw.integers(-127, 128, shape, dtype=np.int8)
        return b.tensor(shape, quantization(scale, 0, axis), data), scale

    def bias(channels: int, scale: np.ndarray) -> int:
        return b.tensor((channels,), quantization(scale), draw.integers(-500, 500, channels), np.int32)

    x = b.tensor((1, 12, 12, 3), quantization(0.02, 5))
    w, scale = weights(8, 3, 3, 3, channels=8, axis=0)
    y = b.tensor((1, 6, 6, 8), quantization(6 / 255, -128))
    conv = options("Conv2DOptions", padding=0, strideH=2, strideW=2, fusedActivationFunction=3,
                   dilationHFactor=1, dilationWFactor=1)  # fmt: skip
    b.operator("CONV_2D", (x, w, bias(8, scale * 0.02)), y, conv, 3)
    w, scale = weights(1, 3, 3, 8, channels=8, axis=3)
    z = b.tensor((1, 6, 6, 8), quantization(0.03, -10))
    depthwise = options("DepthwiseConv2DOptions", padding=0, strideH=1, strideW=1, depthMultiplier=1,
                        fusedActivationFunction=0, dilationHFactor=1, dilationWFactor=1)  # fmt: skip
    b.operator("DEPTHWISE_CONV_2D", (y, w, bias(8, scale * 6 / 255)), z, depthwise, 3)
    flat = b.tensor((1, 288), quantization(0.03, -10))
    shape = b.tensor((2,), None, [1, 288], np.int32)
    b.operator("RESHAPE", (z, shape), flat, options("ReshapeOptions", newShape=[1, 288]))
    w = b.tensor((10, 288), quantization(0.005), draw.integers(-127, 128, (10, 288), dtype=np.int8))
    logits = b.tensor((1, 10), quantization(0.1, 3))
    offsets = bias(10, np.float32(0.005 * 0.03))
    b.operator("FULLY_CONNECTED", (flat, w, offsets), logits, options("FullyConnectedOptions"), 4)
    out = b.tensor((1, 10), quantization(1 / 256, -128))
    b.operator("SOFTMAX", (logits,), out, options("SoftmaxOptions", beta=1.0), 2)
    return b.content([x], out)


def test_device_outputs_equal_the_reference_interpreters(tmp_path: Path) -> None:
    board = load_board("qemu-cortex-m4")
    content = small_network(1)
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    model = load(path)
    built = build(render_app(emit_c(model), board, Budgets(latency_ms=50.0), tmp_path / "fw", 1.5), board)
    draw = np.random.default_rng(2)
    with open_link(board, built.elf) as link:
        client = Client(link)
        assert client.hello().build_id == built.build_id
        for _ in range(20):
            x = draw.integers(-128, 128, (1, 12, 12, 3), dtype=np.int8)
            assert client.invoke(x.tobytes()).output == run_tflm(content, [x]).tobytes()
        layers, memory, check = client.layer_ticks(), client.memory(), client.check()
    assert len(layers) == len(model.layers) == 4
    assert layers[0] > layers[3]  # a convolution takes longer than a softmax over ten values
    assert check.ok
    assert memory.arena_bytes == model.plan.arena_bytes
    assert memory.static_bytes == built.static_ram_bytes
    assert built.static_ram_bytes == static_ram_bytes(board, model.plan.arena_bytes, len(model.layers))
    # code and constants; what is left are the parameter structs and the calls, some hundred bytes a layer
    code = code_size(board)
    known = code.base_flash_bytes + code.kernels_bytes({layer.kernel for layer in model.layers})
    known += sum(layer.array_bytes for layer in model.layers)
    assert 0 < built.flash_bytes - known < 120 * len(model.layers)
