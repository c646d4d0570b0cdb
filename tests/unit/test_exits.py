"""Early exits from the architecture to generated C: against LiteRT, TFLite Micro, and the rule written anew."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from test_export import HAND_MADE, inputs, trained

from pipeline.data import DataSet
from pipeline.engine import emit_c, load
from pipeline.engine.emit_exits import _DECIDE
from pipeline.engine.host import HostModel
from pipeline.errors import ConfigError, ModelError
from pipeline.export import LiteRtReference, TflmReference, compare
from pipeline.export.check import check_int8
from pipeline.export.exits import KeptExits, keep_exits
from pipeline.export.freeze import freeze
from pipeline.export.quantized import QuantizedNetwork
from pipeline.export.tflite import serialize
from pipeline.search.exitconfig import ExitConfig
from pipeline.space.architecture import Architecture, Block, lower, parameters
from pipeline.space.exits import METADATA, ExitRule, margins
from pipeline.space.graph import OpGraph
from pipeline.space.search_space import SearchSpace
from pipeline.train import train_qat
from pipeline.train.config import TrainConfig
from pipeline.train.network import QatNetwork
from pipeline.train.optimizer import set_rate, sgd

ARCHITECTURE = Architecture(
    (14, 14, 1), 5, 8, 1,
    (Block("dw3", 16, 2), Block("ir2", 16, 1), Block("se4", 24, 2), Block("dw3", 24, 1)),
    exits=(0, 2),
)  # fmt: skip


@pytest.fixture(scope="module")
def network():  # type: ignore[no-untyped-def]
    return trained(ARCHITECTURE, 1)


@pytest.fixture(scope="module")
def frozen(network) -> QuantizedNetwork:  # type: ignore[no-untyped-def]
    return freeze(network)


def nameless(graph: OpGraph) -> OpGraph:
    return replace(graph, nodes=tuple(replace(node, name="") for node in graph.nodes))


def leave_by_hand(outputs: list[np.ndarray], thresholds: tuple[int, ...]) -> np.ndarray:
    """The rule once more, with sorted Python integers."""
    rows = []
    for image in range(len(outputs[0])):
        for number, output in enumerate(outputs):
            ordered = sorted(int(v) for v in output[image])
            if number == len(thresholds) or ordered[-1] - ordered[-2] >= thresholds[number]:
                rows.append([*output[image].tolist(), number])
                break
    return np.array(rows, np.int8)


# -- architectures and spaces -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exits", "words"),
    [
        ((3,), "after block 3, the last one"),
        ((4,), "no block 4"),
        ((-1,), "no block -1"),
        ((True,), "no block True"),
        ((2, 1), "increasing"),
        ((1, 1), "increasing"),
    ],
)
def test_exits_that_cannot_be(exits: tuple[int, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(ARCHITECTURE, exits=exits)


def test_json_names_exits_only_where_there_are_some() -> None:
    assert Architecture.from_json(ARCHITECTURE.to_json()) == ARCHITECTURE
    assert ARCHITECTURE.to_json()["exits"] == [0, 2]
    plain = replace(ARCHITECTURE, exits=())
    assert "exits" not in plain.to_json() and Architecture.from_json(plain.to_json()) == plain
    assert ARCHITECTURE.describe().count("exit") == 2
    with pytest.raises(ConfigError, match="must be lists"):
        Architecture.from_json({**ARCHITECTURE.to_json(), "exits": 2})


def test_a_space_carries_its_exits() -> None:
    space = SearchSpace.for_input((28, 28, 1), 10, exits=(2, 4))
    found = space.random(np.random.default_rng(0))
    assert found.exits == (2, 4) and space.contains(found)
    assert space.contains(replace(found, exits=(4,))) and not space.contains(replace(found, exits=(3,)))
    operators = set(space.operators())
    for seed in range(20):
        architecture = space.random(np.random.default_rng(seed))
        assert {node.op for node in lower(architecture).nodes} <= operators
    assert "exits" not in SearchSpace.for_input((28, 28, 1), 10).to_json()
    with pytest.raises(ConfigError, match="last one"):
        SearchSpace.for_input((28, 28, 1), 10, exits=(6,))


# -- the rule -----------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_rule(data: st.DataObject) -> None:
    classes, exits = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 3))
    value = st.integers(-128, 127)
    row = st.lists(value, min_size=classes, max_size=classes)
    three = st.lists(row, min_size=3, max_size=3)
    outputs = [np.array(data.draw(three), np.int8) for _ in range(exits + 1)]
    thresholds = tuple(data.draw(st.integers(0, 255)) for _ in range(exits))
    rule = ExitRule(thresholds)
    expected = leave_by_hand(outputs, thresholds)
    np.testing.assert_array_equal(rule.result(outputs), expected)
    np.testing.assert_array_equal(rule.taken(outputs), expected[:, -1])
    assert ExitRule.from_bytes(rule.to_bytes()) == rule


def test_margins_of_ties_and_extremes() -> None:
    rows = np.array([[127, 127, -128], [-128, 127, -128], [-128, -128, -128], [3, 5, 4]], np.int8)
    assert margins(rows).tolist() == [0, 255, 0, 1]


@pytest.mark.parametrize("thresholds", [(), (256,), (-1,), (1.5,), (True,)])
def test_thresholds_no_margin_can_have(thresholds: tuple[int, ...]) -> None:
    with pytest.raises(ModelError):
        ExitRule(thresholds)


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xfe", b"{}", b"[1]", b"3", b'{"rule": "margin", "thresholds": 3}']
)
def test_damaged_thresholds(raw: bytes) -> None:
    with pytest.raises(ModelError, match="damaged"):
        ExitRule.from_bytes(raw)


def test_unknown_rule() -> None:
    with pytest.raises(ModelError, match="entropy"):
        ExitRule.from_bytes(b'{"rule": "entropy", "thresholds": [1]}')


@pytest.fixture(scope="module")
def decide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated decision alone: reads seven logits and a threshold, says whether it would leave."""
    folder = tmp_path_factory.mktemp("decide")
    text = (
        "#include <stdint.h>\n#include <stdio.h>\n#define MODEL_OUTPUT_BYTES 8\n"
        "static int8_t arena[8];\n#define AT(offset) (arena + (offset))\n"
        f"const int8_t *model_output(void); uint32_t model_exit(void);\n{_DECIDE}"
        "int main(void) {\n    while (fread(arena, 1, 8, stdin) == 8) {\n"
        "        const int32_t threshold = (uint8_t)arena[7];\n"
        "        putchar(model_is_sure(0, threshold));\n        model_leave(0, 5);\n"
        "        if (model_exit() != 5u || model_output() != arena) { return 1; }\n    }\n    return 0;\n}\n"
    )
    (folder / "decide.c").write_text(text)
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    subprocess.run([*command, "-o", str(folder / "decide"), str(folder / "decide.c")], check=True)
    return folder / "decide"


