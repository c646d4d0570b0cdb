"""Typed access to one operator of a .tflite; every complaint names the layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.flatfile import FlatModel, Operator, Tensor
from pipeline.engine.quantization import Quantization
from pipeline.errors import ModelError
from pipeline.space.opspec import OpSpec, same_padding

_ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}
SIZE_LIMIT = 32767  # sizes are 16-bit in the kernels' parameter structs


class Source:
    """One operator with typed access to its tensors; complaints name the layer."""

    def __init__(self, model: FlatModel, operator: Operator) -> None:
        self.model = model
        self.operator = operator
        self.options = operator.options
        name = model.tensors[operator.outputs[0]].name if operator.outputs else ""
        self.label = f"layer {operator.index} ({operator.kind} '{name}')"

    def error(self, what: str, hint: str = "") -> ModelError:
        return ModelError(f"{self.label}: {what}", hint=hint or "docs/kernels.md lists what is supported")

    def tensor(self, position: int) -> Tensor:
        inputs = self.operator.inputs
        if position >= len(inputs) or inputs[position] < 0:
            raise self.error(f"input {position} is missing")
        return self.model.tensors[inputs[position]]

    @property
    def output(self) -> Tensor:
        if len(self.operator.outputs) != 1:
            raise self.error(f"has {len(self.operator.outputs)} outputs, not one")
        return self.model.tensors[self.operator.outputs[0]]

    def activation_input(self, position: int) -> tuple[Tensor, int]:
        tensor = self.tensor(position)
        if tensor.data is not None:
            raise self.error(f"input {position} is a constant", hint="fold constants before exporting")
        return tensor, self.operator.inputs[position]

    def quantization(self, tensor: Tensor) -> Quantization:
        """Of an activation: int8, one finite scale > 0."""
        if tensor.type != "INT8":
            raise self.error(
                f"tensor '{tensor.name}' is {tensor.type}, not INT8",
                hint="quantize all activations to int8, inputs and outputs included (full integer quantization)",
            )
        if len(tensor.scales) != 1:
            raise self.error(f"tensor '{tensor.name}' has no single scale", hint="quantize the model to int8")
        scale, zero = float(tensor.scales[0]), int(tensor.zero_points[0])
        if not np.isfinite(scale) or scale <= 0 or not -128 <= zero <= 127:
            raise self.error(f"tensor '{tensor.name}' has scale {scale} and zero point {zero}")
        return Quantization(scale, zero)

    def constant(self, position: int, dtype: str, dimensions: int) -> NDArray[Any]:
        tensor = self.tensor(position)
        if tensor.type != dtype or tensor.data is None:
            what = "not constant" if tensor.type == dtype else f"{tensor.type}, not {dtype}"
            raise self.error(f"tensor '{tensor.name}' is {what}", hint="quantize the model fully to int8")
        if tensor.data.ndim != dimensions:
            raise self.error(f"tensor '{tensor.name}' has {tensor.data.ndim} dimensions, not {dimensions}")
        return tensor.data

    def hwc(self, tensor: Tensor) -> tuple[int, int, int]:
        """(height, width, channels); rows of a 2-D tensor count as height. Batch must be 1."""
        shape = tensor.shape
        if len(shape) == 4:
            if shape[0] != 1:
                raise self.error(
                    f"tensor '{tensor.name}' has batch {shape[0]}", hint="export with batch size 1"
                )
            shape = shape[1:]
        if len(shape) > 3:
            raise self.error(f"tensor '{tensor.name}' has {len(shape)} dimensions", hint="4 at most, batch 1")
        if len(shape) == 2:
            shape = (shape[0], 1, shape[1])
        shape = (1,) * (3 - len(shape)) + shape
        if min(shape) < 1 or max(shape) > SIZE_LIMIT:
            raise self.error(
                f"tensor '{tensor.name}' has shape {tensor.shape}", hint=f"sizes 1..{SIZE_LIMIT} only"
            )
        return shape[0], shape[1], shape[2]

    def activation(self) -> str:
        code = getattr(self.options, "fusedActivationFunction", 0)
        if code not in _ACTIVATIONS:
            raise self.error(f"fused activation {code}", hint="NONE, RELU and RELU6 can be fused")
        return _ACTIVATIONS[code]

    def option(self, name: str) -> int:
        if self.options is None:
            raise self.error("has no options", hint="export the model again")
        return int(getattr(self.options, name))

    def window(self, h: int, w: int, kernel_h: int, kernel_w: int) -> dict[str, int]:
        """OpSpec's window fields, output size included, from stride, dilation and padding options."""
        fields: dict[str, int] = {"kernel_h": kernel_h, "kernel_w": kernel_w}
        for axis, size, kernel, stride_name, dilation_name in (
            ("h", h, kernel_h, "strideH", "dilationHFactor"),
            ("w", w, kernel_w, "strideW", "dilationWFactor"),
        ):
            stride = self.option(stride_name)
            dilation = int(getattr(self.options, dilation_name, 1))
            if not (1 <= stride <= SIZE_LIMIT and 1 <= dilation <= SIZE_LIMIT and 1 <= kernel <= SIZE_LIMIT):
                raise self.error(f"kernel {kernel}, stride {stride}, dilation {dilation}")
            before = after = 0
            if self.option("padding") == 0:  # SAME
                out, before, after = same_padding(size, kernel, stride, dilation)
            else:
                out = (size - (kernel - 1) * dilation - 1) // stride + 1
            if out < 1:
                raise self.error(
                    "the kernel is larger than the input", hint="use SAME padding or a smaller kernel"
                )
            if max(before, after) > SIZE_LIMIT:
                raise self.error(f"a padding of {after}", hint=f"{SIZE_LIMIT} at most")
            sides = ("top", "bottom") if axis == "h" else ("left", "right")
            fields |= {f"out_{axis}": out, f"stride_{axis}": stride, f"dilation_{axis}": dilation}
            fields |= {f"pad_{sides[0]}": before, f"pad_{sides[1]}": after}
        return fields

    def expect_output(self, op: OpSpec) -> None:
        out = self.hwc(self.output)
        if self.output.elements != op.out_bytes or (op.kind not in ("mean", "fully_connected", "reshape") and out != (
            op.out_h, op.out_w, op.out_c
        )):  # fmt: skip
            raise self.error(
                f"its output has shape {self.output.shape}, expected {(1, op.out_h, op.out_w, op.out_c)}",
                hint="the file is inconsistent; export it again",
            )
