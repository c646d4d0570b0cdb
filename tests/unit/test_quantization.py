"""Quantization choices: ranges against brute force, every choice's file on every reference, and auto."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_export import HAND_MADE, inputs
from test_train import ARCHITECTURE, CONFIG, Interrupted, data_set, random_network, states_equal

from pipeline import data as datasets
from pipeline.engine import load
from pipeline.engine.host import HostModel
from pipeline.errors import ConfigError
from pipeline.export import LiteRtReference, TflmReference, write_tflite
from pipeline.export.freeze import freeze
from pipeline.space.architecture import Architecture, Block
from pipeline.train import QatNetwork, TrainConfig, train_qat
from pipeline.train.calibration import Calibration, Histogram, least_error_shares
from pipeline.train.config import QuantizationConfig
from pipeline.train.quantconfig import Choice

ALL = QuantizationConfig(auto=("all",)).candidates


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def quantized(choice: Choice, name: str = "all", seed: int = 1) -> QatNetwork:
    """A network with outlying weights and channels, calibrated by `choice`."""
    architecture = HAND_MADE[name]
    network = random_network(architecture, seed)
    network.fold()
    height, width, channels = architecture.input_shape
    images = [torch.rand(8, channels, height, width) for _ in range(3)]
    Calibration(network, lambda: images, (choice,), 99.9).apply(network, choice)
    return network


@pytest.mark.parametrize("choice", ALL, ids=str)
def test_every_choice_gives_a_file_that_all_compute_alike(choice: Choice) -> None:
    network = quantized(choice)
    content = write_tflite(network)
    x = inputs(network.architecture, 6)
    expected = TflmReference(content).run(x)
    ours = HostModel(load(content), sanitize=True).run(x)
    np.testing.assert_array_equal(ours.reshape(6, -1), expected.reshape(6, -1))
    differences = [LiteRtReference(content).run(x), network.int8_outputs(x)]
    for other in differences:
        assert np.abs(other.astype(int).reshape(6, -1) - expected.astype(int).reshape(6, -1)).max() <= 2
    assert len(np.unique(expected)) > 10
    one_scale = {len(weights.scales) == 1 for weights in freeze(network).weights.values()}
    assert one_scale == ({True} if choice.weights == "tensor" else {True, False})


def sample(seed: int) -> np.ndarray:
    """What a ReLU leaves of a skewed distribution with outliers: many zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 1.0, 20000)
    x[:20] *= 10.0
    return (np.maximum(x, 0.0) if seed % 2 else x + 0.5).astype(np.float32)


def histogram(x: np.ndarray) -> Histogram:
    found = Histogram(min(float(x.min()), 0.0), max(float(x.max()), 0.0))
    for part in np.array_split(x, 3):
        found.add(torch.from_numpy(part))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9, 100.0])
def test_percentile_is_numpys(seed: int, percent: float) -> None:
    x = sample(seed)
    lo, hi = histogram(x).percentile(percent)
    step = float(x.max() - x.min()) / 2048
    assert hi == pytest.approx(max(np.percentile(x, percent), 0.0), abs=2 * step)
    assert lo == pytest.approx(min(np.percentile(x, 100 - percent), 0.0), abs=2 * step)


def grid_error(x: np.ndarray, lo: float, hi: float) -> float:
    scale = (hi - lo) / 255
    zero = round(-128 - lo / scale)
    return float((((np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale - x) ** 2).sum())


@pytest.mark.parametrize("seed", range(4))
def test_least_error_range_is_near_the_best_of_all(seed: int) -> None:
    x = sample(seed)
    lo, hi = histogram(x).least_error()
    ends = np.linspace(0.05, 1.0, 40)
    lows = [float(x.min()) * end for end in ends] if x.min() < 0 else [0.0]
    best = min(grid_error(x, low, float(x.max()) * end) for low in lows for end in ends)
    assert grid_error(x, lo, hi) <= 1.02 * best
    assert grid_error(x, lo, hi) <= grid_error(x, min(float(x.min()), 0.0), float(x.max()))


def test_ranges_of_nothing() -> None:
    dead = Histogram(0.0, 0.0)
    dead.add(torch.zeros(10))
    assert dead.percentile(99.0) == (0.0, 0.0) == dead.least_error()


def test_weight_clips_are_least_squares() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 300)
    weight[:, 0] = 9.0

    def error(rows: torch.Tensor, largest: float, share: float) -> float:
        scale = largest * share / 127
        return float(((torch.round(rows / scale).clamp(-127, 127) * scale - rows) ** 2).sum())

    shares = np.linspace(0.3, 1.0, 71)
    for channel, share in enumerate(least_error_shares(weight, tensor=False).tolist()):
        errors = [error(weight[channel], 9.0, s) for s in shares]
        assert error(weight[channel], 9.0, share) <= min(errors) * 1.0001
    whole = least_error_shares(weight, tensor=True)
    assert len(set(whole.tolist())) == 1
    assert error(weight, 9.0, float(whole[0])) <= min(error(weight, 9.0, s) for s in shares) * 1.0001
    # a grid without outliers is used whole
    assert least_error_shares(torch.tensor([[1.0, -1.0, 0.0]]), tensor=False).item() == 1.0