def test_generated_decision_is_the_rule(decide: Path) -> None:
    rng = np.random.default_rng(3)
    logits = rng.integers(-128, 128, (20000, 7)).astype(np.int8)
    logits[::3] = rng.integers(-128, -125, (len(logits[::3]), 7))  # ties, at the lower end
    logits[1::3] = rng.integers(124, 128, (len(logits[1::3]), 7))
    thresholds = rng.integers(0, 256, len(logits)).astype(np.uint8)
    thresholds[::2] = rng.integers(0, 4, len(thresholds[::2]))
    stream = np.concatenate([logits.view(np.uint8), thresholds[:, None]], axis=1).tobytes()
    done = subprocess.run([decide], input=stream, capture_output=True, timeout=60, check=True)
    ordered = np.sort(logits.astype(int), axis=1)
    expected = ordered[:, -1] - ordered[:, -2] >= thresholds
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.uint8).astype(bool), expected)
    assert 0 < expected.mean() < 1


# -- files --------------------------------------------------------------------------------------------------


def test_an_exit_weight_by_which_heads_would_learn_faster_than_torch_can_hold_is_refused() -> None:
    heads, rate = [torch.nn.Parameter(torch.zeros(2, 2))], TrainConfig().learning_rate
    for weight in (1e-300, 1e-45, rate / 3.1e38):
        with pytest.raises(ConfigError, match=r"train\.exit_weight = .* is too small") as caught:
            TrainConfig(exit_weight=weight)
        assert "at least 5.1e-40" in caught.value.hint
    assert TrainConfig(exit_weight=5.1e-40)
    optimizer = sgd(torch.nn.Linear(1, 1), TrainConfig(exit_weight=rate / 2.9e38), heads)
    set_rate(optimizer, rate)
    heads[0].grad = torch.zeros(2, 2)
    optimizer.step()  # the fastest that is taken is no error of torch's


