"""Teachers: built, trained once, kept in a file, and asked for their opinion on each batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data import DataSet
from pipeline.errors import ConfigError
from pipeline.space.architecture import Architecture
from pipeline.space.cells import CellArchitecture
from pipeline.space.pruned import unpruned
from pipeline.storage import Rhythm
from pipeline.train.batches import Batches
from pipeline.train.checkpoint import fingerprint, load_checkpoint, read_state, save_checkpoint
from pipeline.train.config import TrainConfig
from pipeline.train.convnet import ConvNet
from pipeline.train.device import precision
from pipeline.train.diagnosis import all_finite, diverged
from pipeline.train.evaluate import accuracy
from pipeline.train.network import QatNetwork
from pipeline.train.optimizer import one_cycle, set_rate, sgd
from pipeline.train.progress import Progress
from pipeline.train.resnet import ResNet
from pipeline.train.seeding import seeded

_SEED_STEP = 1_000_003  # keeps the members' random streams apart from the student's and from each other's
_WHITENED = 2000  # images that a convnet's first convolution is found from
# Settings of TrainConfig that concern a teacher's own training.
_OWN = (
    "batch_size", "momentum", "weight_decay", "label_smoothing", "shift", "mirror", "cutout", "mixup",
    "mixed_precision",
)  # fmt: skip


class Teacher:
    """Trained networks; `val_accuracies` (0..1) are theirs on the validation split.

    mixed: they run in bfloat16, also where the student does not: an opinion need not be exact.
    """

    def __init__(
        self, members: Sequence[nn.Module], val_accuracies: Sequence[float], *, mixed: bool = False
    ) -> None:
        self.members = [member.eval() for member in members]
        self.val_accuracies = tuple(val_accuracies)
        self.mixed = mixed

    @torch.no_grad()
    def probabilities(self, x: Tensor, temperature: float) -> Tensor:
        """Mean over the members of softmax(logits / temperature), (n, classes)."""
        with precision(x.device, self.mixed):
            logits = [member(x).float() for member in self.members]
        parts = [F.softmax(z / temperature, 1) for z in logits]
        return torch.stack(parts).mean(0)


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(taught || softmax(logits / T)), the mean over the batch; `taught` are probabilities at T."""
    student = F.log_softmax(logits / temperature, 1)
    return F.kl_div(student, taught, reduction="batchmean") * temperature**2


def widened(architecture: Architecture, factor: float) -> Architecture:
    """`architecture`, before it was pruned, with its stem and blocks, or cells, `factor` times as wide.

    In multiples of 4 channels.
    """

    def wide(channels: int) -> int:
        return max(4, round(channels * factor / 4) * 4)

    architecture = unpruned(architecture)
    stem = wide(architecture.stem_channels)
    if isinstance(architecture, CellArchitecture):
        return replace(architecture, stem_channels=stem, channels=tuple(map(wide, architecture.channels)))
    blocks = tuple(replace(block, channels=wide(block.channels)) for block in architecture.blocks)
    return replace(architecture, stem_channels=stem, blocks=blocks)


def obtain_teacher(
    architecture: Architecture,
    data: DataSet,
    config: TrainConfig,
    device: torch.device,
    *,
    seed: int,
    folder: Path | None,
    on_step: Callable[[Progress], None] | None = None,
) -> Teacher:
    """The teachers that `config.teacher` names: from its files, from `folder`, or trained (into `folder`).

    Raises ConfigError for a file that is damaged or of other data, or where training diverges.
    """
    options = config.teacher
    if options.files:
        used = (_reuse(Path(name), data, device) for name in options.files)
        return Teacher(*zip(*used, strict=True), mixed=config.mixed_precision)
    description: dict[str, Any] = {"kind": options.architecture}
    if options.architecture == "wide":
        description["architecture"] = widened(architecture, options.width).to_json()
    elif options.architecture == "convnet":
        description["width"] = options.width
    else:
        description |= {"width": options.width, "depth": options.depth}
    trained = []
    for member in range(options.members):
        training = _Training(description, data, config, device, seed + _SEED_STEP * (member + 1), folder)
        trained.append(training.run(on_step))
    return Teacher(*zip(*trained, strict=True), mixed=config.mixed_precision)


def files_digest(names: Sequence[str]) -> list[str]:
    """What identifies teachers that are used again. Raises ConfigError where one is missing."""
    try:
        return [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names]
    except OSError as error:
        raise ConfigError(f"the teacher {error.filename} cannot be read: {error.strerror}") from error


