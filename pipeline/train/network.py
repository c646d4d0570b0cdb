"""QatNetwork: a torch network with exactly the operators of an OpGraph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ModelError
from pipeline.space.architecture import Architecture, lower
from pipeline.space.cells import CellArchitecture
from pipeline.space.graph import Node, OpGraph
from pipeline.space.pruned import unpruned
from pipeline.train.layers import (
    INPUT_SCALE,
    INPUT_ZERO_POINT,
    Range,
    Weighted,
    constant_grid,
    fake_quantize,
    requantize,
)
from pipeline.train.quantconfig import Choice

Mode = Literal["float", "observe", "quantized"]
Quantization = tuple[Tensor, Tensor]
_WEIGHTED = ("conv2d", "depthwise_conv2d", "fully_connected")
_RANGED = ("add", "mul", "mean")


class QatNetwork(nn.Module):
    """Float, range-observing or fake-quantized execution of `lower(architecture)`.

    `mode` selects: "float" trains in plain float32 with batch normalization; "observe" runs in float and
    collects activation ranges; "quantized" puts every tensor on the INT8 grid that the exported file has.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.graph: OpGraph = lower(architecture)
        self.mode: Mode = "float"
        self.ranges_frozen = False
        self.watch: Callable[..., None] | None = None  # is shown each layer's name, output and weights
        self.layers = nn.ModuleList(_layers(self.graph, isinstance(unpruned(architecture), CellArchitecture)))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def heads(self) -> list[nn.Parameter]:
        """Weights and biases of the early exits' classifiers."""
        early = self.graph.outputs[:-1]
        pairs = zip(self.graph.nodes, self.layers, strict=True)
        return [p for node, layer in pairs if node.output in early for p in layer.parameters()]

    @property
    def folded(self) -> bool:
        return all(layer.folded for layer in self.layers if isinstance(layer, Weighted))

    def fold(self) -> None:
        """Fold batch normalization and hard sigmoids; training goes on with plain weights and biases."""
        for layer in self.layers:
            if isinstance(layer, Weighted):
                layer.fold()

    def quantize_by(self, choice: Choice) -> None:
        """Prepare for grids by `choice`, which `calibration` or a state with such grids then fills in."""
        self.ranges_frozen = not choice.tracks
        for layer in self.layers:
            if isinstance(layer, Weighted):
                layer.quantize_by(choice)

    def forward(self, x: Tensor) -> Tensor:
        """Final logits (n, classes) of images (n, c, h, w) in [0, 1]."""
        return self.each(x)[-1]

    def each(self, x: Tensor) -> list[Tensor]:
        """Logits (n, classes) of every output: early exits in order, then the final ones."""
        return [y[:, :, 0, 0] for y in self._run(x, self.input_quantization)]

    def _run(self, x: Tensor, quantization: Quantization) -> list[Tensor]:
        quantized = self.mode == "quantized"
        values = {self.graph.input: x}
        # Every number below is on the grid of the tensor it belongs to.
        grids = {self.graph.input: quantization}
        for node, layer in zip(self.graph.nodes, self.layers, strict=True):
            inputs = [values[number] for number in node.inputs]
            if not quantized:
                y = layer(*inputs) if isinstance(layer, Weighted) else _plain(node, inputs)
                if self.mode == "observe":
                    _observe(layer, y)
            else:
                y, grids[node.output] = self._quantized(node, layer, inputs, grids)
            values[node.output] = y
            if self.watch is not None:
                self.watch(node.name or node.op.kind, y, *layer.parameters())
        return [values[number] for number in self.graph.outputs]

    def _quantized(
        self, node: Node, layer: nn.Module, inputs: list[Tensor], grids: dict[int, Quantization]
    ) -> tuple[Tensor, Quantization]:
        if node.op.kind == "max_pool":  # no arithmetic: the result is on its input's grid already
            return _plain(node, inputs), grids[node.inputs[0]]
        if isinstance(layer, Weighted):
            input_scale = grids[node.inputs[0]][0]
            y = layer.forward_quantized(inputs[0], input_scale, layer.weight_scale(input_scale))
        else:
            y = _plain(node, inputs)
        activation = node.op.activation
        if self.training and not self.ranges_frozen:
            _observe(layer, y, activation)
        grid = output_grid(node, layer, grids)
        # In training a plain rounding will do, but for MEAN: its sums are so small that the kernel's double
        # rounding gives another result one time in ten (convolutions: one in five hundred).
        if node.op.kind == "mean" or not self.training:
            unit = _accumulator_unit(node, layer, grids)
            if unit is not None:
                divisor = node.op.in_h * node.op.in_w if node.op.kind == "mean" else 1
                y = y + (requantize(y, unit, grid[0], divisor) - y).detach()
        return fake_quantize(y, *grid, activation), grid

    @property
    def input_quantization(self) -> Quantization:
        return constant_grid(INPUT_SCALE, INPUT_ZERO_POINT, self.device)

    def grids(self) -> dict[int, Quantization]:
        """(scale, zero point) of every activation tensor, as the quantized mode uses them."""
        grids = {self.graph.input: self.input_quantization}
        for node, layer in zip(self.graph.nodes, self.layers, strict=True):
            grids[node.output] = output_grid(node, layer, grids)
        return grids

    @torch.no_grad()
    def int8_outputs(self, x: NDArray[np.int8], batch: int = 256) -> NDArray[np.int8]:
        """Final INT8 logits (n, classes) of INT8 images (n, h, w, c), by fake-quantized arithmetic."""
        return self.int8_each(x, batch)[-1]

    @torch.no_grad()
    def int8_each(self, x: NDArray[np.int8], batch: int = 256) -> list[NDArray[np.int8]]:
        """As `int8_outputs`, of every output in the order of `each`."""
        was = self.training, self.mode
        self.eval()
        self.mode = "quantized"
        grids = self.grids()
        parts = []
        for start in range(0, len(x), batch):
            real = (torch.from_numpy(x[start : start + batch]).float() - INPUT_ZERO_POINT) * INPUT_SCALE
            images = real.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
            logits = self.each(images.to(self.device))
            parts.append([_to_grid(y, *grids[n]) for y, n in zip(logits, self.graph.outputs, strict=True)])
        self.train(was[0])
        self.mode = was[1]
        return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _to_grid(y: Tensor, scale: Tensor, zero_point: Tensor) -> NDArray[np.int8]:
    found: NDArray[np.int8] = (torch.round(y / scale) + zero_point).to(torch.int8).cpu().numpy()
    return found


