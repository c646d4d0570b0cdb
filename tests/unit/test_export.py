"""Exported files: what is in them, and that every reference computes what the network does."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from pipeline.engine.slow import slower_than_measured
from pipeline.errors import ModelError, ToolError
from pipeline.export import (
    LiteRtReference,
    TflmReference,
    compare,
    evaluate_int8,
    to_int8,
    write_tflite,
)
from pipeline.export.check import check_int8
from pipeline.export.freeze import freeze
from pipeline.export.tflite import serialize
from pipeline.space.architecture import Architecture, Block, parameters
from pipeline.space.search_space import SearchSpace
from pipeline.train.layers import Weighted
from pipeline.train.network import QatNetwork

# Every operator, and odd sizes, where SAME padding is asymmetric.
HAND_MADE = {
    "all": Architecture(
        (28, 28, 1), 10, 16, 2,
        (
            Block("ir2", 16, 1), Block("dw5", 24, 1), Block("se4", 32, 2), Block("ir4", 32, 1),
            Block("skip", 32, 2), Block("dw7", 48, 1), Block("se8", 48, 1), Block("dw3", 48, 1),
        ),
    ),
    "odd": Architecture(
        (27, 19, 3), 4, 16, 1,
        (Block("skip", 16, 2), Block("dw7", 24, 2), Block("ir6", 24, 1), Block("se4", 16, 2)),
    ),
    "stem only": Architecture((9, 10, 2), 3, 8, 2, ()),
    "ends linear": Architecture((16, 16, 1), 2, 8, 1, (Block("ir2", 8, 1), Block("skip", 8, 2))),
}  # fmt: skip


def trained(architecture: Architecture, seed: int, steps: int = 8) -> QatNetwork:
    """A network with random statistics, a few steps of training in each phase, in quantized mode."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = QatNetwork(architecture)
    height, width, channels = architecture.input_shape
    x = torch.rand(24, channels, height, width)
    y = torch.arange(24) % architecture.classes

    def steps_of(rate: float) -> None:
        optimizer = torch.optim.SGD(network.parameters(), lr=rate)
        network.train()
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    steps_of(0.05)
    network.eval()
    network.fold()
    network.mode = "observe"
    network(x)
    network.mode = "quantized"
    steps_of(0.01)
    return network.eval()


def inputs(architecture: Architecture, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (n, *architecture.input_shape)).astype(np.int8)


def check_agreement(architecture: Architecture, seed: int) -> None:
    network = trained(architecture, seed)
    model = write_tflite(network)
    report = compare(model, inputs(architecture, 12), network)
    # The two interpreters round FULLY_CONNECTED, and rarely MUL, differently.
    assert report.between("tflm", "litert").max_difference <= 2, report
    # Float arithmetic decides a rare tie otherwise; later layers spread that.
    fake = report.between("tflm", "fake_quant")
    assert fake.max_difference <= 1 and fake.mismatches <= fake.elements // 10, report


@pytest.mark.parametrize("name", HAND_MADE)
def test_references_agree(name: str) -> None:
    check_agreement(HAND_MADE[name], seed=1)


@pytest.mark.parametrize("seed", range(4))
def test_references_agree_on_random_architectures(seed: int) -> None:
    space = SearchSpace.for_input((28, 28, 1), 10)
    check_agreement(space.random(np.random.default_rng(seed)), seed)


def test_large_depthwise_weights_keep_the_whole_range_of_int8() -> None:
    """They once made the output's scale so large that ReLU6 ended at 42 of 127: a pass that no table row contains."""
    network = trained(HAND_MADE["all"], 5)
    depthwise = [
        layer for layer in network.layers if isinstance(layer, Weighted) and layer.weight.shape[1] == 1
    ]
    with torch.no_grad():
        for layer in depthwise[1:]:
            layer.weight[0] *= 1000.0 / layer.weight[0].abs().max()
    model = write_tflite(network)
    layers = importlib.import_module("pipeline.engine").load(model).layers
    found = [layer for layer in layers if layer.op.kind == "depthwise_conv2d"]
    assert max(int(layer.arrays["shift"].max()) for layer in found) > 0  # ratios above 1 were made
    assert [slower_than_measured(layer) for layer in found] == [None] * len(found)
    report = compare(model, inputs(HAND_MADE["all"], 12), network)
    fake = report.between("tflm", "fake_quant")
    assert fake.max_difference <= 1 and fake.mismatches <= fake.elements // 10, report


@pytest.mark.parametrize("name", HAND_MADE)
def test_engine_reads_the_same_graph(name: str) -> None:
    architecture = HAND_MADE[name]
    network = trained(architecture, 2, steps=1)
    engine = importlib.import_module("pipeline.engine")
    model = engine.load(write_tflite(network))

    def nameless(graph):  # type: ignore[no-untyped-def]
        return replace(graph, nodes=tuple(replace(node, name="") for node in graph.nodes))

    assert nameless(model.graph) == nameless(network.graph)
    assert model.parameters == parameters(architecture)


def test_bytes_are_reproducible_and_say_who_wrote_them() -> None:
    network = trained(HAND_MADE["all"], 3, steps=1)
    model = write_tflite(network)
    assert model == write_tflite(network) == serialize(freeze(network))
    parsed = schema.ModelT.InitFromPackedBuf(model)
    assert parsed.description.startswith(b"edgenas ")
    assert parsed.metadata[0].name == b"edgenas_version"


