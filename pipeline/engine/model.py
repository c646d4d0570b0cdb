"""Model: a .tflite as the engine sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.quantization import Quantization
from pipeline.memory.planner import ArenaPlan
from pipeline.space.graph import OpGraph
from pipeline.space.opspec import OpSpec

# C type of each array that a parameter struct points to
ARRAY_TYPES = {"int8": "int8_t", "int32": "int32_t"}


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One kernel call: `kernel(&parameters, inputs..., output[, scratch])`.

    `fields` are the parameter struct's numbers and `arrays` its pointers, by the struct's field names.
    `node` is the index in the graph; RESHAPE nodes have no layer.
    """

    node: int
    name: str
    op: OpSpec
    kernel: str
    struct: str
    fields: dict[str, int]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def array_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A .tflite that the engine can run; `layers` are in execution order."""

    graph: OpGraph
    layers: tuple[Layer, ...]
    plan: ArenaPlan
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input: Quantization
    output: Quantization
    parameters: int  # weights and biases
    tflite_bytes: int

    @property
    def input_bytes(self) -> int:
        return int(np.prod(self.input_shape))

    @property
    def output_bytes(self) -> int:
        return int(np.prod(self.output_shape))
