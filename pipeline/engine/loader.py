"""load: .tflite in, Model out."""

from __future__ import annotations

from pathlib import Path

from pipeline.engine.exits import exit_rule, find_exits
from pipeline.engine.flatfile import FlatModel, Operator, parse
from pipeline.engine.model import Layer, Model
from pipeline.engine.operators import Lowered, lower_operator
from pipeline.engine.sound import front_end_of
from pipeline.engine.source import Source
from pipeline.errors import ModelError
from pipeline.memory.planner import plan
from pipeline.space.graph import Node, OpGraph
from pipeline.space.kernels import select


def load(source: Path | bytes) -> Model:
    """Read a fully INT8 .tflite (batch 1, one input, one output, or several with thresholds of early exits).

    Raises ModelError: no such file, not a .tflite, damaged, float or partly float, an operator the engine
    does not have (named, with its layer), shapes and scales without meaning, or several outputs without
    thresholds.
    """
    if isinstance(source, bytes):
        return _load(source)
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{source} cannot be read: {error.strerror}", hint="give the path of a .tflite"
        ) from error
    try:
        return _load(content)
    except ModelError as error:
        raise ModelError(f"{source.name}: {error.message}", hint=error.hint) from error


def _load(content: bytes) -> Model:
    flat = parse(content)
    if not flat.operators:
        raise ModelError("the model has no operators", hint="export it again")
    if len(flat.inputs) != 1 or not flat.outputs:
        what = f"{len(flat.outputs)} outputs" if len(flat.inputs) == 1 else f"{len(flat.inputs)} inputs"
        raise ModelError(f"the model has {what}", hint="one input and one output only")
    rule = exit_rule(flat)
    source_tensor, result_tensor = flat.inputs[0], flat.outputs[-1]
    lowered = [(operator, lower_operator(flat, operator)) for operator in flat.operators]

    # activations are numbered as in OpGraph: the input, then outputs in execution order
    numbers = {source_tensor: 0}
    for operator, low in lowered:
        for tensor in low.inputs:
            if tensor not in numbers:
                raise Source(flat, operator).error("reads a tensor that nothing has produced yet")
        if operator.outputs[0] in numbers:
            raise Source(flat, operator).error("writes a tensor that exists already")
        numbers[operator.outputs[0]] = len(numbers)
    if any(tensor not in numbers for tensor in flat.outputs):
        raise ModelError("the model's output is produced by no operator", hint="export it again")
    graph = _graph(flat, lowered, numbers)
    layers = tuple(_layer(i, node, low) for i, (node, (_, low)) in enumerate(zip(graph.nodes, lowered, strict=True))
                   if low.struct)  # fmt: skip
    first, last = Source(flat, lowered[0][0]), Source(flat, lowered[-1][0])
    input_shape, input_grid = (
        flat.tensors[source_tensor].shape,
        first.quantization(flat.tensors[source_tensor]),
    )
    return Model(
        graph=graph,
        layers=layers,
        plan=plan(graph),
        input_shape=input_shape,
        output_shape=flat.tensors[result_tensor].shape,
        input=input_grid,
        output=last.quantization(flat.tensors[result_tensor]),
        parameters=sum(low.parameters for _, low in lowered),
        tflite_bytes=len(content),
        exits=find_exits(flat, graph, layers, rule) if rule else (),
        front_end=front_end_of(flat, input_shape, input_grid),
    )


def _graph(flat: FlatModel, lowered: list[tuple[Operator, Lowered]], numbers: dict[int, int]) -> OpGraph:
    nodes = tuple(
        Node(
            low.op,
            tuple(numbers[t] for t in low.inputs),
            numbers[operator.outputs[0]],
            flat.tensors[operator.outputs[0]].name,
        )
        for operator, low in lowered
    )
    tensor_bytes = tuple(flat.tensors[t].elements for t in numbers)
    outputs = [numbers[t] for t in flat.outputs]
    return OpGraph(tensor_bytes, nodes, 0, outputs[-1], tuple(outputs[:-1]))


def _layer(index: int, node: Node, low: Lowered) -> Layer:
    return Layer(index, node.name, low.op, select(low.op).name, low.struct, low.fields, low.arrays)
