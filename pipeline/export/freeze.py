"""From the quantization-aware torch network to its integers."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.errors import ModelError
from pipeline.export.quantized import Grid, QuantizedNetwork, Weights
from pipeline.frontend import FrontEnd
from pipeline.train.layers import Weighted
from pipeline.train.network import QatNetwork


@torch.no_grad()
def freeze(network: QatNetwork, front_end: FrontEnd | None = None) -> QuantizedNetwork:
    """The integers that `network` computes with, and `front_end`, which makes its input out of sound.

    Raises ModelError where they do not fit their types.
    """
    if not network.folded:
        raise ModelError(
            "the network still has batch normalization", hint="call fold() and calibrate it first"
        )
    grids = network.grids()
    weights = {}
    for index, (node, layer) in enumerate(zip(network.graph.nodes, network.layers, strict=True)):
        if isinstance(layer, Weighted):
            weights[index] = _weights(layer, grids[node.inputs[0]][0])
    frozen = QuantizedNetwork(
        graph=network.graph,
        grids=tuple(
            Grid(float(grids[number][0]), int(grids[number][1]))
            for number in range(len(network.graph.tensor_bytes))
        ),
        weights=weights,
        front_end=front_end,
    )
    frozen.check()
    return frozen


def _weights(layer: Weighted, input_scale: torch.Tensor) -> Weights:
    scale = layer.weight_scale(input_scale)
    weight, bias = layer.deployed()
    shape = (-1, *[1] * (weight.ndim - 1))
    values = torch.round(weight / scale.reshape(shape)).clamp(-127, 127).to(torch.int8).numpy()
    biases = torch.round(bias.double() / (input_scale * scale).double())
    if biases.abs().max() >= 2**31:
        raise ModelError(f"a bias of {layer.op.kind} {biases.abs().max():.3g} does not fit int32")
    if layer.op.kind == "conv2d":
        values = values.transpose(0, 2, 3, 1)
    elif layer.op.kind == "depthwise_conv2d":
        values = values.transpose(1, 2, 3, 0)
    scales = scale.numpy()[:1] if layer.one_scale else scale.numpy()
    return Weights(np.ascontiguousarray(values), scales.astype(np.float32), biases.to(torch.int32).numpy())
