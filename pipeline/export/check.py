"""What an exported file may contain: checked on the bytes, after writing, whatever wrote them. No torch."""

from __future__ import annotations

import struct
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from pipeline.errors import ModelError

_ALIGNMENT = 16
_FORBIDDEN = ("QUANTIZE", "DEQUANTIZE", "TRANSPOSE", "PAD", "PADV2", "CAST")
_TYPES = (schema.TensorType.INT8, schema.TensorType.INT32)
_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def check_int8(model: bytes) -> None:
    """Raise ModelError unless `model` is fully INT8 and free of conversion and layout operators.

    Also checked: INT8 input and output with quantization, a zero point for each scale, and buffers
    aligned to 16 bytes.
    """
    if model[4:8] != b"TFL3":
        raise ModelError("not a .tflite: the identifier TFL3 is missing")
    try:
        raw = schema.Model.GetRootAs(model, 0)
        parsed = schema.ModelT.InitFromObj(raw)
    except (struct.error, IndexError, ValueError, TypeError) as error:
        raise ModelError(f"the .tflite is damaged: {error}") from error
    if not parsed.subgraphs or not parsed.operatorCodes or not parsed.subgraphs[0].tensors:
        raise ModelError("the .tflite is damaged: it has no graph")
    if len(parsed.subgraphs) != 1:
        raise ModelError(f"the exported model has {len(parsed.subgraphs)} subgraphs instead of 1")
    graph = parsed.subgraphs[0]
    for tensor in graph.tensors:
        _check_tensor(tensor)
    for end in (*graph.inputs, *graph.outputs):
        if graph.tensors[end].type != schema.TensorType.INT8:
            raise ModelError(f"{_name(graph.tensors[end])} is an input or output but not INT8")
    for code in parsed.operatorCodes:
        name = _NAMES.get(code.builtinCode, str(code.builtinCode))
        if name in _FORBIDDEN:
            raise ModelError(f"the exported model has a {name} operator")
    for index in range(raw.BuffersLength()):
        _check_alignment(raw.Buffers(index), index)


def _name(tensor: Any) -> str:
    return f"tensor {tensor.name.decode(errors='replace') if tensor.name else '(unnamed)'}"


def _check_tensor(tensor: Any) -> None:
    if tensor.type not in _TYPES:
        raise ModelError(f"{_name(tensor)} has type {tensor.type}; only INT8 and INT32 are allowed")
    quantization = tensor.quantization
    scales = 0 if quantization is None or quantization.scale is None else len(quantization.scale)
    if tensor.type == schema.TensorType.INT8 and scales == 0:
        raise ModelError(f"{_name(tensor)} is INT8 without a scale")
    if scales and (quantization.zeroPoint is None or len(quantization.zeroPoint) != scales):
        raise ModelError(f"{_name(tensor)} has {scales} scales but not as many zero points")


def _check_alignment(buffer: Any, index: int) -> None:
    if buffer.DataIsNone() or buffer.DataLength() == 0:
        return
    # The vector's first element, from the start of the file.
    offset = buffer._tab.Vector(buffer._tab.Offset(4))
    if offset % _ALIGNMENT:
        raise ModelError(f"buffer {index} starts at byte {offset}, which is not a multiple of {_ALIGNMENT}")
