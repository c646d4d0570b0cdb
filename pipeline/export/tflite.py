"""QuantizedNetwork to .tflite, written directly with the schema of the LiteRT wheel. No torch.

Weights and quantization parameters reach the file unchanged, and nothing else does: no QUANTIZE,
TRANSPOSE or PAD operators, no float tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.errors import ModelError
from pipeline.export.quantized import Grid, QuantizedNetwork
from pipeline.frontend import METADATA as FRONT_END
from pipeline.frontend import to_bytes
from pipeline.space.exits import METADATA
from pipeline.space.graph import Node
from pipeline.space.opspec import OpSpec, same_padding

_ALIGNMENT = 16  # LiteRT maps buffers in place, and its kernels expect this alignment
_FILE_IDENTIFIER = b"TFL3"
# The lowest operator versions that define the INT8 form used here.
_OPERATORS = {
    "conv2d": ("CONV_2D", 3),
    "depthwise_conv2d": ("DEPTHWISE_CONV_2D", 3),
    "fully_connected": ("FULLY_CONNECTED", 4),
    "add": ("ADD", 2),
    "mul": ("MUL", 2),
    "mean": ("MEAN", 2),
    "avg_pool": ("AVERAGE_POOL_2D", 2),
    "max_pool": ("MAX_POOL_2D", 2),
    "pad": ("PAD", 2),
    "logistic": ("LOGISTIC", 2),
    "hard_swish": ("HARD_SWISH", 1),
    "softmax": ("SOFTMAX", 2),
    "reshape": ("RESHAPE", 1),
}
_ACTIVATION = {"none": 0, "relu": 1, "relu6": 3}


class _AlignedBuffer(schema.BufferT):
    """The generated `Pack` aligns data to 4 bytes only."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        data = None
        if self.data is not None:
            raw = bytes(self.data)
            builder.StartVector(1, len(raw), _ALIGNMENT)
            builder.head = builder.Head() - len(raw)
            builder.Bytes[builder.Head() : builder.Head() + len(raw)] = raw
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


