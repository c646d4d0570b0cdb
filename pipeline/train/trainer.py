"""Float training, then quantization-aware fine-tuning, resumable at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data import DataSet
from pipeline.errors import ConfigError, DataError
from pipeline.space.architecture import Architecture
from pipeline.storage import Rhythm
from pipeline.train.averaging import Average, recalibrate_norms
from pipeline.train.batches import Batches
from pipeline.train.calibration import Images
from pipeline.train.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from pipeline.train.config import TrainConfig
from pipeline.train.device import choose, exact_arithmetic, memory_as_error, precision
from pipeline.train.diagnosis import all_finite, diverged
from pipeline.train.evaluate import accuracy as evaluate
from pipeline.train.grids import renew_ranges, set_grids
from pipeline.train.inherit import fingerprint_of, inherit
from pipeline.train.layers import Weighted
from pipeline.train.loss import with_exits
from pipeline.train.memory import keep_freed_memory
from pipeline.train.network import Mode, QatNetwork
from pipeline.train.optimizer import cosine, one_cycle, set_rate, sgd
from pipeline.train.progress import Phase, Progress
from pipeline.train.quantconfig import Choice
from pipeline.train.seeding import seeded
from pipeline.train.teacher import Teacher, distillation_loss, files_digest, obtain_teacher

# A mapping by operator, or a state of the whole network.
Start = Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class QatResult:
    """A quantized network and its accuracies (0..1) on the test split.

    `network` is in quantized mode, ready for export. `history` has one entry an epoch: phase, epoch,
    loss, val_accuracy, learning_rate, seconds. `quantization`: how the grids were found (`choice`), and each
    choice that was tried with its accuracy and loss on the validation split before fine-tuning (`tried`).
    """

    network: QatNetwork
    float_accuracy: float
    fake_quant_accuracy: float
    history: tuple[dict[str, Any], ...]
    quantization: dict[str, Any]


def train_qat(
    architecture: Architecture,
    data: DataSet,
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    start: Start | None = None,
) -> QatResult:
    """Train `architecture` on `data`; the test split is looked at once, after the last step.

    checkpoint: file that holds the state; where it exists training continues from it, with the same
    result as without interruption (for the same number of threads). on_step: called after each step.
    start: weights to begin with instead of random ones, by operator (see train/inherit.py) or as a whole state.
    Raises DataError where data and architecture do not fit, ConfigError for a checkpoint that is damaged
    or belongs to another training, or where training diverges.
    """
    config = config or TrainConfig()
    if data.input_shape != architecture.input_shape or data.classes != architecture.classes:
        raise DataError(
            f"{data.name} has {data.classes} classes of {data.input_shape} images, the architecture takes "
            f"{architecture.classes} classes of {architecture.input_shape}"
        )
    if config.prune.active:
        raise ConfigError("[train.prune] needs a board's costs", hint="use: edgenas export, or edgenas run")
    with settings(config):
        return Training(architecture, data, config, seed, checkpoint, start).run(on_step)


def train_float(
    architecture: Architecture,
    data: DataSet,
    config: TrainConfig,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    start: Start | None = None,
) -> QatNetwork:
    """The float phase of `train_qat` alone: a network with batch normalization, not folded."""
    with settings(config):
        return Training(architecture, data, config, seed, checkpoint, start).run_float(on_step)


@contextmanager
def settings(config: TrainConfig) -> Iterator[None]:
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with exact_arithmetic(), memory_as_error("train.batch_size"):
            yield
    finally:
        torch.set_num_threads(threads)


class Training:
    """One training that continues from its checkpoint; arguments as for `train_qat`."""

    def __init__(
        self,
        architecture: Architecture,
        data: DataSet,
        config: TrainConfig,
        seed: int,
        checkpoint: Path | None,
        start: Start | None,
    ) -> None:
        self.data, self.config, self.file, self.seed = data, config, checkpoint, seed
        self.device = choose(config.device)
        self.batches = Batches.of(data, config, seed, self.device)
        self.float_steps = config.float_epochs * self.batches.per_epoch
        self.total_steps = self.float_steps + config.qat_epochs * self.batches.per_epoch
        self.identity = fingerprint(architecture.to_json(), data, asdict(config), seed)
        self.identity += "".join(files_digest(config.teacher.files))
        with seeded(seed):
            self.network = QatNetwork(architecture).to(memory_format=torch.channels_last)
        if any(isinstance(layer, Weighted) and layer.arriving for layer in self.network.layers):
            self.identity += "standardized, held"  # the same architecture was trained otherwise before
        if self.network.heads:
            self.identity += "heads in full"  # so was this
        if start is not None:
            if isinstance(start, Mapping):
                self.network.load_state_dict(start)
            else:
                inherit(self.network, start)
            self.identity += fingerprint_of([start] if isinstance(start, Mapping) else start)
        self.network.to(self.device)
        self.teacher: Teacher | None = None
        self._begin_phase()
        self.step = 0
        self.epoch_loss = 0.0
        self.epoch_s = 0.0
        self.history: list[dict[str, Any]] = []
        self.float_state: dict[str, Any] | None = None
        self.quantization: dict[str, Any] = {}
        self._resume()

    def _begin_phase(self) -> None:
        """Optimizer and average are a phase's own: folding replaces parameters."""
        self.optimizer = sgd(self.network, self.config, self.network.heads)
        self.average = Average(self.network, self.config.ema) if self.config.ema else None

    def run(self, on_step: Callable[[Progress], None] | None) -> QatResult:
        self._train_until(self.total_steps, on_step)
        if not self.network.folded:  # no fine-tuning
            self._start_qat()
        self._save()
        return self._result()

    def run_float(self, on_step: Callable[[Progress], None] | None) -> QatNetwork:
        """Float training alone; what is evaluated is what is returned."""
        self._train_until(self.float_steps, on_step)
        self._save()
        if self.average is not None:
            self.average.store(self.network)
        recalibrate_norms(self.network, self.batches, self.config.norm_batches)
        return self.network

    def _train_until(self, end: int, on_step: Callable[[Progress], None] | None) -> None:
        if self.config.teacher.active and self.step < end:
            folder = self.file.parent if self.file is not None else None
            self.teacher = obtain_teacher(
                self.network.architecture, self.data, self.config, self.device,
                seed=self.seed, folder=folder, on_step=on_step,
            )  # fmt: skip
        rhythm = Rhythm(self.config.checkpoint_s)
        while self.step < end:
            if self.step == self.float_steps and not self.network.folded:
                self._start_qat()
            elif self.step > self.float_steps and self.step % self.batches.per_epoch == 0:
                self._renew_ranges()
            progress = self._train_step()
            if self.file is not None and rhythm.due():
                self._save()
                rhythm.written()
            if on_step is not None:
                on_step(progress)

    @property
    def phase(self) -> Phase:
        return "float" if self.step < self.float_steps else "qat"

    def _learning_rate(self) -> float:
        config = self.config
        if self.phase == "qat":
            done = (self.step - self.float_steps) / (self.total_steps - self.float_steps)
            return cosine(config.qat_learning_rate, done)
        return one_cycle(config.learning_rate, self.step / self.float_steps)

    def _train_step(self) -> Progress:
        started = time.monotonic()
        phase = self.phase
        epoch, position = divmod(self.step, self.batches.per_epoch)
        network = self.network.train()
        if phase == "qat":
            # Ranges settle first; the last epoch trains on the very grids that are exported.
            last = epoch == self.config.float_epochs + self.config.qat_epochs - 1
            network.ranges_frozen = last or not self.choice.tracks
        rate = self._learning_rate()
        set_rate(self.optimizer, rate)
        x, y = self.batches[self.step]
        with precision(self.device, self.config.mixed_precision and phase == "float"):
            outputs = [logits.float() for logits in network.each(x)]
        loss = self._loss(outputs, x, y)
        value = float(loss.detach())
        if not math.isfinite(value):
            name = "learning_rate" if phase == "float" else "qat_learning_rate"
            raise diverged(network, x, f"epoch {epoch + 1}", value, f"train.{name}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if phase == "qat" and self.config.qat_clip:
            # Without batch normalization nothing else bounds a step on a steep batch (docs/training.md).
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.qat_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(network)
        self.step += 1
        self.epoch_loss += value
        accuracy = None
        if position == self.batches.per_epoch - 1:
            with self.average.swapped_in(network) if self.average is not None else nullcontext():
                accuracy = evaluate(network, self.data.x_val, self.data.y_val, self.device)
        self.epoch_s += time.monotonic() - started
        if accuracy is not None:
            self._close_epoch(phase, epoch, accuracy, rate)
        epochs = self.config.float_epochs + self.config.qat_epochs
        return Progress(self.step, self.total_steps, phase, epoch, epochs, value, accuracy)

    def _loss(self, outputs: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Of the final output, which a teacher has a share in, and a share of that of each early exit."""
        smoothing, taught = self.config.label_smoothing, self.config.teacher
        loss = F.cross_entropy(outputs[-1], y, label_smoothing=smoothing)
        if self.teacher is not None:
            opinion = self.teacher.probabilities(x, taught.temperature)
            lesson = distillation_loss(outputs[-1], opinion, taught.temperature)
            loss = (1.0 - taught.weight) * loss + taught.weight * lesson
        return with_exits(loss, outputs[:-1], y, self.config.exit_weight, smoothing)

    def _close_epoch(self, phase: Phase, epoch: int, accuracy: float, rate: float) -> None:
        self.history.append(
            {
                "phase": phase,
                "epoch": epoch,
                "loss": self.epoch_loss / self.batches.per_epoch,
                "val_accuracy": accuracy,
                "learning_rate": rate,
                "seconds": round(self.epoch_s, 2),
            }
        )
        self.epoch_loss = self.epoch_s = 0.0

    @torch.no_grad()
    def _start_qat(self) -> None:
        """Fold, keep the float network for the final comparison, and find the grids."""
        network = self.network
        if self.average is not None:
            self.average.store(network)
        recalibrate_norms(network, self.batches, self.config.norm_batches)
        network.eval()
        network.fold()
        data, options = self.data, self.config.quantization
        self.quantization = set_grids(network, self._calibration_images(), options, data.x_val, data.y_val)
        self.float_state = {key: value.clone() for key, value in network.state_dict().items()}
        self._begin_phase()

    @property
    def choice(self) -> Choice:
        """How the grids are found; known once the network is folded."""
        return Choice.parse(self.quantization["choice"])

    def _renew_ranges(self) -> None:
        renew_ranges(
            self.network, self._calibration_images(), self.choice, self.config.quantization.percentile
        )

    def _calibration_images(self) -> Images:
        """The training batches that come next, again and again."""
        step, count = self.step, min(self.config.calibration_batches, self.batches.per_epoch)
        return lambda: (self.batches[step + index][0] for index in range(count))

    def _result(self) -> QatResult:
        network = self.network.eval()
        if self.average is not None:
            self.average.store(network)
        tuned = {key: value.clone() for key, value in network.state_dict().items()}
        float_accuracy = self._test_accuracy("float", self.float_state or tuned)
        fake_quant_accuracy = self._test_accuracy("quantized", tuned)
        network.ranges_frozen = True
        network.to("cpu")
        return QatResult(network, float_accuracy, fake_quant_accuracy, tuple(self.history), self.quantization)

    def _test_accuracy(self, mode: Mode, state: dict[str, Any]) -> float:
        self.network.load_state_dict(state)
        self.network.mode = mode
        return evaluate(self.network, self.data.x_test, self.data.y_test, self.device)

    def _save(self) -> None:
        if self.file is None or not all_finite(self.network):
            return
        average = self.average
        save_checkpoint(
            self.file,
            {
                "identity": self.identity,
                "step": self.step,
                "folded": self.network.folded,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": (average.updates, average.values) if average is not None else None,
                "history": self.history,
                "epoch_loss": self.epoch_loss,
                "epoch_s": self.epoch_s,
                "float_state": self.float_state,
                "quantization": self.quantization,
            },
        )

    def _resume(self) -> None:
        if self.file is None or not self.file.exists():
            return
        state = load_checkpoint(self.file, self.identity)
        if state["folded"]:
            self.quantization = state["quantization"]
            self.network.fold()
            self.network.quantize_by(self.choice)
            self.network.mode = "quantized"
            self._begin_phase()
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.updates, values = state["average"]
            for name, value in values.items():
                self.average.values[name].copy_(value)
        self.step, self.history = state["step"], state["history"]
        self.epoch_loss, self.epoch_s = state["epoch_loss"], state["epoch_s"]
        self.float_state = state["float_state"]
