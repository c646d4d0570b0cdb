"""Training where it must not depend on the machine, and where something has gone wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train import ARCHITECTURE, CONFIG, data_set

from pipeline.data.shift import ShiftConfig, shifted
from pipeline.errors import ConfigError
from pipeline.search.adaptconfig import AdaptConfig
from pipeline.search.config import SearchConfig
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.penalty import Penalty
from pipeline.search.predictorconfig import PredictorConfig
from pipeline.search.relaxation import Expected
from pipeline.search.sharingconfig import SharingConfig
from pipeline.space.budgets import Budgets
from pipeline.tomltable import MOST_RATE
from pipeline.train import TrainConfig, train_qat
from pipeline.train.batches import Batches
from pipeline.train.diagnosis import first_nonfinite
from pipeline.train.network import QatNetwork
from pipeline.train.pruneconfig import PruneConfig
from pipeline.train.resnet import ResNet
from pipeline.train.teacherconfig import TeacherConfig

WEIGHTS = (1e-30, 1e9)  # of terms of a loss, whose squares float32 holds
TEMPERATURES = (1e-6, 1e6)
RESNET = TeacherConfig(weight=0.5, architecture="resnet", width=0.5, depth=1, epochs=2)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("teacher", [TeacherConfig(), RESNET])
def test_mixup_where_the_highest_label_does_not_occur(teacher: TeacherConfig) -> None:
    """`[data.shift] keep_classes`, and local data that lack a class: the outputs stay as many as there were."""
    local = shifted(data_set(), ShiftConfig(keep_classes=(0, 1)), seed=0)
    config = replace(CONFIG, float_epochs=1, qat_epochs=1, mixup=0.3, teacher=replace(teacher, epochs=1))
    result = train_qat(ARCHITECTURE, local, config, seed=1)
    assert result.network.architecture.classes == 3
    assert all(np.isfinite(epoch["loss"]) for epoch in result.history)
    batches = Batches(local.x_train, local.y_train, config, classes=local.classes, seed=1, mirror=False)
    labels = batches[0][1]
    assert labels.shape == (32, 3) and not labels[:, 2].any() and labels[:, :2].any(0).all()


def test_divergence_while_fine_tuning_is_an_error_with_its_layer() -> None:
    with pytest.raises(ConfigError, match=r"first in (stem|block\d/|head/)") as error:
        train_qat(ARCHITECTURE, data_set(), replace(CONFIG, qat_learning_rate=1e30), seed=1)
    assert "train.qat_learning_rate" in error.value.hint


@pytest.mark.parametrize(
    ("made", "key"),
    [
        (TrainConfig, "learning_rate"),
        (TrainConfig, "qat_learning_rate"),
        (TrainConfig, "weight_decay"),
        (PruneConfig, "learning_rate"),
        (TeacherConfig, "learning_rate"),
        (AdaptConfig, "learning_rate"),
        (SearchConfig, "weight_lr"),
        (SearchConfig, "architecture_lr"),
        (HyperConfig, "lr"),
        (PredictorConfig, "lr"),
        (PredictorConfig, "decay"),
    ],
)
def test_rates_that_torch_cannot_count_with_are_refused(made: Any, key: str) -> None:
    """Beyond float32 its optimizers end with an error of their own."""
    made(**{key: MOST_RATE})
    for rate in (1e38, 1e300, float("inf")):
        with pytest.raises(ConfigError, match=rf"{key} = \S+ is too large"):
            made(**{key: rate})


@pytest.mark.parametrize(
    ("made", "key", "bounds"),
    [
        (SearchConfig, "mu", WEIGHTS),
        (SearchConfig, "nu", WEIGHTS),
        (SearchConfig, "penalty_cap", WEIGHTS),
        (SharingConfig, "identity", (0.0, WEIGHTS[1])),
        *((HyperConfig, f"{key}_weight", (1e-300, WEIGHTS[1])) for key in ("simplex", "condition", "spend", "entropy")),
        (HyperConfig, "kappa", (1e-300, WEIGHTS[1])),
        (SearchConfig, "temperature_start", TEMPERATURES),
        (SearchConfig, "temperature_end", TEMPERATURES),
        (HyperConfig, "temperature_start", TEMPERATURES),
        (HyperConfig, "temperature_end", TEMPERATURES),
        (TeacherConfig, "temperature", TEMPERATURES),
    ],
)  # fmt: skip
def test_weights_and_temperatures_that_would_leave_float32_are_refused_by_their_names(
    made: Any, key: str, bounds: tuple[float, float]
) -> None:
    """They made the loss infinite or nan, for which the error named a learning rate."""
    for value in bounds:
        made(**{key: value})
    with pytest.raises(ConfigError, match=rf"{key} = 1e\+10 is too large") as caught:
        made(**{key: 1e10})
    assert caught.value.key == key and f"{bounds[1]:g}" in caught.value.hint
    if bounds in (WEIGHTS, TEMPERATURES):
        with pytest.raises(ConfigError, match=rf"{key} = 1e-31 is too small"):
            made(**{key: 1e-31})


@pytest.mark.parametrize("coefficient", WEIGHTS)
def test_the_smallest_and_largest_penalties_have_a_gradient(coefficient: float) -> None:
    config = SearchConfig(mu=coefficient, nu=coefficient, penalty_cap=WEIGHTS[1])
    penalty = Penalty.start(Budgets(latency_ms=1.0, parameters=1000), config)
    for latency_ms in (1e4, 0.5, 2.0):  # the first one as far over its limit as none that has an answer
        cost = torch.tensor([latency_ms, 0.0, 0.0, 900.0], requires_grad=True)
        loss = penalty.loss(Expected(*cost))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(cost.grad).all()
        assert cost.grad[0] > 0 or latency_ms < 1
        penalty.update(Expected(*cost.detach()))


@pytest.mark.parametrize("key", ["learning_rate", "weight_decay"])
def test_the_largest_rates_end_training_with_its_layer(key: str) -> None:
    with pytest.raises(ConfigError, match="training diverged"):
        train_qat(ARCHITECTURE, data_set(), replace(CONFIG, **{key: MOST_RATE}), seed=1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shift": 10**12}, r"train\.shift = 1000000000000 moves images of 12x12 pixels out of sight"),
        ({"threads": 2**40}, r"train\.threads = \S+ is too large"),
        ({"teacher": {"temperature": 1e300}}, r"teacher temperature = 1e\+300 is too large"),
        ({"teacher": {"width": 1e300}}, r"teacher width = 1e\+300 is too large"),
    ],
)
def test_settings_that_torch_cannot_hold_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        if "teacher" in change:
            change = {"teacher": replace(RESNET, **change["teacher"])}
        train_qat(ARCHITECTURE, data_set(), replace(CONFIG, **change), seed=1)


def test_teacher_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, teacher=RESNET)
    train_qat(ARCHITECTURE, data_set(), config, seed=1, checkpoint=tmp_path / "a")
    (file,) = tmp_path.glob("teacher-*")
    state = torch.load(file)
    for change, message in (
        ({"classes": 4}, "is for 4 classes"),
        ({"finished": False}, "trained to its end"),
        ({"network": {}}, "not a teacher"),
        ({"description": {}}, "not a teacher"),
    ):
        torch.save(state | change, file)
        with pytest.raises(ConfigError, match=message):
            train_qat(ARCHITECTURE, data_set(), replace(config, teacher=replace(RESNET, files=(str(file),))))
    with pytest.raises(ConfigError, match="cannot be read"):
        train_qat(ARCHITECTURE, data_set(), replace(config, teacher=replace(RESNET, files=("none",))))


@pytest.mark.parametrize("quantized", [False, True])
def test_first_nonfinite_names_the_poisoned_layer(quantized: bool) -> None:
    torch.manual_seed(0)
    network = QatNetwork(ARCHITECTURE).train()
    x = torch.rand(8, 1, 12, 12)
    network(x)
    if quantized:
        network.fold()
        network.mode = "observe"
        network(x)
        network.mode, network.ranges_frozen = "quantized", True
    assert first_nonfinite(network, x) == ""
    for index in (len(network.layers) - 1, 5, 0):  # each earlier than the one before
        with torch.no_grad():
            next(network.layers[index].parameters())[0] = float("nan")
        assert first_nonfinite(network, x) == network.graph.nodes[index].name
    assert network.watch is None
    teacher = ResNet((12, 12, 1), 3, 0.5, 1)
    with torch.no_grad():
        teacher.get_parameter("blocks.1.conv2.weight")[0] = float("inf")
    assert first_nonfinite(teacher, x) == "blocks.1.conv2"
    assert first_nonfinite(teacher, x * float("nan")) == "the input"