def test_file_holds_the_networks_own_integers() -> None:
    network = trained(HAND_MADE["all"], 4, steps=1)
    graph = schema.ModelT.InitFromPackedBuf(write_tflite(network)).subgraphs[0]
    frozen = freeze(network)
    for index, operator in enumerate(graph.operators):
        output = graph.tensors[operator.outputs[0]]
        grid = frozen.grids[network.graph.nodes[index].output]
        assert output.quantization.scale[0] == np.float32(grid.scale)
        assert output.quantization.zeroPoint[0] == grid.zero_point
        if index in frozen.weights:
            weights = graph.tensors[operator.inputs[1]]
            assert tuple(weights.shape) == frozen.weights[index].values.shape
            assert len(weights.quantization.scale) == len(weights.quantization.zeroPoint)
            per_channel = network.graph.nodes[index].op.kind != "fully_connected"
            channels = weights.shape[weights.quantization.quantizedDimension]
            assert len(weights.quantization.scale) == (channels if per_channel else 1)
            bias = graph.tensors[operator.inputs[2]].quantization.scale
            first = graph.tensors[operator.inputs[0]].quantization.scale
            np.testing.assert_allclose(bias, first * weights.quantization.scale, rtol=1e-6)
    kinds = {
        code.builtinCode for code in schema.ModelT.InitFromPackedBuf(write_tflite(network)).operatorCodes
    }
    names = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL", "MEAN", "MAX_POOL_2D")
    assert kinds == {getattr(schema.BuiltinOperator, name) for name in names}


def repacked(model: bytes, change) -> bytes:  # type: ignore[no-untyped-def]
    """`model` after `change(ModelT)`, packed by the generated code (which aligns to 4 bytes only)."""
    import flatbuffers

    parsed = schema.ModelT.InitFromPackedBuf(model)
    change(parsed)
    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_checks_find_what_must_not_be_there() -> None:
    model = write_tflite(trained(HAND_MADE["stem only"], 5, steps=1))

    def float_tensor(parsed) -> None:  # type: ignore[no-untyped-def]
        parsed.subgraphs[0].tensors[1].type = schema.TensorType.FLOAT32

    def transpose(parsed) -> None:  # type: ignore[no-untyped-def]
        parsed.operatorCodes[0].builtinCode = schema.BuiltinOperator.TRANSPOSE

    def no_scale(parsed) -> None:  # type: ignore[no-untyped-def]
        parsed.subgraphs[0].tensors[0].quantization = None

    def zero_points(parsed) -> None:  # type: ignore[no-untyped-def]
        weights = parsed.subgraphs[0].tensors[parsed.subgraphs[0].operators[0].inputs[1]]
        weights.quantization.zeroPoint = weights.quantization.zeroPoint[:1]

    def int32_output(parsed) -> None:  # type: ignore[no-untyped-def]
        parsed.subgraphs[0].tensors[parsed.subgraphs[0].outputs[0]].type = schema.TensorType.INT32

    cases = {float_tensor: "type 0", transpose: "TRANSPOSE", no_scale: "without a scale",
             zero_points: "zero points", int32_output: "not INT8"}  # fmt: skip
    for change, message in cases.items():
        with pytest.raises(ModelError, match=message):
            check_int8(repacked(model, change))
    with pytest.raises(ModelError, match="multiple of 16"):
        for filler in range(4):  # some length puts a buffer off 16 bytes
            check_int8(repacked(model, lambda m, n=filler: setattr(m, "description", "x" * (4 * n))))


@pytest.mark.parametrize("length", [0, 7, 100, 1000, -400])
def test_damage_is_an_error_without_traceback(length: int) -> None:
    model = write_tflite(trained(HAND_MADE["stem only"], 5, steps=1))[:length]
    for reader in (check_int8, TflmReference, LiteRtReference):
        with pytest.raises(ModelError):
            reader(model)


def test_wrong_inputs_are_refused() -> None:
    architecture = HAND_MADE["stem only"]
    model = write_tflite(trained(architecture, 6, steps=1))
    x = inputs(architecture, 2)
    for reference in (TflmReference(model), LiteRtReference(model)):
        assert reference.run(x).shape == (2, 3)
        for bad in (x[:, :4], x.astype(np.uint8), x[0], x[:0]):
            with pytest.raises(ModelError):
                reference.run(bad)


def test_accuracy_counts_the_references_answers() -> None:
    architecture = HAND_MADE["odd"]
    network = trained(architecture, 7)
    model = write_tflite(network)
    images = np.random.default_rng(0).integers(0, 256, (37, *architecture.input_shape), dtype=np.uint8)
    answers = LiteRtReference(model).run((images.astype(np.int16) - 128).astype(np.int8)).argmax(1)
    labels = answers.copy()
    labels[:10] = (labels[:10] + 1) % 4
    np.testing.assert_array_equal(to_int8(images), (images.astype(np.int16) - 128).astype(np.int8))
    assert evaluate_int8(model, images, labels) == pytest.approx(27 / 37)
    assert evaluate_int8(model, images, labels, workers=5) == pytest.approx(27 / 37)
    with pytest.raises(ModelError, match="37 images but"):
        evaluate_int8(model, images, labels[:5])


def test_missing_interpreter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("pipeline.export.reference.importlib.import_module", missing)
    with pytest.raises(ToolError, match="tflite-micro"):
        TflmReference(b"")
    with pytest.raises(ToolError, match="LiteRT"):
        LiteRtReference(b"")