def _build(description: dict[str, Any], shape: tuple[int, int, int], classes: int) -> nn.Module:
    if description["kind"] == "wide":
        return QatNetwork(Architecture.from_json(description["architecture"]))
    if description["kind"] == "convnet":
        return ConvNet(shape, classes, description["width"])
    return ResNet(shape, classes, description["width"], description["depth"])


def _reuse(file: Path, data: DataSet, device: torch.device) -> tuple[nn.Module, float]:
    state = read_state(file)
    try:
        fits = (tuple(state["shape"]), state["classes"]) == (data.input_shape, data.classes)
        if fits and state["finished"]:
            network = _build(state["description"], data.input_shape, data.classes)
            network.load_state_dict(state["network"])
            return network.to(device, memory_format=torch.channels_last).eval(), float(state["val_accuracy"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise ConfigError(f"{file} is not a teacher: {error}") from error
    problem = f"is for {state['classes']} classes of {tuple(state['shape'])} images" if not fits else ""
    raise ConfigError(f"the teacher {file} {problem or 'has not been trained to its end'}")


class _Training:
    """Float training of one teacher, resumable at any step; the finished file holds no optimizer."""

    def __init__(
        self,
        description: dict[str, Any],
        data: DataSet,
        config: TrainConfig,
        device: torch.device,
        seed: int,
        folder: Path | None,
    ) -> None:
        self.description, self.data, self.config, self.device = description, data, config, device
        settings = {name: value for name, value in asdict(config).items() if name in _OWN}
        settings |= {"epochs": config.teacher.epochs, "learning_rate": config.teacher.learning_rate}
        self.identity = fingerprint(description, data, settings, seed)
        self.file = folder / f"teacher-{self.identity[:12]}.ckpt" if folder else None
        self.batches = Batches.of(data, config, seed, device)
        with seeded(seed):
            network = _build(description, data.input_shape, data.classes)
        if isinstance(network, ConvNet):
            network.whiten(torch.cat([self.batches.plain(i) for i in range(self._whitened())]))
        self.network = network.to(device, memory_format=torch.channels_last)
        self.optimizer = sgd(self.network, config)
        self.steps = config.teacher.epochs * self.batches.per_epoch
        self.step = 0
        self.val_accuracy: float | None = None
        if self.file is not None and self.file.exists():
            state = load_checkpoint(self.file, self.identity)
            self.network.load_state_dict(state["network"])
            self.step, self.val_accuracy = state["step"], state["val_accuracy"]
            if not state["finished"]:
                self.optimizer.load_state_dict(state["optimizer"])

    def _whitened(self) -> int:
        """Batches that a convnet's first convolution is found from."""
        return min(self.batches.per_epoch, math.ceil(_WHITENED / self.batches.size))

    def run(self, on_step: Callable[[Progress], None] | None) -> tuple[nn.Module, float]:
        rhythm = Rhythm(self.config.checkpoint_s)
        while self.step < self.steps:
            progress = self._train_step()
            if rhythm.due():
                self._save()
                rhythm.written()
            if on_step is not None:
                on_step(progress)
        if self.val_accuracy is None:
            self.val_accuracy = accuracy(self.network, self.data.x_val, self.data.y_val, self.device)
            self._save()
        return self.network, self.val_accuracy

    def _train_step(self) -> Progress:
        config, network = self.config, self.network.train()
        epoch = self.step // self.batches.per_epoch
        set_rate(self.optimizer, one_cycle(config.teacher.learning_rate, self.step / self.steps))
        x, y = self.batches[self.step]
        with precision(self.device, config.mixed_precision):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=config.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise diverged(network, x, f"the teacher's epoch {epoch + 1}", value, "teacher.learning_rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return Progress(self.step, self.steps, "teacher", epoch, config.teacher.epochs, value)

    def _save(self) -> None:
        if self.file is None or not all_finite(self.network):
            return
        finished = self.val_accuracy is not None
        state: dict[str, Any] = {
            "identity": self.identity,
            "description": self.description,
            "shape": list(self.data.input_shape),
            "classes": self.data.classes,
            "finished": finished,
            "val_accuracy": self.val_accuracy,
            "step": self.step,
            "network": self.network.state_dict(),
        }
        if not finished:
            state["optimizer"] = self.optimizer.state_dict()
        save_checkpoint(self.file, state)
