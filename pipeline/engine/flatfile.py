"""Parsing of the .tflite flatbuffer into checked, plain Python values."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from pipeline.errors import ModelError

_HINT_FILE = (
    "export it again, in a run's folder after deleting it; it must be a complete TensorFlow Lite flatbuffer"
)
_TYPE_NAMES = {v: k for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
OPERATOR_NAMES = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
_DTYPES: dict[int, np.dtype[Any]] = {
    schema.TensorType.INT8: np.dtype("<i1"),
    schema.TensorType.INT32: np.dtype("<i4"),
}
MAX_ELEMENTS = 1 << 28  # larger tensors do not fit any target; also bounds what a damaged file can ask for


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One tensor of the file. `data` is None for activations."""

    name: str
    shape: tuple[int, ...]
    type: str
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    quantized_dimension: int
    data: NDArray[Any] | None

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """One operator: builtin name, tensor numbers (-1: absent) and its options table."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


@dataclass(frozen=True, slots=True, eq=False)
class FlatModel:
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: dict[str, bytes] = field(default_factory=dict)


def parse(content: bytes) -> FlatModel:
    """Read a .tflite. Raises ModelError for anything that is not one complete model of one subgraph."""
    if len(content) < 16 or content[4:8] != b"TFL3":
        raise ModelError("not a .tflite file (no TFL3 identifier)", hint=_HINT_FILE)
    try:
        raw = schema.ModelT.InitFromPackedBuf(content, 0)
        return _model(raw)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, KeyError) as error:
        # the generated reader meets damaged offsets with whatever it trips over
        raise ModelError(f"damaged .tflite: {error}", hint=_HINT_FILE) from error
    except (OverflowError, MemoryError, RecursionError) as error:
        raise ModelError("damaged .tflite: a length is absurd", hint=_HINT_FILE) from error


def _model(raw: Any) -> FlatModel:
    if not raw.subgraphs:
        raise ModelError("the .tflite has no subgraph", hint=_HINT_FILE)
    if len(raw.subgraphs) != 1:
        raise ModelError(
            f"the .tflite has {len(raw.subgraphs)} subgraphs",
            hint="control flow is not supported; export one graph",
        )
    graph = raw.subgraphs[0]
    tensors = tuple(_tensor(i, t, raw.buffers) for i, t in enumerate(graph.tensors))
    operators = tuple(
        _operator(i, op, raw.operatorCodes, len(tensors)) for i, op in enumerate(graph.operators)
    )
    ends = [tuple(int(i) for i in (end if end is not None else ())) for end in (graph.inputs, graph.outputs)]
    if any(not 0 <= i < len(tensors) for end in ends for i in end):
        raise ModelError("the model's inputs or outputs are tensors that do not exist", hint=_HINT_FILE)
    return FlatModel(tensors, operators, ends[0], ends[1], _metadata(raw))


def _metadata(raw: Any) -> dict[str, bytes]:
    """The file's metadata buffers by name; of equal names the last."""
    found = {}
    for entry in raw.metadata or ():
        if not 0 <= entry.buffer < len(raw.buffers):
            raise ModelError("the metadata refers to a buffer that does not exist", hint=_HINT_FILE)
        content = raw.buffers[entry.buffer].data
        found[_text(entry.name)] = b"" if content is None else np.asarray(content, np.uint8).tobytes()
    return found


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw or "")


def _tensor(index: int, raw: Any, buffers: Any) -> Tensor:
    name = _text(raw.name) or f"tensor {index}"
    shape = tuple(int(n) for n in (raw.shape if raw.shape is not None else ()))
    if any(n < 0 for n in shape) or int(np.prod(shape, dtype=np.float64)) > MAX_ELEMENTS:
        raise ModelError(
            f"tensor '{name}' has shape {shape}", hint="dynamic or huge shapes are not supported"
        )
    type_name = _TYPE_NAMES.get(raw.type, f"type {raw.type}")
    quantization = raw.quantization
    scales = np.zeros(0, np.float32)
    zero_points = np.zeros(0, np.int64)
    dimension = 0
    if quantization is not None and quantization.scale is not None:
        scales = np.asarray(quantization.scale, np.float32)
        zeros = quantization.zeroPoint
        zero_points = np.zeros(len(scales), np.int64) if zeros is None else np.asarray(zeros, np.int64)
        dimension = int(quantization.quantizedDimension)
        if len(zero_points) != len(scales):
            raise ModelError(
                f"tensor '{name}' has {len(scales)} scales, {len(zero_points)} zero points", hint=_HINT_FILE
            )
    data = None
    if not 0 <= raw.buffer < len(buffers):
        raise ModelError(f"tensor '{name}' refers to a buffer that does not exist", hint=_HINT_FILE)
    content = buffers[raw.buffer].data if raw.buffer else None
    if content is not None and len(content):
        dtype = _DTYPES.get(raw.type)
        if dtype is not None:
            raw_bytes = np.asarray(content, np.uint8).tobytes()
            expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if len(raw_bytes) != expected:
                raise ModelError(
                    f"tensor '{name}' of shape {shape} has {len(raw_bytes)} bytes, not {expected}",
                    hint=_HINT_FILE,
                )
            data = np.frombuffer(raw_bytes, dtype).reshape(shape)
    return Tensor(name, shape, type_name, scales, zero_points, dimension, data)


def _operator(index: int, raw: Any, codes: Any, tensors: int) -> Operator:
    if not 0 <= raw.opcodeIndex < len(codes):
        raise ModelError(f"operator {index} has no operator code", hint=_HINT_FILE)
    code = codes[raw.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    kind = OPERATOR_NAMES.get(number, f"operator code {number}")
    if kind == "CUSTOM":
        kind = f"custom operator {_text(code.customCode)}"
    inputs = tuple(int(i) for i in (raw.inputs if raw.inputs is not None else ()))
    outputs = tuple(int(i) for i in (raw.outputs if raw.outputs is not None else ()))
    if any(not -1 <= i < tensors for i in inputs) or any(not 0 <= i < tensors for i in outputs):
        raise ModelError(f"operator {index} ({kind}) refers to tensors that do not exist", hint=_HINT_FILE)
    return Operator(index, kind, inputs, outputs, raw.builtinOptions)
