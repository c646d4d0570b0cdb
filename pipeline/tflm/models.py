"""Single-operator .tflite models: what the interpreter measures in place of a kernel call."""

from __future__ import annotations

import math

import numpy as np

from pipeline.errors import ModelError
from pipeline.export.quantized import Grid, QuantizedNetwork, Weights
from pipeline.export.tflite import serialize
from pipeline.space.graph import Node, OpGraph
from pipeline.space.opspec import OpSpec

_INPUT = Grid(1 / 255, -128)
_PROBABILITY = Grid(1 / 256, -128)  # the only output grid of LOGISTIC and SOFTMAX
_WEIGHTED = ("conv2d", "depthwise_conv2d", "fully_connected")
_SAME_GRID = ("avg_pool", "max_pool", "pad", "reshape")


def operator_model(op: OpSpec, seed: int = 1) -> bytes:
    """A fully INT8 .tflite with `op` alone; equal arguments give equal bytes.

    Weights, biases and the second operand of ADD and MUL are constants made from `seed`, of usual magnitude:
    outputs neither vanish nor saturate. Raises ModelError for paddings that are neither SAME nor VALID
    (all that a .tflite can say), and for shapes that contradict each other.
    """
    _check(op)
    rng = np.random.default_rng(seed)
    grids = [_INPUT]
    weights, constants = {}, {}
    inputs: tuple[int, ...] = (0,)
    sizes = [op.in_bytes]
    if op.kind in ("add", "mul"):
        inputs = (0, 1)
        shape = (op.in2_h, op.in2_w, op.in2_c)
        constants[1] = rng.integers(-128, 128, shape, dtype=np.int8)
        grids.append(Grid(1.2 / 255, 7))
        sizes.append(math.prod(shape))
    if op.kind in _WEIGHTED:
        weights[0] = _weights(op, rng)
    graph = OpGraph((*sizes, op.out_bytes), (Node(op, inputs, len(sizes), op.kind),), 0, len(sizes))
    return serialize(QuantizedNetwork(graph, (*grids, _output_grid(op)), weights, constants))


def _weights(op: OpSpec, rng: np.random.Generator) -> Weights:
    taps = op.kernel_h * op.kernel_w * (op.in_c if op.kind == "conv2d" else 1)
    shape: tuple[int, ...] = (op.out_c, op.kernel_h, op.kernel_w, op.in_c)
    channels = op.out_c
    if op.kind == "depthwise_conv2d":
        shape = (1, op.kernel_h, op.kernel_w, op.out_c)
    elif op.kind == "fully_connected":
        shape, taps, channels = (op.out_c, op.in_c), op.in_c, 1
    values = rng.integers(-127, 128, shape, dtype=np.int8)
    # sums of `taps` products of random signs grow with their root: outputs fill about the output's range
    scales = (rng.uniform(0.8, 1.2, channels) * 0.02 / math.sqrt(taps)).astype(np.float32)
    return Weights(values, scales, rng.integers(-500, 500, op.out_c, dtype=np.int32))


def _output_grid(op: OpSpec) -> Grid:
    if op.kind in _SAME_GRID:
        return _INPUT
    if op.kind in ("logistic", "softmax"):
        return _PROBABILITY
    if op.kind == "mean":
        return Grid(1 / 300, -120)
    if op.activation == "relu6":
        return Grid(6 / 255, -128)
    if op.activation == "relu":
        return Grid(4 / 255, -128)
    return Grid(5 / 255, 3)


def _check(op: OpSpec) -> None:
    if op.kind in ("add", "mul"):
        for a, b, out in zip(
            (op.in_h, op.in_w, op.in_c), (op.in2_h, op.in2_w, op.in2_c), (op.out_h, op.out_w, op.out_c),
            strict=True,
        ):  # fmt: skip
            if out != max(a, b) or (a != b and min(a, b) != 1):
                raise ModelError(f"{op.key}: the operands do not broadcast to the output")
    elif op.kind == "depthwise_conv2d" and op.out_c % op.in_c:
        raise ModelError(f"{op.key}: {op.out_c} channels are no multiple of {op.in_c}")
    elif op.kind == "reshape" and op.in_bytes != op.out_bytes:
        raise ModelError(f"{op.key}: {op.in_bytes} elements cannot be reshaped to {op.out_bytes}")
    elif op.kind == "pad" and (op.out_c < op.in_c or op.activation != "none"):
        raise ModelError(f"{op.key}: no such padding")