def test_an_exit_weight_with_which_nothing_is_learnt_is_refused() -> None:
    """Beyond it trainings ended in chance, which nothing said before the export."""
    assert TrainConfig(exit_weight=30.0).exit_weight == 30.0
    for weight in (31.0, 1e6, 1e300):
        with pytest.raises(ConfigError, match=r"train\.exit_weight = \S+ is too large") as caught:
            TrainConfig(exit_weight=weight)
        assert caught.value.key == "exit_weight" and "at most 30" in caught.value.hint
    for name, weight, how in (
        ("loss_weight", 31.0, "large"),
        ("head_weight", 31.0, "large"),
        ("head_weight", 1e-300, "small"),
    ):
        with pytest.raises(ConfigError, match=rf"search\.exits\.{name} = \S+ is too {how}") as caught:
            ExitConfig(search=True, expected_latency_ms=1.0, **{name: weight})
        assert caught.value.key == name


def test_heads_learn_from_their_losses_in_full_and_blocks_by_exit_weight() -> None:
    config = TrainConfig(momentum=0.0, weight_decay=0.3, exit_weight=0.25)
    torch.manual_seed(0)
    network, rate = QatNetwork(ARCHITECTURE), 0.1
    optimizer = sgd(network, config, network.heads)
    set_rate(optimizer, rate)
    losses = [y.square().sum() for y in network.each(torch.rand(3, 1, 14, 14))]
    own = torch.autograd.grad(sum(losses[:-1]), network.heads, retain_graph=True)
    sum((config.exit_weight * loss for loss in losses[:-1]), losses[-1]).backward()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer.step()
    heads = {id(p): gradient for p, gradient in zip(network.heads, own, strict=True)}
    assert len(heads) == 2 * len(ARCHITECTURE.exits)
    for name, p in network.named_parameters():
        if p.grad is not None:
            decay = config.weight_decay * before[name] * (p.ndim > 1)
            step = heads.get(id(p), p.grad) + decay
            torch.testing.assert_close(p.detach(), before[name] - rate * step, rtol=1e-4, atol=1e-6)


def test_training_lets_heads_learn_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def note(network: QatNetwork, config: TrainConfig, heads: Sequence[torch.nn.Parameter] = ()) -> Any:
        given.append(sum(p is head for p in heads for head in network.heads))
        return sgd(network, config, heads)

    monkeypatch.setattr("pipeline.train.trainer.sgd", note)
    x, y = np.zeros((8, 14, 14, 1), np.uint8), np.arange(8) % 5
    names = tuple("abcde")
    data = DataSet("flat", x, y, x, y, x, y, ARCHITECTURE.classes, names, "here")
    train_qat(ARCHITECTURE, data, TrainConfig(float_epochs=1, qat_epochs=1, batch_size=4, threads=1))
    assert given == [2 * len(ARCHITECTURE.exits)] * len(given) and len(given) >= 2  # both phases


def test_one_file_with_several_outputs(frozen: QuantizedNetwork) -> None:
    content = serialize(replace(frozen, exit_rule=ExitRule((3, 9))))
    check_int8(content)
    raw = schema.ModelT.InitFromPackedBuf(content)
    names = [raw.subgraphs[0].tensors[t].name.decode() for t in raw.subgraphs[0].outputs]
    assert names == ["exit0/classifier", "exit2/classifier", "head/classifier"]
    assert [entry.name for entry in raw.metadata] == [b"edgenas_version", METADATA.encode()]
    runner = Interpreter(model_content=content).get_signature_runner()
    x = inputs(ARCHITECTURE, 1)
    by_name = runner(input=x)
    assert sorted(by_name) == ["exit0", "exit2", "head"]
    in_order = LiteRtReference(content).run_each(x)
    assert all(output.shape == (1, 5) for output in in_order)


def test_interpreters_and_the_network_agree_on_every_output(network, frozen) -> None:  # type: ignore[no-untyped-def]
    content = serialize(frozen)
    report = compare(content, inputs(ARCHITECTURE, 20), network)
    assert report.between("tflm", "litert").elements == 20 * 5 * 3
    assert report.between("tflm", "litert").max_difference <= 2
    fake = report.between("tflm", "fake_quant")
    assert fake.max_difference <= 1 and fake.mismatches <= fake.elements // 10


