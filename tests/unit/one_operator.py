"""Builds small INT8 .tflite models for comparing kernels with the reference interpreters, and runs those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

OPS = schema.BuiltinOperator


def quantization(scale: float | Sequence[float], zero: int = 0, axis: int = 0) -> Any:
    q = schema.QuantizationParametersT()
    q.scale = np.atleast_1d(np.array(scale, np.float32))
    q.zeroPoint = np.full(len(q.scale), zero, np.int64)
    q.quantizedDimension = axis
    return q


class Builder:
    """Collects tensors and operators; `content` packs them."""

    def __init__(self) -> None:
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[tuple[int, int]] = []

    def tensor(
        self, shape: Sequence[int], q: Any = None, data: Any = None, dtype: Any = np.int8, name: str = ""
    ) -> int:
        t = schema.TensorT()
        t.shape = np.array(shape, np.int32)
        t.type = {np.int8: schema.TensorType.INT8, np.int32: schema.TensorType.INT32, np.float32: 0}[dtype]
        t.quantization = q
        t.name = (name or f"t{len(self.tensors)}").encode()
        t.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            self.buffers.append(buffer)
            t.buffer = len(self.buffers) - 1
        self.tensors.append(t)
        return len(self.tensors) - 1

    def operator(
        self, kind: str, inputs: Sequence[int], output: int, options: Any = None, version: int = 1
    ) -> None:
        key = (getattr(OPS, kind), version)
        if key not in self.codes:
            self.codes.append(key)
        op = schema.OperatorT()
        op.opcodeIndex = self.codes.index(key)
        op.inputs = np.array(inputs, np.int32)
        op.outputs = np.array([output], np.int32)
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            op.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            op.builtinOptions = options
        self.operators.append(op)

    def content(self, inputs: Sequence[int], output: int) -> bytes:
        model = schema.ModelT()
        model.version = 3
        model.description = b"test"
        model.buffers = self.buffers
        model.operatorCodes = []
        for kind, version in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = kind
            code.deprecatedBuiltinCode = min(kind, 127)
            code.version = version
            model.operatorCodes.append(code)
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        graph.name = b"main"
        model.subgraphs = [graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def options(name: str, **values: Any) -> Any:
    """An options table, e.g. options("Conv2DOptions", strideH=2)."""
    table = getattr(schema, f"{name}T")()
    for key, value in values.items():
        assert hasattr(table, key), key
        setattr(table, key, value)
    return table


def run_tflm(content: bytes, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Output of TFLite Micro's reference kernels."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 20)
    for i, x in enumerate(inputs):
        interpreter.set_input(x, i)
    interpreter.invoke()
    return np.array(interpreter.get_output(0))


def run_litert(content: bytes, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Output of LiteRT's reference kernels (BUILTIN_REF)."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    for detail, x in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    return np.array(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
