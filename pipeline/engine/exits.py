"""Early exits of a .tflite: several outputs, and in its metadata a threshold for each but the last."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.engine.flatfile import FlatModel, Operator
from pipeline.engine.model import Exit, Layer
from pipeline.engine.source import Source
from pipeline.errors import ModelError
from pipeline.space.exits import METADATA, ExitRule
from pipeline.space.graph import OpGraph

_HINT = "export the model again with edgenas, or leave one output"


def exit_rule(flat: FlatModel) -> ExitRule | None:
    """The thresholds of a model with several outputs; None for one with a single output.

    Raises ModelError where the file says how many outputs there are but not when to leave at which, or where
    outputs and thresholds do not belong together.
    """
    outputs = flat.outputs
    content = flat.metadata.get(METADATA)
    if content is None:
        if len(outputs) == 1:
            return None
        raise ModelError(
            f"the model has {len(outputs)} outputs but no thresholds for early exits (metadata {METADATA})",
            hint=_HINT,
        )
    rule = ExitRule.from_bytes(content)
    if len(rule.thresholds) != len(outputs) - 1:
        raise ModelError(
            f"the model has {len(outputs)} outputs but thresholds for {len(rule.thresholds)} exits",
            hint=_HINT,
        )
    producers = {tensor: op.index for op in flat.operators for tensor in op.outputs}
    order = [producers.get(tensor, -1) for tensor in outputs]
    if len(set(outputs)) != len(outputs) or order != sorted(order):
        raise ModelError("the model's outputs are not in the order in which they are computed", hint=_HINT)
    sizes = {flat.tensors[tensor].elements for tensor in outputs}
    if len(sizes) != 1 or sizes == {1}:
        raise ModelError(
            f"the model's outputs have {', '.join(str(flat.tensors[t].elements) for t in outputs)} values",
            hint="early exits need the same number of logits each, two at least",
        )
    return rule


def find_exits(flat: FlatModel, graph: OpGraph, layers: Sequence[Layer], rule: ExitRule) -> tuple[Exit, ...]:
    """Where each exit's logits are computed. Raises ModelError where they are no INT8 activation."""
    producers: dict[int, Operator] = {op.outputs[0]: op for op in flat.operators}
    found = []
    for tensor, number, threshold in zip(flat.outputs, graph.exits, rule.thresholds, strict=False):
        if tensor not in producers:
            raise ModelError("an exit of the model is produced by no operator", hint=_HINT)
        operator, logits = producers[tensor], flat.tensors[tensor]
        # a reshape has no layer of its own
        executed = sum(layer.node <= operator.index for layer in layers)
        quantization = Source(flat, operator).quantization(logits)
        found.append(Exit(logits.name, number, executed, threshold, quantization))
    return tuple(found)