def output_grid(node: Node, layer: nn.Module, grids: dict[int, Quantization]) -> Quantization:
    """(scale, zero point) of a node's output, given those of its inputs."""
    first = grids[node.inputs[0]]
    if node.op.kind == "max_pool":
        return first
    if isinstance(layer, Weighted):
        fixed = layer.output_quantization
        if fixed is not None:
            return fixed
        return layer.range.quantization(layer.scale_floor(first[0], layer.weight_scale(first[0])))
    observed = cast(Range, layer)
    if node.op.kind == "mul":  # its requantization ratio is the product of the input scales over the output's
        return observed.quantization(first[0] * grids[node.inputs[1]][0] * 1.001)
    return observed.quantization()


def _accumulator_unit(node: Node, layer: nn.Module, grids: dict[int, Quantization]) -> Tensor | None:
    """What one step of the integer kernel's accumulator is worth, float64; ADD has no such: None."""
    scales = [grids[number][0].double() for number in node.inputs]
    if isinstance(layer, Weighted):
        weight_scale = layer.weight_scale(grids[node.inputs[0]][0]).double()
        return (scales[0] * weight_scale)[:, None, None]
    if node.op.kind == "mul":
        return scales[0] * scales[1]
    if node.op.kind == "mean":
        return scales[0]
    return None


def _observe(layer: nn.Module, y: Tensor, activation: str = "none") -> None:
    if isinstance(layer, Weighted):
        layer.range.observe(y.detach(), activation)
    elif isinstance(layer, Range):
        layer.observe(y.detach(), activation)


def _plain(node: Node, inputs: list[Tensor]) -> Tensor:
    kind = node.op.kind
    if kind == "add":
        return inputs[0] + inputs[1]
    if kind == "mul":
        return inputs[0] * inputs[1]
    if kind == "mean":
        return inputs[0].mean((2, 3), keepdim=True)
    if node.op.kernel_h == 3:
        return F.max_pool2d(inputs[0], 3, 1, padding=1)
    # TFLite's SAME pads 2x2/2 pooling at the far edges only, which is what ceil_mode does.
    return F.max_pool2d(inputs[0], 2, 2, ceil_mode=True)


def _layers(graph: OpGraph, sums: bool) -> list[nn.Module]:
    """`sums`: layers read sums of sums (cells), which grow with every identity among the edges, up to 15 times a cell.
    Unless the classifier's are standardized, logits and their gradients do, too, and training fails; unless what
    normalizes the others is held, steps of fine-tuning do."""
    squeezed: set[int] = set()  # tensors computed from a MEAN: too few values for batch statistics
    gates = {node.inputs[1] for node in graph.nodes if node.op.kind == "mul"}
    layers: list[nn.Module] = []
    for node in graph.nodes:
        from_mean = node.op.kind == "mean" or all(number in squeezed for number in node.inputs)
        if from_mean:
            squeezed.add(node.output)
        if node.op.kind in _WEIGHTED:
            gate, whole = node.output in gates, sums and node.op.kind == "fully_connected"
            layers.append(Weighted(node.op, normalize=not from_mean, gate=gate, standardize=whole, hold=sums))
        elif node.op.kind in _RANGED:
            layers.append(Range())
        elif node.op.kind == "max_pool" and (node.op.kernel_h, node.op.stride_h) in ((2, 2), (3, 1)):
            layers.append(nn.Identity())
        else:
            raise ModelError(f"{node.name or node.op.kind}: {node.op.kind} cannot be trained here")
    return layers
