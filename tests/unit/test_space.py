"""Architectures, their lowering and the search space, against shapes and counts worked out by hand."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.space import Architecture, Block, OpSpec, lower, operator_parameters, parameters
from pipeline.space.blocks import BLOCK_OPS, se_channels
from pipeline.space.search_space import SearchSpace


def ops_of(*blocks: Block, shape=(28, 28, 1), stem=16, stem_stride=2) -> list[tuple]:
    graph = lower(Architecture(shape, 10, stem, stem_stride, blocks))
    return [(n.op.kind, n.op.activation, n.inputs, n.output) for n in graph.nodes]


def test_stem_and_head():
    graph = lower(Architecture((28, 28, 1), 10, 16, 2, ()))
    stem, mean, classifier = (node.op for node in graph.nodes)
    # 28 -> 14 with a 3x3 window at stride 2: 13 * 2 + 3 - 28 = 1 pixel of padding, after the image.
    assert stem == OpSpec(
        "conv2d", 28, 28, 1, 14, 14, 16, kernel_h=3, kernel_w=3, stride_h=2, stride_w=2,
        pad_bottom=1, pad_right=1, activation="relu6",
    )  # fmt: skip
    assert mean == OpSpec("mean", 14, 14, 16, 1, 1, 16)
    assert classifier == OpSpec("fully_connected", 1, 1, 16, 1, 1, 10)
    assert graph.tensor_bytes == (784, 14 * 14 * 16, 16, 10)
    assert (graph.input, graph.output) == (0, 3)


@pytest.mark.parametrize("op, size", [("dw3", 3), ("dw5", 5), ("dw7", 7)])
def test_depthwise_separable(op, size):
    graph = lower(Architecture((28, 28, 1), 10, 16, 2, (Block(op, 24, 2),)))
    depthwise, pointwise = graph.nodes[1].op, graph.nodes[2].op
    total = (7 - 1) * 2 + size - 14
    assert (depthwise.kind, depthwise.out_h, depthwise.out_c, depthwise.kernel_w) == (
        "depthwise_conv2d",
        7,
        16,
        size,
    )
    assert (depthwise.pad_top, depthwise.pad_bottom) == (total // 2, total - total // 2)
    assert (pointwise.kind, pointwise.kernel_h, pointwise.in_c, pointwise.out_c) == ("conv2d", 1, 16, 24)
    assert depthwise.activation == pointwise.activation == "relu6"
    assert depthwise.macs == 7 * 7 * 16 * size * size


def test_inverted_residual_adds_only_where_shapes_agree():
    assert ops_of(Block("ir4", 16, 1))[1:5] == [
        ("conv2d", "relu6", (1,), 2),
        ("depthwise_conv2d", "relu6", (2,), 3),
        ("conv2d", "none", (3,), 4),
        ("add", "none", (1, 4), 5),
    ]
    for block in (Block("ir4", 24, 1), Block("ir4", 16, 2)):
        assert "add" not in [kind for kind, *_ in ops_of(block)]
    graph = lower(Architecture((28, 28, 1), 10, 16, 2, (Block("ir6", 16, 1),)))
    assert [n.op.out_c for n in graph.nodes[1:5]] == [96, 96, 16, 16]
    add = graph.nodes[4].op
    assert (add.in2_h, add.in2_w, add.in2_c) == (14, 14, 16)


def test_squeeze_and_excitation():
    assert ops_of(Block("se4", 32, 1))[1:7] == [
        ("depthwise_conv2d", "relu6", (1,), 2),
        ("conv2d", "relu6", (2,), 3),
        ("mean", "none", (3,), 4),
        ("conv2d", "relu6", (4,), 5),
        ("conv2d", "none", (5,), 6),
        ("mul", "none", (3, 6), 7),
    ]
    graph = lower(Architecture((28, 28, 1), 10, 16, 2, (Block("se8", 48, 1),)))
    reduce, gate, scale = (n.op for n in graph.nodes[4:7])
    assert (reduce.in_h, reduce.in_c, reduce.out_c, gate.out_c) == (1, 48, 8, 48)
    assert (scale.in_h, scale.in_c, scale.in2_h, scale.in2_c, scale.out_bytes) == (
        14,
        48,
        1,
        48,
        14 * 14 * 48,
    )


def test_squeeze_width_rounds_up_to_fours():
    assert [se_channels(c, 4) for c in (16, 24, 32, 48, 64)] == [4, 8, 8, 12, 16]
    assert [se_channels(c, 8) for c in (16, 24, 32, 48, 64)] == [4, 4, 4, 8, 8]


def test_skip_is_nothing_or_a_pool():
    assert ops_of(Block("skip", 16, 1)) == ops_of()
    graph = lower(Architecture((30, 30, 1), 10, 16, 2, (Block("skip", 16, 2),)))
    pool = graph.nodes[1].op
    assert pool == OpSpec(
        "max_pool",
        15,
        15,
        16,
        8,
        8,
        16,
        kernel_h=2,
        kernel_w=2,
        stride_h=2,
        stride_w=2,
        pad_bottom=1,
        pad_right=1,
    )


def test_parameters_by_hand():
    architecture = Architecture(
        (28, 28, 1), 10, 16, 2, (Block("dw5", 24, 1), Block("ir2", 24, 1), Block("se4", 32, 2))
    )
    stem, head = 9 * 16 + 16, 32 * 10 + 10
    separable = (25 * 16 + 16) + (16 * 24 + 24)
    inverted = (24 * 48 + 48) + (9 * 48 + 48) + (48 * 24 + 24)
    squeeze = (9 * 24 + 24) + (24 * 32 + 32) + (32 * 8 + 8) + (8 * 32 + 32)
    assert parameters(architecture) == stem + separable + inverted + squeeze + head
    assert operator_parameters(OpSpec("add", 1, 1, 1, 1, 1, 1)) == 0


SPACES = st.builds(
    SearchSpace,
    input_shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3)),
    classes=st.integers(2, 12),
    stem_channels=st.sampled_from([8, 16]),
    stem_stride=st.sampled_from([1, 2]),
    strides=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=7).map(tuple),
    ops=st.lists(st.sampled_from(BLOCK_OPS), min_size=1, unique=True).map(tuple),
    channels=st.lists(st.integers(1, 64), min_size=1, max_size=5, unique=True).map(
        lambda c: tuple(sorted(c))
    ),
)


@given(SPACES, st.integers(0, 2**32))
def test_random_architectures_belong_and_survive_json(space, seed):
    architecture = space.random(np.random.default_rng(seed))
    assert space.contains(architecture)
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert Architecture.from_json(json.dumps(architecture.to_json())) == architecture
    reachable = set(space.operators())
    graph = lower(architecture)
    assert {node.op for node in graph.nodes} <= reachable
    # Every node reads what an earlier one wrote, of the size that it wrote.
    for place, node in enumerate(graph.nodes):
        assert node.output == place + 1
        assert max(node.inputs) < node.output
        assert graph.tensor_bytes[node.inputs[0]] == node.op.in_bytes
        assert graph.tensor_bytes[node.output] == node.op.out_bytes


def test_count_equals_enumeration():
    space = SearchSpace((8, 8, 1), 3, 8, 1, (1, 2, 1), ("dw3", "ir2", "skip"), (8, 16))
    choices = itertools.product(space.ops, space.channels)
    architectures = {space.build(list(c)) for c in itertools.product(list(choices), repeat=3)}
    assert space.count() == len(architectures) == 5**3
    assert SearchSpace((28, 28, 1), 10).count() == (8 * 5 + 1) ** 7


def test_operators_are_exactly_the_reachable_ones():
    space = SearchSpace((8, 8, 1), 3, 4, 1, (2, 1), ("se4", "ir2", "skip"), (8, 16))
    found = set()
    for choice in itertools.product(itertools.product(space.ops, space.channels), repeat=2):
        found |= {node.op for node in lower(space.build(list(choice))).nodes}
    assert set(space.operators()) == found
    assert space.operators() == sorted(found)


def test_random_is_uniform_over_architectures():
    space = SearchSpace((8, 8, 1), 3, 8, 1, (1,), ("dw3", "skip"), (8, 16))
    rng = np.random.default_rng(3)
    names = [space.random(rng).describe() for _ in range(3000)]
    counts = [names.count(name) for name in set(names)]
    assert len(counts) == space.count() == 3
    assert all(850 < count < 1150 for count in counts)


def test_for_input_chooses_resolution():
    for size in (24, 28, 32, 40, 96, 128, 224):
        space = SearchSpace.for_input((size, size, 3), 10)
        graph = lower(space.build([("dw3", 16)] * 7))
        assert 5 <= graph.nodes[-2].op.in_h <= 10
    assert SearchSpace.for_input((28, 28, 1), 10) == SearchSpace((28, 28, 1), 10)
    assert SearchSpace.for_input((32, 32, 3), 10, blocks=3).strides == (2, 1, 2)
    assert SearchSpace.for_input((8, 8, 1), 10, blocks=2).strides == (1, 1)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"extra": 1}, "unknown extra"),
        ({"classes": 0}, "classes"),
        ({"classes": True}, "classes"),
        ({"stem_stride": 3}, "stem_stride"),
        ({"input_shape": [28, 28]}, "input shape"),
        ({"input_shape": [28, 28, "1"]}, "input channels"),
        ({"input_shape": 28}, "lists"),
        ({"blocks": [{"op": "dw9", "channels": 8, "stride": 1}]}, "dw9"),
        ({"blocks": [{"op": "dw3", "channels": 8.0, "stride": 1}]}, "channels"),
        ({"blocks": [{"op": "dw3", "channels": 8, "stride": 4}]}, "stride"),
        ({"blocks": [{"op": "dw3", "channels": 8}]}, "blocks[0]: missing stride"),
        ({"blocks": [{"op": "skip", "channels": 8, "stride": 1}]}, "skip"),
        ({"blocks": ["dw3"]}, "blocks[0] must be an object"),
    ],
)
def test_malformed_architectures_are_refused(change, says):
    raw = Architecture((28, 28, 1), 10, 16, 2, ()).to_json() | change
    with pytest.raises(ConfigError, match=says.replace("[", r"\[").replace("]", r"\]")):
        Architecture.from_json(raw)


@pytest.mark.parametrize("text", ["{", "[]", "3", '"x"'])
def test_text_that_is_no_architecture(text):
    with pytest.raises(ConfigError):
        Architecture.from_json(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"strides": ()}, {"strides": (3,)}, {"ops": ()}, {"ops": ("dw3", "dw3")}, {"ops": ("conv",)},
        {"channels": ()}, {"channels": (16, 8)}, {"channels": (0,)}, {"stem_channels": 0}, {"stem_stride": 3},
    ],
)  # fmt: skip
def test_malformed_spaces_are_refused(fields):
    with pytest.raises(ConfigError):
        SearchSpace((28, 28, 1), 10, **fields)
