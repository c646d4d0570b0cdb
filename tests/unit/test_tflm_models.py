"""Single-operator models: the reader gives back the OpSpec, and TFLite Micro computes what the engine does."""

from __future__ import annotations

import numpy as np
import pytest
from one_operator import run_tflm

from pipeline.engine import load
from pipeline.engine.host import HostModel
from pipeline.errors import ModelError
from pipeline.profiler.calibration import calibration_operators, window
from pipeline.space.opspec import OP_KINDS, OpSpec
from pipeline.tflm.models import operator_model

OPERATORS = [
    window("conv2d", 9, 7, 5, 6, (3, 3), 2),
    window("conv2d", 7, 7, 16, 24, (1, 1), 1),
    OpSpec("conv2d", 8, 8, 4, 6, 6, 8, 3, 3, activation="relu6"),
    OpSpec("conv2d", 9, 9, 4, 4, 4, 8, 3, 3, 2, 2, activation="relu"),
    window("conv2d", 9, 5, 4, 8, (3, 3), 1, dilation=2),
    window("depthwise_conv2d", 14, 14, 8, 8, (5, 5), 2),
    window("depthwise_conv2d", 6, 6, 4, 8, (3, 3), 1),
    OpSpec("fully_connected", 1, 1, 64, 1, 1, 10),
    OpSpec("fully_connected", 3, 1, 10, 3, 1, 7, activation="relu"),
    OpSpec("add", 7, 7, 16, 7, 7, 16, in2_h=7, in2_w=7, in2_c=16),
    OpSpec("add", 1, 1, 16, 7, 7, 16, in2_h=7, in2_w=7, in2_c=16, activation="relu"),
    OpSpec("mul", 7, 7, 16, 7, 7, 16, in2_h=1, in2_w=1, in2_c=16),
    OpSpec("mean", 7, 5, 16, 1, 1, 16),
    window("avg_pool", 9, 7, 9, 9, (3, 3), 2),
    window("max_pool", 8, 8, 16, 16, (2, 2), 2),
    OpSpec("pad", 8, 8, 16, 10, 9, 16, pad_top=1, pad_left=1, pad_bottom=1),
    OpSpec("pad", 8, 8, 16, 8, 8, 24),
    OpSpec("logistic", 1, 1, 33, 1, 1, 33),
    OpSpec("hard_swish", 4, 4, 8, 4, 4, 8),
    OpSpec("softmax", 2, 1, 10, 2, 1, 10),
    OpSpec("reshape", 4, 4, 8, 1, 1, 128),
]


def run_reference(op: OpSpec, content: bytes, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    shape = (1, op.in_h, op.in_w, op.in_c)
    x = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
    return x, run_tflm(content, [x])


def test_all_kinds_are_tried() -> None:
    assert {op.kind for op in OPERATORS} == set(OP_KINDS)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.key)
def test_is_the_operator_asked_for(op: OpSpec) -> None:
    """The reader of this project gives back the same OpSpec; constant operands it does not take."""
    content = operator_model(op, seed=3)
    _, output = run_reference(op, content)
    assert output.size == op.out_bytes
    if op.kind in ("add", "mul"):
        with pytest.raises(ModelError, match="constant"):
            load(content)
        return
    model = load(content)
    assert [node.op for node in model.graph.nodes] == [op]


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.key)
def test_outputs_neither_vanish_nor_saturate(op: OpSpec) -> None:
    _, output = run_reference(op, operator_model(op))
    saturated = np.isin(output, (-128, 127)).mean()
    allowed = 0.75 if op.activation != "none" or op.kind in ("softmax", "pad") else 0.2
    assert saturated <= allowed
    assert len(np.unique(output)) >= min(5, output.size)


@pytest.mark.parametrize(
    "op", [op for op in OPERATORS if op.kind not in ("add", "mul")], ids=lambda op: op.key
)
def test_engine_and_interpreter_agree(op: OpSpec) -> None:
    content = operator_model(op, seed=5)
    x, expected = run_reference(op, content, seed=1)
    assert (HostModel(load(content)).run(x).reshape(-1) == expected.reshape(-1)).all()


def test_seeds() -> None:
    op = OPERATORS[0]
    assert operator_model(op, 1) == operator_model(op, 1) != operator_model(op, 2)


def test_calibration_set_can_all_be_written() -> None:
    for op in calibration_operators():
        assert operator_model(op)[4:8] == b"TFL3"


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            OpSpec("conv2d", 8, 8, 4, 9, 9, 8, 3, 3, pad_top=2, pad_left=2, pad_bottom=1, pad_right=1),
            "SAME nor",
        ),
        (OpSpec("conv2d", 8, 8, 4, 5, 6, 8, 3, 3), "SAME nor"),
        (OpSpec("add", 2, 2, 4, 2, 2, 4, in2_h=1, in2_w=1, in2_c=3), "broadcast"),
        (OpSpec("depthwise_conv2d", 4, 4, 3, 4, 4, 4), "multiple"),
        (OpSpec("reshape", 2, 2, 2, 1, 1, 9), "reshaped"),
        (OpSpec("pad", 2, 2, 4, 2, 2, 3), "padding"),
    ],
)
def test_refuses_contradictions(op: OpSpec, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        operator_model(op)
