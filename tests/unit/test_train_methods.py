"""What wins accuracy: averaged weights, recounted batch statistics, a teacher; and what happens when training fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import ARCHITECTURE, CONFIG, Interrupted, data_set, states_equal
from torch.nn import functional as F

from pipeline.errors import ConfigError
from pipeline.space.cells import CellSpace
from pipeline.space.opspec import OpSpec, same_padding
from pipeline.train import Progress, TrainConfig, train_qat
from pipeline.train.averaging import Average, recalibrate_norms
from pipeline.train.batches import Batches, to_input
from pipeline.train.convnet import ConvNet
from pipeline.train.device import precision
from pipeline.train.layers import Weighted
from pipeline.train.network import QatNetwork
from pipeline.train.teacher import Teacher, distillation_loss, obtain_teacher, widened
from pipeline.train.teacherconfig import TeacherConfig

TAUGHT = replace(
    CONFIG, ema=0.9, norm_batches=2, teacher=TeacherConfig(weight=0.5, epochs=2, members=2, temperature=2.0)
)


def test_the_average_is_exponential_and_comes_back() -> None:
    network = QatNetwork(ARCHITECTURE)
    average = Average(network, 0.5)
    name, weight = next(iter(network.named_parameters()))
    expected = weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        average.update(network)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    assert torch.allclose(average.values[name], expected, atol=1e-5)
    own = weight.detach().clone()
    with average.swapped_in(network):
        assert torch.equal(weight, average.values[name])
    assert torch.equal(weight, own)


def test_batch_statistics_are_the_mean_over_plain_batches() -> None:
    data, network = data_set(), QatNetwork(ARCHITECTURE)
    batches = Batches(data.x_train, data.y_train, replace(CONFIG, shift=3), classes=3, seed=0, mirror=True)
    recalibrate_norms(network, batches, 4)
    # The first layer's: plain convolution of the images themselves.
    stem = network.layers[0]
    images = [batches.plain(i) for i in range(4)]
    seen = {bytes(row) for row in data.x_train.reshape(len(data.x_train), -1)}
    raw = np.rint(torch.cat(images).permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    assert all(bytes(row) in seen for row in raw.reshape(len(raw), -1))  # not augmented
    norm = next(module for module in stem.modules() if isinstance(module, torch.nn.BatchNorm2d))
    captured: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda _m, inputs: captured.append(inputs[0]))
    with torch.no_grad():
        for x in images:
            network.train()(x)
    means = torch.stack([x.mean((0, 2, 3)) for x in captured]).mean(0)
    fresh = QatNetwork(ARCHITECTURE)
    fresh.load_state_dict(network.state_dict())
    recalibrate_norms(fresh, batches, 4)
    again = next(m for m in fresh.layers[0].modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert again.running_mean is not None and torch.allclose(again.running_mean, means, atol=1e-5)


def test_the_distillation_loss_is_hintons() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 5, generator=generator)
    taught = F.softmax(teacher / 3.0, 1)
    loss = distillation_loss(student, taught, 3.0)
    q = F.softmax(student / 3.0, 1)
    by_hand = (taught * (taught.log() - q.log())).sum(1).mean() * 9.0
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-5)
    assert float(distillation_loss(teacher, taught, 3.0)) == pytest.approx(0.0, abs=1e-6)


def test_teachers_are_averaged_as_probabilities() -> None:
    x = torch.rand(4, 1, 12, 12)
    members = [QatNetwork(ARCHITECTURE), QatNetwork(ARCHITECTURE)]
    teacher = Teacher(members, (0.5, 0.5))
    with torch.no_grad():
        expected = sum(F.softmax(m.eval()(x) / 2.0, 1) for m in members) / 2
    assert torch.allclose(teacher.probabilities(x, 2.0), expected)
    wide = widened(ARCHITECTURE, 2.0)
    assert [b.channels for b in wide.blocks] == [16, 32, 32] and wide.stem_channels == 16


def test_a_teacher_of_a_mixed_training_is_asked_in_bfloat16(tmp_path: Path) -> None:
    dtypes = set()
    for mixed in (False, True):
        config = replace(TAUGHT, mixed_precision=mixed, teacher=replace(TAUGHT.teacher, epochs=1))
        teacher = obtain_teacher(
            ARCHITECTURE, data_set(), config, torch.device("cpu"), seed=1, folder=tmp_path
        )
        hook = torch.nn.modules.module.register_module_forward_hook(lambda m, i, y: dtypes.add(y.dtype))
        with hook:
            dtypes.clear()
            opinion = teacher.probabilities(torch.rand(4, 1, 12, 12), 2.0)
        assert (torch.bfloat16 in dtypes) == mixed
        assert opinion.dtype == torch.float32
        assert torch.allclose(opinion.sum(1), torch.ones(4))


def test_a_wide_teacher_of_cells_has_wider_cells() -> None:
    height, width, depth = data_set().input_shape
    space = CellSpace((height, width, depth), data_set().classes, 4, channels=(4, 8), strides=(2, 1), nodes=2)
    student = space.random(np.random.default_rng(0))
    wide = widened(student, 2.0)
    assert (wide.stem_channels, wide.channels, wide.cells) == (8, (8, 16), student.cells)
    options = replace(
        TAUGHT, float_epochs=1, qat_epochs=1, teacher=replace(TAUGHT.teacher, epochs=1, members=1)
    )
    phases: list[str] = []
    train_qat(student, data_set(), options, seed=1, on_step=lambda p: phases.append(p.phase))
    assert "teacher" in phases


@pytest.mark.parametrize("stop", [3, 15, 25, 55, 70])
def test_training_with_a_teacher_resumes_exactly(tmp_path: Path, stop: int) -> None:
    whole = train_qat(ARCHITECTURE, data_set(), TAUGHT, seed=1)
    calls = 0

    def interrupt(_: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Interrupted

    file = tmp_path / "train.ckpt"
    with pytest.raises(Interrupted):
        train_qat(ARCHITECTURE, data_set(), TAUGHT, seed=1, checkpoint=file, on_step=interrupt)
    phases: list[str] = []
    resumed = train_qat(
        ARCHITECTURE, data_set(), TAUGHT, seed=1, checkpoint=file, on_step=lambda p: phases.append(p.phase)
    )
    assert states_equal(resumed.network, whole.network)
    assert resumed.fake_quant_accuracy == whole.fake_quant_accuracy > 0.9
    assert len(list(tmp_path.glob("teacher-*.ckpt"))) == 2
    # 2 teachers of 2 epochs of 10 steps, then 40 of the student: only what was not done is done.
    assert len(phases) == 80 - stop
    # The teachers' files serve another training.
    files = tuple(str(path) for path in sorted(tmp_path.glob("teacher-*.ckpt")))
    reuse = replace(TAUGHT, teacher=replace(TAUGHT.teacher, files=files))
    phases.clear()
    train_qat(ARCHITECTURE, data_set(), reuse, seed=2, on_step=lambda p: phases.append(p.phase))
    assert set(phases) == {"float", "qat"}


def test_a_resnet_can_teach(tmp_path: Path) -> None:
    config = replace(TAUGHT, teacher=TeacherConfig(0.7, architecture="resnet", depth=1, width=0.5, epochs=1))
    assert train_qat(ARCHITECTURE, data_set(), config, seed=0).fake_quant_accuracy > 0.8
    missing = replace(config, teacher=replace(config.teacher, files=(str(tmp_path / "none.ckpt"),)))
    with pytest.raises(ConfigError, match=r"none\.ckpt"):
        train_qat(ARCHITECTURE, data_set(), missing, seed=0)


def test_a_convnet_can_teach_and_serves_again(tmp_path: Path) -> None:
    options = TeacherConfig(0.7, architecture="convnet", width=0.25, epochs=3)
    config, data, device = replace(CONFIG, teacher=options), data_set(), torch.device("cpu")
    teacher = obtain_teacher(ARCHITECTURE, data, config, device, seed=3, folder=tmp_path)
    assert teacher.val_accuracies[0] > 0.8
    assert train_qat(ARCHITECTURE, data, config, seed=0).fake_quant_accuracy > 0.8
    files = tuple(str(path) for path in tmp_path.glob("teacher-*.ckpt"))
    again = obtain_teacher(
        ARCHITECTURE,
        data,
        replace(config, teacher=replace(options, files=files)),
        device,
        seed=9,
        folder=None,
    )
    x = to_input(data.x_val)
    assert torch.equal(again.probabilities(x, 2.0), teacher.probabilities(x, 2.0))


@pytest.mark.parametrize("shape", [(9, 9, 3), (49, 10, 1), (2, 3, 1), (96, 80, 3)])
def test_a_convnet_takes_images_of_every_shape(shape: tuple[int, int, int]) -> None:
    network = ConvNet(shape, 5, 0.25).eval()
    x = torch.rand(4, shape[2], *shape[:2])
    network.whiten(x)
    assert network(x).shape == (4, 5)


def test_a_convnet_begins_with_patches_of_covariance_one_and_their_negatives() -> None:
    rng = np.random.default_rng(4)
    # Neighbouring pixels are alike, as in photographs.
    images = np.cumsum(np.cumsum(rng.normal(size=(20, 3, 16, 16)), 2), 3) / 16
    network, x = ConvNet((16, 16, 3), 5, 0.25), torch.tensor(images, dtype=torch.float32)
    network.whiten(x)
    found = F.conv2d(x, network.get_buffer("patches"), network.get_buffer("offset")).double()
    values = found.permute(1, 0, 2, 3).flatten(1).numpy()
    half = len(values) // 2
    assert half == 12
    assert np.allclose(values[:half], -values[half:], atol=1e-5)
    assert np.allclose(values.mean(1), 0, atol=1e-3)
    covariance = np.cov(values[:half], bias=True)
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), (2, 3)).transpose(0, 2, 3, 1, 4, 5)
    variances = np.linalg.eigvalsh(np.cov(windows.reshape(-1, 12).T, bias=True))
    # Directions in which patches hardly differ are damped: their noise would come to the others' size.
    assert np.allclose(np.sort(np.diag(covariance)), variances / (variances + 5e-4), atol=1e-3)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)
    trained = {name for name, _ in network.named_parameters()}
    assert not trained & {"patches", "offset"}


def test_a_training_that_diverges_names_the_layer_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "train.ckpt"
    # The learning rate rises: the first steps are sound.
    wild = replace(CONFIG, learning_rate=1e25, float_epochs=6)
    with pytest.raises(ConfigError, match=r"diverged in epoch \d+: the loss is \w+; first in \w+"):
        train_qat(ARCHITECTURE, data_set(), wild, seed=1, checkpoint=file)
    if file.exists():
        state = torch.load(file, weights_only=True)
        values = [v for v in state["network"].values() if v.is_floating_point()]
        assert all(bool(torch.isfinite(v).all()) for v in values)


def test_mixed_precision_trains_on_the_cpu_too() -> None:
    result = train_qat(ARCHITECTURE, data_set(), replace(CONFIG, mixed_precision=True), seed=1)
    assert result.fake_quant_accuracy > 0.9


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 1)])
def test_depthwise_convolutions_that_are_slow_in_bfloat16_stay_in_float32(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    out, first, last = same_padding(8, kernel, stride)
    layer = Weighted(
        OpSpec(
            "depthwise_conv2d", 8, 8, 6, out, out, 6, kernel_h=kernel, kernel_w=kernel, stride_h=stride,
            stride_w=stride, pad_top=first, pad_bottom=last, pad_left=first, pad_right=last,
        ),
        normalize=False, gate=False,
    )  # fmt: skip
    x = torch.randn(2, 6, 8, 8).bfloat16().requires_grad_()
    with precision(torch.device("cpu"), True):
        y = layer(x)
    exact = layer(x.float())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact.bfloat16())  # whole weights, where bfloat16 would round them
    gradient = torch.randint(-3, 4, y.shape).float()
    found = torch.autograd.grad(y, [x, layer.weight], gradient.bfloat16())
    expected = torch.autograd.grad(exact, [x, layer.weight], gradient)
    assert found[1].dtype == torch.float32
    assert all(torch.equal(own, reference) for own, reference in zip(found, expected, strict=True))


def test_settings_that_cannot_work() -> None:
    for bad in ({"ema": 1.0}, {"norm_batches": -1}, {"device": "tpu"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            TrainConfig(**bad)
    with pytest.raises(ConfigError, match="teacher weight"):
        TeacherConfig(weight=1.5)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"train\.device"):
            train_qat(ARCHITECTURE, data_set(), replace(CONFIG, device="cuda"), seed=1)
    assert to_input(torch.zeros(1, 2, 2, 1, dtype=torch.uint8)).shape == (1, 1, 2, 2)
