"""Training where the images are not where tensors are made: with every part of it, and between a GPU and a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from placed import THERE, Gpu, There, stand_in
from test_prune import CELL, WITH_EXITS, judge
from test_prune import CONFIG as _CONFIG
from test_train import ARCHITECTURE, Interrupted, data_set, states_equal

from pipeline.data import DataSet
from pipeline.space.architecture import Architecture
from pipeline.train import TrainConfig, train_qat
from pipeline.train.batches import Batches
from pipeline.train.layers import Range
from pipeline.train.prune import prune_and_train
from pipeline.train.pruneconfig import PruneConfig
from pipeline.train.quantconfig import QuantizationConfig
from pipeline.train.teacherconfig import TeacherConfig
from pipeline.train.trainer import Training

CONFIG = replace(_CONFIG, float_epochs=1, qat_epochs=1, device="cpu")
AUGMENTED: dict[str, Any] = {"ema": 0.9, "norm_batches": 4, "mixup": 0.3, "cutout": 3, "shift": 2}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def teacher(kind: str, **more: Any) -> TeacherConfig:
    return TeacherConfig(weight=0.5, architecture=kind, width=0.5, depth=1, epochs=1, **more)


def trained(
    architecture: Architecture = ARCHITECTURE,
    checkpoint: Path | None = None,
    on_step: Any = None,
    **settings: Any,
) -> Any:
    config = replace(CONFIG, **settings)
    return train_qat(architecture, data_set(), config, seed=1, checkpoint=checkpoint, on_step=on_step)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        (ARCHITECTURE, AUGMENTED | {"teacher": teacher("resnet")}),
        (ARCHITECTURE, {"teacher": teacher("convnet")}),
        (ARCHITECTURE, {"teacher": replace(teacher("wide", members=2), width=2.0), "qat_epochs": 0}),
        (WITH_EXITS, {}),
        (
            ARCHITECTURE,
            {"quantization": QuantizationConfig(auto=("tensor/max/percentile", "channel/mse/mse"))},
        ),
        (ARCHITECTURE, {"quantization": QuantizationConfig(activations="minmax"), "qat_epochs": 2}),
    ],
    ids=["augmented-resnet", "convnet", "wide", "exits", "auto", "minmax"],
)
def test_a_training_on_the_device_is_the_one_on_the_host(
    architecture: Architecture, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = trained(architecture, **settings)
    with stand_in(monkeypatch) as gpu:
        there = trained(architecture, **settings)
        assert not any(isinstance(value, There) for value in there.network.state_dict().values())
    assert gpu.calls > 1000 and states_equal(there.network, host.network)
    assert (there.float_accuracy, there.fake_quant_accuracy) == (
        host.float_accuracy,
        host.fake_quant_accuracy,
    )
    assert there.quantization == host.quantization


def test_cells_train_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 28, 28, 1), dtype=np.uint8), np.arange(40) % 10
    data = DataSet(
        "noise", x, y, x, y, x, y, classes=10, class_names=tuple("0123456789"), source="memory"
    )  # fmt: skip
    host = train_qat(CELL, data, CONFIG, seed=1)
    with stand_in(monkeypatch):
        there = train_qat(CELL, data, CONFIG, seed=1)
    assert states_equal(there.network, host.network)


@pytest.mark.parametrize("importance", ["taylor", "scale"])
def test_pruning_on_the_device_is_the_one_on_the_host(
    importance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune = PruneConfig(
        fraction=0.3, epochs=1, rounds=2, round_steps=2, batches=2, importance=importance
    )  # fmt: skip
    config, data = replace(CONFIG, qat_epochs=0, prune=prune), data_set()

    def pruned(folder: Path | None = None, on_step: Callable[[Any], None] | None = None) -> Any:
        return prune_and_train(WITH_EXITS, data, config, judge, seed=1, folder=folder, on_step=on_step)

    host = pruned()
    with stand_in(monkeypatch):
        there = pruned(tmp_path)
    assert states_equal(there.result.network, host.result.network) and there.record == host.record
    (tmp_path / "tuned.pt").unlink()  # what was pruned there is trained on here
    assert states_equal(pruned(tmp_path).result.network, host.result.network)


@pytest.mark.parametrize("stop", [3, 14])  # in the float phase, in fine-tuning
@pytest.mark.parametrize("begins_there", [True, False])
def test_a_checkpoint_goes_on_at_the_other_place(
    begins_there: bool, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, settings = tmp_path / "training.pt", {"ema": 0.9, "teacher": teacher("convnet")}
    settings["quantization"] = QuantizationConfig(weight_range="mse")
    whole = trained(**settings)

    def interrupt(progress: Any) -> None:
        if progress.phase != "teacher" and progress.step == stop:
            raise Interrupted

    def begin() -> None:
        with pytest.raises(Interrupted):
            trained(checkpoint=file, on_step=interrupt, **settings)

    if begins_there:
        with stand_in(monkeypatch):
            begin()
        found = trained(checkpoint=file, **settings)
    else:
        begin()
        with stand_in(monkeypatch):
            found = trained(checkpoint=file, **settings)
    assert states_equal(found.network, whole.network)


def counted(config: TrainConfig, steps: int, gpu: Gpu) -> Training:
    """The last of `steps` steps is counted."""
    training = Training(ARCHITECTURE, data_set(), config, 1, None, None)
    for step in range(steps):
        if training.step == training.float_steps and not training.network.folded:
            training._start_qat()
        if step == steps - 1:
            gpu.clear()
        training._train_step()
    return training


def test_a_float_step_waits_for_its_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a batch: what augments it is drawn on the host and follows on its own."""
    with stand_in(monkeypatch) as gpu:
        counted(replace(CONFIG, shift=2, cutout=3, mixup=0.3, ema=0.9), 3, gpu)
    assert gpu.waits == {"_local_scalar_dense.default": 1}, gpu.where


def test_fine_tuning_waits_for_each_grid_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in(monkeypatch) as gpu:
        training = counted(CONFIG, 13, gpu)
    assert training.phase == "qat"
    operators = len(training.network.layers)
    assert gpu.waits == {"_local_scalar_dense.default": 2 * operators + 1}, gpu.where


def test_batches_are_made_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_set()
    config = replace(CONFIG, shift=2, cutout=3, mixup=0.3)
    here = Batches.of(data, config, 0, torch.device("cpu"))
    with stand_in(monkeypatch) as gpu:
        batches = Batches.of(data, config, 0, THERE)
        gpu.clear()
        x, y = batches[3]
        assert isinstance(x, There) and isinstance(y, There) and gpu.count == 0, gpu.where
        assert torch.equal(x.cpu(), here[3][0]) and torch.equal(y.cpu(), here[3][1])


def test_a_range_has_no_grid_finer_than_its_floor() -> None:
    observed = Range()
    observed.set(0.0, 2.55)
    assert float(observed.quantization()[0]) == pytest.approx(0.01)
    assert float(observed.quantization(torch.tensor(0.02))[0]) == pytest.approx(0.02)
    assert float(observed.quantization(torch.tensor(0.005))[0]) == pytest.approx(0.01)