@pytest.mark.parametrize("kept", [(0, 1), (0,), (1,), ()])
def test_dropping_exits_leaves_the_other_outputs_alone(network, frozen, kept: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    rule = ExitRule((7,) * len(kept)) if kept else None
    content = serialize(keep_exits(frozen, kept, rule))
    x = inputs(ARCHITECTURE, 20)
    everything = TflmReference(serialize(frozen)).run_each(x)
    left = TflmReference(content).run_each(x)
    for output, position in zip(left, (*kept, 2), strict=True):
        np.testing.assert_array_equal(output, everything[position])
    architecture = replace(ARCHITECTURE, exits=tuple(ARCHITECTURE.exits[i] for i in kept))
    model = load(content)
    assert nameless(model.graph) == nameless(lower(architecture))
    assert model.parameters == parameters(architecture)
    assert compare(content, x, KeptExits(network, kept)).between("tflm", "fake_quant").max_difference <= 1


def test_a_graph_without_exits_is_left_as_it_is() -> None:
    alone = freeze(trained(HAND_MADE["all"], 1, steps=1))
    assert serialize(keep_exits(alone, (), None)) == serialize(alone)


@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_engine_leaves_where_the_rule_says(frozen: QuantizedNetwork, quantile: float) -> None:
    x = inputs(ARCHITECTURE, 200, seed=5)
    everything = TflmReference(serialize(frozen)).run_each(x)
    thresholds = tuple(int(np.quantile(margins(output), quantile)) for output in everything[:-1])
    content = serialize(replace(frozen, exit_rule=ExitRule(thresholds)))
    expected = leave_by_hand(TflmReference(content).run_each(x), thresholds)
    model = load(content)
    assert model.exit_rule == ExitRule(thresholds) and model.output_bytes == 6
    np.testing.assert_array_equal(HostModel(model, sanitize=True).run(x), expected)
    if quantile == 0.5:
        assert set(expected[:, -1]) == {0, 1, 2}


def test_header_says_what_comes_back(frozen: QuantizedNetwork) -> None:
    model = load(serialize(replace(frozen, exit_rule=ExitRule((3, 9)))))
    header = emit_c(model)["model.h"]
    assert "#define MODEL_OUTPUT_BYTES 6" in header and "#define MODEL_EXITS 2" in header
    assert "model_exit" not in emit_c(load(serialize(keep_exits(frozen, (), None))))["model.h"]


# -- files from elsewhere -----------------------------------------------------------------------------------


def changed(content: bytes, change) -> bytes:  # type: ignore[no-untyped-def]
    raw = schema.ModelT.InitFromPackedBuf(content)
    change(raw)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(raw.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_several_outputs_without_thresholds(frozen: QuantizedNetwork) -> None:
    with pytest.raises(ModelError, match="3 outputs but no thresholds"):
        load(serialize(frozen))


def rule_of(*thresholds: int):  # type: ignore[no-untyped-def]
    def change(raw) -> None:  # type: ignore[no-untyped-def]
        raw.buffers[raw.metadata[1].buffer].data = np.frombuffer(ExitRule(thresholds).to_bytes(), np.uint8)

    return change


def reorder(raw) -> None:  # type: ignore[no-untyped-def]
    raw.subgraphs[0].outputs = raw.subgraphs[0].outputs[::-1]


def twice(raw) -> None:  # type: ignore[no-untyped-def]
    first = raw.subgraphs[0].outputs[0]
    raw.subgraphs[0].outputs = [first, first, raw.subgraphs[0].outputs[-1]]


def feature_map(raw) -> None:  # type: ignore[no-untyped-def]
    raw.subgraphs[0].outputs = [raw.subgraphs[0].operators[0].outputs[0], *raw.subgraphs[0].outputs[1:]]


def the_input(raw) -> None:  # type: ignore[no-untyped-def]
    raw.subgraphs[0].outputs = [raw.subgraphs[0].inputs[0], *raw.subgraphs[0].outputs[1:]]


def no_buffer(raw) -> None:  # type: ignore[no-untyped-def]
    raw.metadata[1].buffer = 10_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rule_of(1), "3 outputs but thresholds for 1 exits"),
        (reorder, "order in which they are computed"),
        (twice, "order in which they are computed"),
        (feature_map, "values"),
        (the_input, "values"),
        (no_buffer, "does not exist"),
    ],
)
def test_files_that_contradict_themselves(frozen: QuantizedNetwork, change, words: str) -> None:  # type: ignore[no-untyped-def]
    content = serialize(replace(frozen, exit_rule=ExitRule((3, 9))))
    with pytest.raises(ModelError, match=words):
        load(changed(content, change))


def test_as_many_thresholds_as_exits(frozen: QuantizedNetwork) -> None:
    with pytest.raises(ModelError, match="1 thresholds for 2 exits"):
        serialize(replace(frozen, exit_rule=ExitRule((3,))))
