"""Cell spaces: counted, lowered, trained, exported and run like any other architecture."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from unittest import mock

import numpy as np
import pytest
import torch

from pipeline.engine import load
from pipeline.engine.host import HostModel
from pipeline.errors import ConfigError
from pipeline.export import TflmReference, compare, write_tflite
from pipeline.export.freeze import freeze
from pipeline.space.architecture import Architecture, lower, parameters
from pipeline.space.cells import CELL_OPS, CellSpace, edges, node_count
from pipeline.train.layers import Weighted
from pipeline.train.network import QatNetwork

SPACE = CellSpace((12, 10, 1), 4, 8, 1, channels=(8, 12, 12), strides=(1, 2, 1))
PUBLISHED = CellSpace((28, 28, 1), 10)


def trained(architecture, seed: int) -> QatNetwork:
    from test_export import trained as train

    return train(architecture, seed, steps=3)


@pytest.mark.parametrize("nodes", [1, 2])
def test_count_equals_enumeration(nodes: int) -> None:
    space = CellSpace(
        (4, 4, 1), 2, 4, 1, channels=(4,) if nodes == 2 else (4, 4), strides=(1,) * (3 - nodes), nodes=nodes
    )
    every = {space.build(path) for path in product(range(3), repeat=space.positions)}
    assert len(every) == space.count()
    assert len({space.random(np.random.default_rng(i)) for i in range(20 * len(every))}) == len(every)


def test_published_space_has_thirty_edges_and_three_operators() -> None:
    assert (PUBLISHED.positions, PUBLISHED.count()) == (30, 3**30)
    assert edges(2) == ((0, 0), (1, 0), (1, 1)) and node_count(10) == 4
    with pytest.raises(ConfigError, match="9 edges"):
        node_count(9)


@pytest.mark.parametrize("seed", range(3))
def test_json_and_path_round_trips(seed: int) -> None:
    architecture = PUBLISHED.random(np.random.default_rng(seed))
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert PUBLISHED.build(PUBLISHED.path(architecture)) == architecture
    assert architecture.describe().count("cell") == 3


def test_operators_are_those_of_all_architectures() -> None:
    found = {node.op for i in range(40) for node in lower(SPACE.random(np.random.default_rng(i))).nodes}
    assert found == set(SPACE.operators())


def test_a_cell_is_the_sum_that_its_edges_say() -> None:
    """Against a direct evaluation in torch, operators without weights only."""
    space = CellSpace((5, 6, 1), 3, 4, 1, channels=(4,), strides=(1,), nodes=3)
    rng = np.random.default_rng(3)
    path = tuple(int(i) for i in rng.integers(1, 3, size=space.positions))
    network = QatNetwork(space.build(path)).eval()
    x = torch.rand(2, 1, 5, 6)
    values = {}

    def keep(name):  # type: ignore[no-untyped-def]
        return lambda _m, _i, output: values.update({name: output})

    network.layers[0].register_forward_hook(keep("stem"))
    network.layers[-1].register_forward_hook(lambda _m, inputs, _o: values.update(mean=inputs[0]))
    network(x)
    nodes = [values["stem"]]
    for node in range(3):
        total = 0
        for (n, source), op in zip(edges(3), path, strict=True):
            if n == node:
                y = nodes[source]
                total = total + (torch.nn.functional.max_pool2d(y, 3, 1, 1) if space.ops[op] == "pool" else y)
        nodes.append(total)
    expected = sum(nodes[1:]).mean((2, 3), keepdim=True)
    assert torch.allclose(values["mean"], expected, atol=1e-5)


@pytest.mark.parametrize("op", CELL_OPS)
def test_the_classifier_is_exported_as_it_was_trained(op: str) -> None:
    """Integers on the file's grids against what fine-tuning saw, before rounding to the output's grid."""
    network = trained(SPACE.build((CELL_OPS.index(op),) * SPACE.positions), 1)
    classifier, seen, forward = network.layers[-1], [], Weighted.forward_quantized

    def note(layer: Weighted, x: torch.Tensor, *scales: torch.Tensor) -> torch.Tensor:
        y = forward(layer, x, *scales)
        if layer is classifier:
            seen.append((x.detach().double(), y.detach().double()))
        return y

    with mock.patch.object(Weighted, "forward_quantized", note):
        network.int8_each(np.random.default_rng(0).integers(-128, 128, (12, 12, 10, 1)).astype(np.int8))
    (x, y), frozen = seen[0], freeze(network)
    weights, scale = list(frozen.weights.values())[-1], frozen.grids[network.graph.nodes[-1].inputs[0]].scale
    arrived = torch.round(x.flatten(1) / scale).numpy()
    sums = arrived @ weights.values.reshape(4, -1).astype(np.float64).T + weights.biases
    exact = sums * scale * weights.scales[0]
    assert np.abs(y.flatten(1).numpy() - exact).max() < 0.01 * frozen.grids[-1].scale
    assert np.ptp(exact) > 10 * frozen.grids[-1].scale


def cases():  # type: ignore[no-untyped-def]
    for op in range(len(CELL_OPS)):
        yield f"all {CELL_OPS[op]}", SPACE.build((op,) * SPACE.positions)
    for nodes in (1, 2):
        bare = CellSpace((9, 9, 2), 3, 8, 2, channels=(8,), strides=(1,), nodes=nodes)
        yield f"bare {nodes}", bare.build((2,) * bare.positions)
    for seed in range(2):
        yield f"random {seed}", SPACE.random(np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("name", "architecture"), list(cases()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_stage_gives_the_same_bytes(name: str, architecture) -> None:
    """The network's graph, the file's, and what TFLM's kernels, LiteRT and the C engine compute from it."""
    network = trained(architecture, 1)
    content = write_tflite(network)
    model = load(content)
    graph = replace(network.graph, nodes=tuple(replace(node, name="") for node in network.graph.nodes))
    assert replace(model.graph, nodes=tuple(replace(n, name="") for n in model.graph.nodes)) == graph
    assert model.parameters == parameters(architecture)
    x = np.random.default_rng(0).integers(-128, 128, (12, *architecture.input_shape)).astype(np.int8)
    report = compare(content, x, network)
    assert report.between("tflm", "litert").max_difference <= 2, report
    fake = report.between("tflm", "fake_quant")
    # Stages may round a sum of sums one apart; of pools alone, one there is worth 0.8 steps of the classifier's output.
    astray = 1 / 3 if name == "all pool" else 1 / 10
    assert fake.max_difference <= 1 and fake.mismatches <= fake.elements * astray, report
    assert np.array_equal(
        HostModel(model, sanitize=True).run(x).reshape(12, -1), TflmReference(content).run(x).reshape(12, -1)
    )