def test_minmax_is_the_extreme_of_all_batches() -> None:
    network = random_network(ARCHITECTURE, 3)
    network.fold()
    images = [torch.rand(4, 1, 12, 12) * (i + 1) for i in range(3)]
    Calibration(network, lambda: images, (choice := Choice(activations="minmax"),), 99.9).apply(
        network, choice
    )
    network.mode = "float"
    largest = [0.0] * len(network.layers)
    for x in images:
        seen: list[float] = []
        network.watch = lambda name, y, *_, seen=seen: seen.append(float(y.detach().max()))
        network(x)
        largest = [max(a, b) for a, b in zip(largest, seen, strict=True)]
    ranges = [getattr(layer, "range", layer) for layer in network.layers]
    assert [float(r.hi) for r in ranges] == pytest.approx(largest)


def test_post_training_only(tmp_path: Path) -> None:
    config = replace(CONFIG, qat_epochs=0)
    first = train_qat(ARCHITECTURE, data_set(), config, seed=1, checkpoint=tmp_path / "a")
    assert [row["phase"] for row in first.history] == ["float", "float"]
    assert first.network.folded and first.fake_quant_accuracy > 0.9
    again = train_qat(ARCHITECTURE, data_set(), config, seed=1, checkpoint=tmp_path / "a")
    assert states_equal(first.network, again.network) and again.float_accuracy == first.float_accuracy
    content = write_tflite(first.network)
    x = inputs(ARCHITECTURE, 5)
    expected = TflmReference(content).run(x)
    np.testing.assert_array_equal(HostModel(load(content)).run(x).reshape(5, -1), expected.reshape(5, -1))


@pytest.mark.parametrize(
    "settings",
    [
        {"weights": "tensor", "weight_range": "mse", "activations": "mse"},
        {"activations": "percentile"},
        {"auto": ("all",)},
    ],
    ids=str,
)
def test_resume_gives_the_same_network(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = replace(CONFIG, quantization=QuantizationConfig(**settings))
    whole = train_qat(ARCHITECTURE, data_set(), config, seed=1)
    for stop in (20, 25, 30):

        def interrupt(progress, stop=stop):  # type: ignore[no-untyped-def]
            if progress.step == stop:
                raise Interrupted

        file = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            train_qat(ARCHITECTURE, data_set(), config, seed=1, checkpoint=file, on_step=interrupt)
        resumed = train_qat(ARCHITECTURE, data_set(), config, seed=1, checkpoint=file)
        assert states_equal(whole.network, resumed.network)
        assert whole.quantization == resumed.quantization
        assert write_tflite(whole.network) == write_tflite(resumed.network)


def test_auto_takes_the_best_on_the_validation_split() -> None:
    names = ("tensor/max/minmax", "channel/mse/mse", "channel/max/average")
    auto = replace(CONFIG, qat_epochs=0, quantization=QuantizationConfig(auto=names))
    found = train_qat(ARCHITECTURE, data_set(), auto, seed=1)
    tried = found.quantization["tried"]
    assert [row["choice"] for row in tried] == list(names)
    best = max(tried, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert found.quantization["choice"] == best["choice"]
    for name in names:  # each as if it were the only one
        parts = Choice.parse(name)
        single = QuantizationConfig(parts.weights, parts.weight_range, parts.activations)
        alone = train_qat(ARCHITECTURE, data_set(), replace(auto, quantization=single), seed=1)
        assert alone.quantization == {"choice": name, "tried": []}
        assert states_equal(alone.network, found.network) == (name == best["choice"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "asymmetric"}, "zero point of 0"),
        ({"weights": "int4"}, "INT8 weights"),
        ({"activations": "int16"}, "INT8 activations"),
        ({"activations": "best"}, "activations = 'best' is not known"),
        ({"weight_range": "percentile"}, "weight_range"),
        ({"percentile": 40.0}, "percentile"),
        ({"auto": ("channel",)}, "weights/weight_range/activations"),
        ({"auto": ("channel/max/int16",)}, "INT8 activations"),
        ({"auto": ("channel/max/mse", "channel/max/mse")}, "twice"),
    ],
)
def test_what_cannot_run_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantizationConfig(**settings)


def test_small_batches_do_not_undo_training() -> None:
    """Fine-tuning on the digits by batches of 32 went from 89 to 79 %: steps of a network without batch
    normalization have no natural limit, and some batches are steep."""
    digits = datasets.load(
        "digits", seed=0, validation=0.1, limit=None, options=datasets.default_options("digits")
    )
    blocks = (Block("dw3", 24, 1), Block("ir4", 24, 1), Block("se4", 32, 2), Block("ir2", 32, 1))
    architecture = Architecture((28, 28, 1), 10, 16, 2, blocks)
    config = TrainConfig(float_epochs=2, qat_epochs=2, batch_size=32, threads=1)
    result = train_qat(architecture, digits, config, seed=0)
    assert result.float_accuracy > 0.8
    assert result.fake_quant_accuracy > result.float_accuracy
    wild = train_qat(architecture, digits, replace(config, qat_clip=0.0), seed=0)
    assert wild.fake_quant_accuracy < result.fake_quant_accuracy - 0.05
