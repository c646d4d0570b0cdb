"""Training: arithmetic against independent references, exact resume, honest errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.dataset import DataSet
from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.export.freeze import freeze
from pipeline.search.cell_supernet import CellSupernet
from pipeline.space.architecture import Architecture, Block
from pipeline.space.cells import CELL_OPS, CellArchitecture, CellSpace
from pipeline.train import Progress, TrainConfig, train_qat
from pipeline.train.batches import Batches, to_input
from pipeline.train.layers import SCALE_FLOOR, Range, Weighted, fake_quantize
from pipeline.train.memory import keep_freed_memory
from pipeline.train.network import QatNetwork

ARCHITECTURE = Architecture(
    (12, 12, 1), 3, 8, 2, (Block("ir2", 8, 1), Block("se4", 16, 2), Block("dw3", 16, 1))
)
CONFIG = TrainConfig(
    float_epochs=2, qat_epochs=2, batch_size=32, calibration_batches=3, threads=1, checkpoint_s=0.0
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def stripes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images with a bright top, middle or bottom third: learnt in a few steps."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.integers(0, 100, (n, 12, 12, 1), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        image[4 * label : 4 * label + 4] += 120
    return x, y


def data_set() -> DataSet:
    splits = [stripes(n, seed) for seed, n in enumerate((330, 60, 90))]
    (x_train, y_train), (x_val, y_val), (x_test, y_test) = splits
    return DataSet(
        "stripes", x_train, y_train, x_val, y_val, x_test, y_test,
        classes=3, class_names=("top", "middle", "bottom"), source="memory",
    )  # fmt: skip


def states_equal(a: QatNetwork, b: QatNetwork) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_learns_and_reports() -> None:
    seen: list[Progress] = []
    result = train_qat(ARCHITECTURE, data_set(), CONFIG, seed=1, on_step=seen.append)
    assert result.float_accuracy > 0.9 and result.fake_quant_accuracy > 0.9
    assert [entry["phase"] for entry in result.history] == ["float", "float", "qat", "qat"]
    assert [p.step for p in seen] == list(range(1, 4 * 10 + 1))
    assert sum(p.val_accuracy is not None for p in seen) == 4
    assert result.network.mode == "quantized" and result.network.folded


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop", [5, 20, 21, 33, 40])
def test_resume_gives_the_same_network(tmp_path: Path, stop: int) -> None:
    whole = train_qat(ARCHITECTURE, data_set(), CONFIG, seed=1)

    def interrupt(progress: Progress) -> None:
        if progress.step == stop:
            raise Interrupted

    file = tmp_path / "train.ckpt"
    with pytest.raises(Interrupted):
        train_qat(ARCHITECTURE, data_set(), CONFIG, seed=1, checkpoint=file, on_step=interrupt)
    steps: list[int] = []
    resumed = train_qat(
        ARCHITECTURE, data_set(), CONFIG, seed=1, checkpoint=file, on_step=lambda p: steps.append(p.step)
    )
    assert steps == list(range(stop + 1, 41))
    assert states_equal(whole.network, resumed.network)
    assert (whole.float_accuracy, whole.fake_quant_accuracy) == (
        resumed.float_accuracy,
        resumed.fake_quant_accuracy,
    )
    assert [e["loss"] for e in whole.history] == [e["loss"] for e in resumed.history]


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "train.ckpt"
    first = train_qat(ARCHITECTURE, data_set(), CONFIG, seed=1, checkpoint=file)
    steps: list[Progress] = []
    again = train_qat(ARCHITECTURE, data_set(), CONFIG, seed=1, checkpoint=file, on_step=steps.append)
    assert not steps and states_equal(first.network, again.network)
    assert first.float_accuracy == again.float_accuracy
    with pytest.raises(ConfigError, match="another architecture"):
        train_qat(ARCHITECTURE, data_set(), CONFIG, seed=2, checkpoint=file)
    fewer = replace(data_set(), x_val=data_set().x_val[1:], y_val=data_set().y_val[1:])
    with pytest.raises(ConfigError, match="data set"):  # its history would be of two validation splits
        train_qat(ARCHITECTURE, fewer, CONFIG, seed=1, checkpoint=file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ConfigError, match="cannot be read") as error:
        train_qat(ARCHITECTURE, data_set(), CONFIG, seed=1, checkpoint=file)
    assert "delete" in error.value.hint


def test_seed_decides_the_outcome() -> None:
    short = TrainConfig(float_epochs=1, qat_epochs=1, batch_size=64, calibration_batches=1, threads=1)
    a, b, c = (train_qat(ARCHITECTURE, data_set(), short, seed=seed).network for seed in (1, 1, 2))
    assert states_equal(a, b) and not states_equal(a, c)


def test_errors() -> None:
    wrong = Architecture((12, 12, 1), 4, 8, 2, ())
    with pytest.raises(DataError, match="4 classes"):
        train_qat(wrong, data_set(), CONFIG)
    with pytest.raises(ConfigError, match="diverged"):
        train_qat(ARCHITECTURE, data_set(), TrainConfig(batch_size=32, learning_rate=1e30, threads=1))
    for bad in ({"float_epochs": 0}, {"learning_rate": 0.0}, {"label_smoothing": 1.0}, {"shift": -1}):
        with pytest.raises(ConfigError):
            TrainConfig(**bad)  # type: ignore[arg-type]


def random_network(architecture: Architecture, seed: int) -> QatNetwork:
    """Random weights and batch statistics, not merely initial ones."""
    torch.manual_seed(seed)
    network = QatNetwork(architecture).train()
    height, width, channels = architecture.input_shape
    for _ in range(3):
        network(torch.rand(16, channels, height, width))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


def cells(ops: str) -> CellArchitecture:
    """Two cells of four nodes whose edges have the operators that the letters of `ops` begin, in turn."""
    named = {name[0]: name for name in CELL_OPS}
    each = tuple(named[ops[i % len(ops)]] for i in range(10))
    return CellArchitecture((12, 12, 1), 3, 8, 2, channels=(8, 8), strides=(1, 1), cells=(each, each))


@pytest.mark.parametrize("architecture", [ARCHITECTURE, cells("cpi")], ids=["blocks", "cells"])
def test_folding_changes_nothing(architecture: Architecture) -> None:
    network = random_network(architecture, 0)
    network.train()(torch.rand(64, 1, 12, 12))  # running statistics that are not those of the start
    network.eval()
    x = torch.rand(8, 1, 12, 12)
    before = network(x)
    network.fold()
    torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("ops", ["i", "ic", "p"])
def test_cells_of_identities_do_not_blow_up(ops: str) -> None:
    """Each doubles what it adds to, 15 times a cell: 225 times here, if nothing standardized it."""
    torch.manual_seed(0)
    x = torch.rand(64, 1, 12, 12)
    assert QatNetwork(cells(ops)).train()(x).abs().max() < 10
    net = CellSupernet(CellSpace((12, 12, 1), 3, 8, 2, channels=(8, 8), strides=(1, 1)), 0)
    assert net(x, net.space.path(cells(ops))).abs().max() < 10


def test_a_dead_channel_leaves_the_classifier_its_grid() -> None:
    """Its weight counts for nothing, yet the weights share one INT8 scale."""
    dense = next(n.op for n in cells("i").lower().nodes if n.op.kind == "fully_connected")
    layer = Weighted(dense, normalize=False, gate=False, standardize=True).train()
    x = torch.randn(256, 8, 1, 1) * 3 + 5
    x[:, 2] = 0.0
    for _ in range(60):
        layer(x)
    before, wanted = layer.weight.detach().clone(), layer.eval()(x)
    layer.fold()
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)
    assert layer.deployed()[0].abs().amax() < before.abs().amax()


@pytest.mark.parametrize("kind", ["conv2d", "depthwise_conv2d", "fully_connected"])
def test_a_step_of_fine_tuning_does_not_grow_with_what_arrives(kind: str) -> None:
    """Moved into the weights, a normalization of inputs a hundred times as large makes it 10,000 times as large."""
    op = next(node.op for node in cells("ic").lower().nodes[1:] if node.op.kind == kind)
    dense = kind == "fully_connected"
    found = []
    for size in (1.0, 100.0):
        torch.manual_seed(0)
        x = (torch.randn(64, op.in_c, op.in_h, op.in_w) + (3.0 if dense else 0.0)) * size
        layer = Weighted(op, normalize=not dense, gate=False, standardize=dense, hold=True).train()
        for _ in range(100):  # until the running statistics have forgotten their start
            layer(x)
        layer.eval().fold()
        before = layer(x)
        before.square().mean().backward()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.sub_(0.01 * parameter.grad)
        found.append(layer(x) - before)
    assert found[0].abs().max() > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-4)


def test_a_batch_of_one_trains_cells() -> None:
    network = QatNetwork(cells("ic")).train()
    network(torch.rand(1, 1, 12, 12)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_fake_quantize_equals_torch() -> None:
    torch.manual_seed(0)
    x = torch.randn(1000, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    scale, zero = torch.tensor(0.0173), torch.tensor(-5, dtype=torch.int32)
    mine = fake_quantize(x, scale, zero)
    theirs = torch.fake_quantize_per_tensor_affine(other, scale, zero, -128, 127)
    torch.testing.assert_close(mine, theirs)
    weights = torch.randn(1000)
    (mine * weights).sum().backward()
    (theirs * weights).sum().backward()
    inside = (x.detach() / scale + zero - 127.5).abs() > 1  # the two differ in half a step at the edges
    inside &= (x.detach() / scale + zero + 128.5).abs() > 1
    torch.testing.assert_close(x.grad[inside], other.grad[inside])


def test_fake_quantize_applies_relu6_by_saturation() -> None:
    x = torch.linspace(-3, 9, 100)
    wide = torch.tensor(12 / 255), torch.tensor(-64, dtype=torch.int32)
    y = fake_quantize(x, *wide, "relu6")
    assert y.min() == 0 and abs(float(y.max()) - 6) < 12 / 255
    assert fake_quantize(x, *wide).min() < -2


def test_range_includes_zero_and_has_a_floor() -> None:
    observed = Range()
    observed.observe(torch.full((1, 1, 2, 2), 3.0))
    observed.observe(torch.tensor([2.0, 5.0]).reshape(1, 1, 1, 2))
    scale, zero = observed.quantization()
    assert float(scale) == pytest.approx(4.0 / 255) and int(zero) == -128  # mean of maxima 3 and 5
    dead = Range()
    dead.observe(torch.zeros(1, 1, 2, 2))
    assert float(dead.quantization()[0]) == pytest.approx(SCALE_FLOOR)
    clipped = Range()
    clipped.observe(torch.full((1, 1, 1, 1), 50.0), "relu6")
    assert float(clipped.quantization()[0]) == pytest.approx(6 / 255)


def test_dead_squeeze_keeps_integers_in_bounds() -> None:
    """A squeeze that is always 0 has made scales of 0, ratios of 256 and biases beyond int32 elsewhere."""
    network = random_network(ARCHITECTURE, 1)
    network.fold()
    convolutions = [layer for layer in network.layers if isinstance(layer, Weighted)]
    gate = next(index for index, layer in enumerate(convolutions) if layer.gate)
    with torch.no_grad():
        convolutions[gate - 1].bias.fill_(-50.0)  # its ReLU6 never opens
        convolutions[gate].weight[0] = 0.0
        convolutions[0].weight[0] = 1e-9
        convolutions[0].bias[0] = 3.0
    network.mode = "observe"
    network(torch.rand(16, 1, 12, 12))
    frozen = freeze(network)  # checks ratios and biases
    squeeze = network.graph.nodes[network_index(network, convolutions[gate - 1])].output
    assert frozen.grids[squeeze].scale >= SCALE_FLOOR
    assert all(np.abs(w.biases.astype(np.int64)).max() < 2**30 for w in frozen.weights.values())


def network_index(network: QatNetwork, layer: Weighted) -> int:
    return [candidate is layer for candidate in network.layers].index(True)


def test_freezing_needs_folding() -> None:
    with pytest.raises(ModelError, match="batch normalization"):
        freeze(random_network(ARCHITECTURE, 2))


def batches(**settings: Any) -> Batches:
    x, y = stripes(50, 3)
    return Batches(x, y, TrainConfig(batch_size=20, **settings), classes=3, seed=7, mirror=True)


def test_batches_cover_each_image_once_an_epoch() -> None:
    x, y = stripes(50, 3)
    plain = batches(shift=0, mirror=False)
    assert plain.per_epoch == 2
    taken = [plain[step] for step in range(2)]
    found = {tuple(image.flatten().tolist()) for batch, _ in taken for image in batch}
    assert len(found) == 40 and found <= {tuple(image.flatten().tolist()) for image in to_input(x)}
    torch.testing.assert_close(plain[0][0], batches(shift=0, mirror=False)[0][0])
    assert not torch.equal(plain[0][0], plain[2][0])
    assert len(y) == 50


def test_augmentation_only_shifts_and_mirrors() -> None:
    original = batches(shift=0, mirror=False)[0][0]
    augmented = batches(shift=2)[0][0]
    kinds = set()
    for before, after in zip(original[:, 0].numpy(), augmented[:, 0].numpy(), strict=True):
        padded = np.pad(before, 2)
        matches = {
            (dy, dx, flip)
            for dy in range(5)
            for dx in range(5)
            for flip in (False, True)
            if np.array_equal(
                after,
                padded[dy : dy + 12, dx : dx + 12][:, ::-1] if flip else padded[dy : dy + 12, dx : dx + 12],
            )
        }
        assert len(matches) == 1
        kinds |= matches
    assert len(kinds) > 5
    mirrored = batches(shift=0)[0][0]
    flips = [torch.equal(a, b.flip(2)) for a, b in zip(original, mirrored, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(original, mirrored, strict=True)]
    assert all(a != b for a, b in zip(flips, same, strict=True)) and any(flips) and any(same)


def test_memory_setting_is_harmless() -> None:
    assert keep_freed_memory() in (True, False)