class _Writer:
    def __init__(self, network: QuantizedNetwork) -> None:
        self.network = network
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [_AlignedBuffer()]  # buffer 0 is empty by convention: no constant data
        self.codes: list[str] = []

    def model(self) -> Any:
        graph = self.network.graph
        shapes: dict[int, tuple[int, ...]] = {}
        producers: dict[int, Node] = {node.output: node for node in graph.nodes}
        for number in range(len(graph.tensor_bytes)):
            if number in producers:
                shapes[number] = _shape(producers[number].op)
            else:
                shapes[number] = _input_shape(next(n for n in graph.nodes if number in n.inputs), number)
        for number, grid in enumerate(self.network.grids):
            producer = producers.get(number)
            name = "input" if number == graph.input else (producer.name if producer else f"tensor{number}")
            constant = self.network.constants.get(number)
            self._tensor(
                name, shapes[number], schema.TensorType.INT8, quantization=_per_tensor(grid),
                raw=None if constant is None else constant.tobytes(),
            )  # fmt: skip
        operators = [self._operator(index, node) for index, node in enumerate(graph.nodes)]
        subgraph = schema.SubGraphT(
            tensors=self.tensors,
            inputs=[graph.input],
            outputs=list(graph.outputs),
            operators=operators,
            name="main",
        )
        codes = []
        for kind in self.codes:
            name, version = _OPERATORS[kind]
            code = getattr(schema.BuiltinOperator, name)
            codes.append(schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=version))
        metadata = [schema.MetadataT(name="edgenas_version", buffer=self._buffer(__version__.encode()))]
        if self.network.exit_rule is not None:
            rule = self.network.exit_rule.to_bytes()
            metadata.append(schema.MetadataT(name=METADATA, buffer=self._buffer(rule)))
        if self.network.front_end is not None:
            front_end = to_bytes(self.network.front_end)
            metadata.append(schema.MetadataT(name=FRONT_END, buffer=self._buffer(front_end)))
        return schema.ModelT(
            version=3,
            operatorCodes=codes,
            subgraphs=[subgraph],
            description=f"edgenas {__version__}",
            buffers=self.buffers,
            metadata=metadata,
            signatureDefs=[self._signature(producers)] if graph.exits else None,
        )

    def _signature(self, producers: dict[int, Node]) -> Any:
        """Names of several outputs; their order is the graph's."""
        graph = self.network.graph
        names = [producers[tensor].name.partition("/")[0] for tensor in graph.outputs]
        return schema.SignatureDefT(
            inputs=[schema.TensorMapT(name="input", tensorIndex=graph.input)],
            outputs=[
                schema.TensorMapT(name=name, tensorIndex=tensor)
                for name, tensor in zip(names, graph.outputs, strict=True)
            ],
            signatureKey="serving_default",
            subgraphIndex=0,
        )

    def _buffer(self, raw: bytes) -> int:
        self.buffers.append(_AlignedBuffer(data=np.frombuffer(raw, np.uint8)))
        return len(self.buffers) - 1

    def _tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: int,
        *,
        quantization: Any = None,
        raw: bytes | None = None,
    ) -> int:
        self.tensors.append(
            schema.TensorT(
                shape=np.array(shape, np.int32),
                type=kind,
                buffer=0 if raw is None else self._buffer(raw),
                name=name,
                quantization=quantization,
                hasRank=True,
            )
        )
        return len(self.tensors) - 1

    def _operator(self, index: int, node: Node) -> Any:
        kind = node.op.kind
        if kind not in _OPERATORS:
            raise ModelError(f"layer {index} ({node.name or kind}): {kind} has no exporter")
        if kind not in self.codes:
            self.codes.append(kind)
        inputs = list(node.inputs)
        if index in self.network.weights:
            inputs += self._constants(index, node)
        elif (numbers := _integers(node.op)) is not None:
            name, values = numbers
            inputs.append(
                self._tensor(
                    f"{node.name}/{name}", values.shape, schema.TensorType.INT32, raw=values.tobytes()
                )
            )
        options_type, options = _options(node.op)
        return schema.OperatorT(
            opcodeIndex=self.codes.index(kind),
            inputs=inputs,
            outputs=[node.output],
            builtinOptionsType=getattr(schema.BuiltinOptions, options_type),
            builtinOptions=options,
        )

    def _constants(self, index: int, node: Node) -> list[int]:
        weights = self.network.weights[index]
        channel_axis = 3 if node.op.kind == "depthwise_conv2d" else 0
        bias_scales = np.float32(self.network.grids[node.inputs[0]].scale) * weights.scales
        values = self._tensor(
            f"{node.name}/weights",
            weights.values.shape,
            schema.TensorType.INT8,
            quantization=_symmetric(weights.scales, channel_axis),
            raw=weights.values.tobytes(),
        )
        biases = self._tensor(
            f"{node.name}/bias",
            weights.biases.shape,
            schema.TensorType.INT32,
            quantization=_symmetric(bias_scales, 0),
            raw=weights.biases.astype("<i4").tobytes(),
        )
        return [values, biases]


def _shape(op: OpSpec) -> tuple[int, ...]:
    if op.kind == "fully_connected":
        return op.out_h * op.out_w, op.out_c
    return 1, op.out_h, op.out_w, op.out_c


def _input_shape(node: Node, number: int) -> tuple[int, ...]:
    op = node.op
    if op.in2_h and number != node.inputs[0]:
        return 1, op.in2_h, op.in2_w, op.in2_c
    return 1, op.in_h, op.in_w, op.in_c


def _integers(op: OpSpec) -> tuple[str, NDArray[np.int32]] | None:
    """The constant INT32 operand of an operator that has one, and its name."""
    if op.kind == "mean":
        return "axes", np.array([1, 2], "<i4")
    if op.kind == "pad":
        channels = op.out_c - op.in_c  # only their total is known: all behind
        around = [[0, 0], [op.pad_top, op.pad_bottom], [op.pad_left, op.pad_right], [0, channels]]
        return "paddings", np.array(around, "<i4")
    if op.kind == "reshape":
        return "shape", np.array(_shape(op), "<i4")
    return None


