"""What can be chosen about training."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.errors import ConfigError
from pipeline.tomltable import MOST_EXIT_WEIGHT, MOST_RATE, MOST_THREADS, check_at_most
from pipeline.train.pruneconfig import PruneConfig
from pipeline.train.quantconfig import QuantizationConfig
from pipeline.train.teacherconfig import TeacherConfig

# Fields of TrainConfig that change at most the last bits, or when something is written.
INCIDENTAL = ("checkpoint_s", "threads", "device")
_MOST_OF_HEADS = 3e38  # float32 ends at 3.4e38


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Hyper-parameters of float training followed by quantization-aware fine-tuning.

    The defaults train a network of 1.5 to 2 million MACs on Fashion-MNIST in six to seven minutes on two
    cores. Raises ConfigError for values that cannot work.
    """

    float_epochs: int = 12
    qat_epochs: int = 2  # 0: the calibrated network is exported as it is (post-training quantization)
    batch_size: int = 128
    learning_rate: float = 0.15  # peak of the one-cycle schedule (SGD, Nesterov momentum)
    qat_learning_rate: float = 0.01  # start of a cosine to zero
    qat_clip: float = 2.0  # limit of the gradient's norm in fine-tuning; 0: none
    momentum: float = 0.9
    weight_decay: float = 5e-5  # on weights only, not on biases or normalization
    label_smoothing: float = 0.05
    shift: int = 1  # random translation by up to so many pixels
    mirror: bool = True  # random mirroring, where the data set allows it
    cutout: int = 0  # side of a square that is blanked at a random place, in pixels; 0: none
    mixup: float = 0.0  # alpha of the Beta distribution by which pairs of images are blended; 0: none
    exit_weight: float = 0.3  # of each early exit's loss, where the final output's counts 1
    calibration_batches: int = 30  # that set the activation ranges before fine-tuning
    ema: float = 0.0  # decay a step of averaged weights, which are then the ones that count; 0: none
    norm_batches: int = 0  # plain batches that set the batch statistics anew before folding; 0: as trained
    threads: int = 2
    device: str = "auto"  # "auto": a GPU where there is one, else the CPU; "cpu"; "cuda" or "cuda:1"
    mixed_precision: bool = False  # bfloat16 arithmetic in float training, never in fine-tuning
    checkpoint_s: float = 20.0  # at most so much work is lost by an interruption
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)

    def __post_init__(self) -> None:
        for name in ("float_epochs", "batch_size", "threads", "calibration_batches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} = {getattr(self, name)} must be at least 1", key=name)
        for name in ("learning_rate", "qat_learning_rate", "exit_weight"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"train.{name} = {getattr(self, name)} must be positive", key=name)
        for name in (
            "qat_epochs",
            "qat_clip",
            "weight_decay",
            "shift",
            "cutout",
            "mixup",
            "norm_batches",
            "checkpoint_s",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"train.{name} = {getattr(self, name)} must not be negative", key=name)
        for name in ("label_smoothing", "momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"train.{name} = {getattr(self, name)} must be in [0, 1)", key=name)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(
                f"train.device = '{self.device}' is not known",
                hint='"auto", "cpu", "cuda" or "cuda:1"',
                key="device",
            )
        check_at_most(MOST_THREADS, {"train.threads": self.threads})
        rates = ("learning_rate", "qat_learning_rate", "weight_decay")
        check_at_most(MOST_RATE, {f"train.{name}": getattr(self, name) for name in rates})
        if self.exit_weight > MOST_EXIT_WEIGHT:
            raise ConfigError(
                f"train.exit_weight = {self.exit_weight:g} is too large: the blocks learn from each exit at so many "
                "times the learning rate, and training comes to nothing",
                hint=f"at most {MOST_EXIT_WEIGHT:g}; 1 counts an exit as the final output",
                key="exit_weight",
            )
        # the rate of exits' heads, which torch holds in float32 as well
        rate = max(self.learning_rate, self.qat_learning_rate, self.prune.learning_rate)
        fastest = rate / self.exit_weight
        if fastest > _MOST_OF_HEADS:
            raise ConfigError(
                f"train.exit_weight = {self.exit_weight:g} is too small: exits' heads learn at the learning rates "
                f"divided by it, {fastest:g}",
                hint=f"at least {1.01 * rate / _MOST_OF_HEADS:.2g}: float32 ends at 3.4e38",
                key="exit_weight",
            )
