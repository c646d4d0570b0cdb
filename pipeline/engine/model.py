"""Model: a .tflite as the engine sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.quantization import Quantization
from pipeline.frontend import FrontEnd
from pipeline.memory.overlay import Overlay, overlay
from pipeline.memory.planner import ArenaPlan
from pipeline.space.exits import ExitRule
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


@dataclass(frozen=True, slots=True)
class Exit:
    """An output at which an inference may end early, where the margin of its logits reaches `threshold`.

    `layers` are the layers executed up to there, `tensor` the logits' number in the graph.
    """

    name: str
    tensor: int
    layers: int
    threshold: int
    quantization: Quantization


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A .tflite that the engine can run; `layers` are in execution order.

    `output_shape` and `output` are the final output's; `exits` have the same shape. With exits the device's
    output is the logits of the one that was taken and one byte with its number. `front_end` makes the input out of
    sound on the device.
    """

    graph: OpGraph
    layers: tuple[Layer, ...]
    plan: ArenaPlan
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input: Quantization
    output: Quantization
    parameters: int  # weights and biases
    tflite_bytes: int
    exits: tuple[Exit, ...] = ()
    front_end: FrontEnd | None = None

    @property
    def overlay(self) -> Overlay | None:
        """Where sound lies before the inference; None without a front end."""
        return overlay(self.plan, self.graph, self.front_end) if self.front_end else None

    @property
    def arena_bytes(self) -> int:
        """Of the linked arena: activations and scratch memory, or the front end's where those take more."""
        placed = self.overlay
        return placed.arena_bytes if placed else self.plan.arena_bytes

    @property
    def exit_rule(self) -> ExitRule | None:
        return ExitRule(tuple(e.threshold for e in self.exits)) if self.exits else None

    @property
    def input_bytes(self) -> int:
        return int(np.prod(self.input_shape))

    @property
    def output_bytes(self) -> int:
        """Of what the device answers."""
        return int(np.prod(self.output_shape)) + bool(self.exits)

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Of what the device answers to one input, without the batch dimension of 1."""
        if self.exits:
            return (self.output_bytes,)
        shape = self.output_shape
        return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