def _per_tensor(grid: Grid) -> Any:
    return schema.QuantizationParametersT(
        scale=np.array([grid.scale], np.float32), zeroPoint=np.array([grid.zero_point], np.int64)
    )


def _symmetric(scales: NDArray[np.float32], axis: int) -> Any:
    # As many zero points as scales: readers index them alike.
    return schema.QuantizationParametersT(
        scale=scales.astype(np.float32),
        zeroPoint=np.zeros(len(scales), np.int64),
        quantizedDimension=axis if len(scales) > 1 else 0,
    )


_PLAIN_OPTIONS: dict[str, Callable[[OpSpec], Any]] = {
    "mean": lambda op: schema.ReducerOptionsT(keepDims=True),
    "pad": lambda op: schema.PadOptionsT(),
    "hard_swish": lambda op: schema.HardSwishOptionsT(),
    "softmax": lambda op: schema.SoftmaxOptionsT(beta=1.0),
    "reshape": lambda op: schema.ReshapeOptionsT(newShape=np.array(_shape(op), np.int32)),
}


def _padding(op: OpSpec) -> int:
    """TFLite's padding enumeration; raises ModelError for pads that are neither SAME nor VALID."""
    pads = (op.pad_top, op.pad_bottom, op.pad_left, op.pad_right)
    rows = same_padding(op.in_h, op.kernel_h, op.stride_h, op.dilation_h)
    columns = same_padding(op.in_w, op.kernel_w, op.stride_w, op.dilation_w)
    if pads == (*rows[1:], *columns[1:]) and (op.out_h, op.out_w) == (rows[0], columns[0]):
        return int(schema.Padding.SAME)
    valid = [
        (size - (kernel - 1) * dilation - 1) // stride + 1
        for size, kernel, stride, dilation in (
            (op.in_h, op.kernel_h, op.stride_h, op.dilation_h),
            (op.in_w, op.kernel_w, op.stride_w, op.dilation_w),
        )
    ]
    if not any(pads) and [op.out_h, op.out_w] == valid:
        return int(schema.Padding.VALID)
    raise ModelError(f"{op.kind}: padding {pads} is neither SAME nor VALID, which is all a .tflite can say")


def _options(op: OpSpec) -> tuple[str, Any]:
    activation = _ACTIVATION[op.activation]
    if op.kind == "fully_connected":
        return "FullyConnectedOptions", schema.FullyConnectedOptionsT(fusedActivationFunction=activation)
    if op.kind == "add":
        return "AddOptions", schema.AddOptionsT(fusedActivationFunction=activation)
    if op.kind == "mul":
        return "MulOptions", schema.MulOptionsT(fusedActivationFunction=activation)
    if op.kind == "logistic":
        return "NONE", None
    if op.kind in _PLAIN_OPTIONS:
        options = _PLAIN_OPTIONS[op.kind](op)
        return type(options).__name__.removesuffix("T"), options
    window = {
        "padding": _padding(op),
        "strideH": op.stride_h,
        "strideW": op.stride_w,
        "fusedActivationFunction": activation,
    }
    if op.kind in ("avg_pool", "max_pool"):
        return "Pool2DOptions", schema.Pool2DOptionsT(
            **window, filterHeight=op.kernel_h, filterWidth=op.kernel_w
        )
    window |= {"dilationHFactor": op.dilation_h, "dilationWFactor": op.dilation_w}
    if op.kind == "conv2d":
        return "Conv2DOptions", schema.Conv2DOptionsT(**window)
    multiplier = op.out_c // op.in_c
    return "DepthwiseConv2DOptions", schema.DepthwiseConv2DOptionsT(**window, depthMultiplier=multiplier)


def serialize(network: QuantizedNetwork) -> bytes:
    """The .tflite file of `network`; equal networks give equal bytes.

    Raises ModelError for an operator or a padding that has no TFLite form, and for unusable quantization.
    """
    network.check()
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(_Writer(network).model().Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())
