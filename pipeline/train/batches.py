"""Batches from arrays in memory: shuffled, augmented and normalized, all on whole tensors.

Everything random is a function of (seed, step), so that an interrupted training continues exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.data import DataSet
from pipeline.errors import ConfigError
from pipeline.train.config import TrainConfig
from pipeline.train.device import there

_SHUFFLE, _AUGMENT, _CUT, _MIX, _PLAIN = 1, 2, 3, 4, 5  # separate random streams


def to_input(images: Tensor | NDArray[np.uint8]) -> Tensor:
    """uint8 (n, h, w, c) to float32 (n, c, h, w) in [0, 1], channels last in memory."""
    tensor = torch.as_tensor(images)
    return tensor.permute(0, 3, 1, 2).float().div_(255.0).contiguous(memory_format=torch.channels_last)


class Batches:
    """Training batches by step number; the last, incomplete batch of each epoch is left out.

    `classes`: how many outputs the network has; `y` may lack some of them. Raises ConfigError for a translation by
    more than an image.
    """

    def __init__(
        self,
        x: NDArray[np.uint8],
        y: NDArray[np.int64],
        config: TrainConfig,
        *,
        classes: int,
        seed: int,
        mirror: bool,
        device: torch.device | None = None,
    ):
        self.device = device or torch.device("cpu")
        self.x = self._on_device(np.ascontiguousarray(x))
        self.y = self._on_device(np.ascontiguousarray(y))
        self.size = min(config.batch_size, len(x))
        self.per_epoch = len(x) // self.size
        self.shift = config.shift
        if self.shift >= max(x.shape[1:3]):
            raise ConfigError(
                f"train.shift = {self.shift} moves images of {x.shape[1]}x{x.shape[2]} pixels out of sight",
                hint="at most a few pixels",
            )
        self.mirror = mirror and config.mirror
        self.cutout = config.cutout
        self.mixup = config.mixup
        self.classes = classes
        self.seed = seed
        self._blank = int(np.rint(x.mean())) if self.cutout else 0  # what says least: the mean pixel
        self._epoch = -1
        self._order = self._on_device(np.empty(0, np.int64))

    @classmethod
    def of(cls, data: DataSet, config: TrainConfig, seed: int, device: torch.device) -> Batches:
        """The training split's."""
        return cls(
            data.x_train, data.y_train, config,
            classes=data.classes, seed=seed, mirror=data.mirror, device=device,
        )  # fmt: skip

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """(images (n, c, h, w) float32, labels (n,) int64) of global step `step`.

        With mixup the labels are probabilities (n, classes) float32.
        """
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self.seed, _SHUFFLE, epoch)).permutation(len(self.x))
            self._order, self._epoch = self._on_device(order), epoch
        chosen = self._order[position * self.size : (position + 1) * self.size]
        rng = np.random.default_rng((self.seed, _AUGMENT, step))
        images = self._augment(self.x[chosen], rng)
        if self.cutout:
            images = self._cut(images, np.random.default_rng((self.seed, _CUT, step)))
        if self.mixup:
            return self._mix(to_input(images), self.y[chosen], np.random.default_rng((self.seed, _MIX, step)))
        return to_input(images), self.y[chosen]

    def plain(self, index: int) -> Tensor:
        """Images (n, c, h, w) of batch `index`, which is one and the same in every epoch, not augmented."""
        order = np.random.default_rng((self.seed, _PLAIN)).permutation(len(self.x))
        chosen = self._on_device(order[index * self.size : (index + 1) * self.size])
        return to_input(self.x[chosen])

    def _on_device(self, array: NDArray[Any]) -> Tensor:
        return there(array, self.device)

    def _count(self, n: int) -> Tensor:
        return torch.arange(n, device=self.device)

    def _cut(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Blanks one square per image; its centre lies anywhere, so it may stick out."""
        n, height, width, _ = x.shape
        top = self._on_device(rng.integers(0, height, (n, 1)) - self.cutout // 2)
        left = self._on_device(rng.integers(0, width, (n, 1)) - self.cutout // 2)
        rows, columns = self._count(height)[None], self._count(width)[None]
        inside_rows = (rows >= top) & (rows < top + self.cutout)
        inside_columns = (columns >= left) & (columns < left + self.cutout)
        return x.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[..., None], self._blank)

    def _mix(self, x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Blends each image and its label with another one of the batch, all by the same share."""
        share = float(rng.beta(self.mixup, self.mixup))
        other = self._on_device(rng.permutation(len(x)))
        labels = F.one_hot(y, self.classes).float()
        return torch.lerp(x[other], x, share), torch.lerp(labels[other], labels, share)

    def _augment(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        n, height, width, _ = x.shape
        columns = self._count(width).repeat(n, 1)
        if self.mirror:
            flipped = self._on_device(rng.random(n) < 0.5)[:, None]
            columns = torch.where(flipped, width - 1 - columns, columns)
        if not self.shift:
            return x.gather(2, columns[:, None, :, None].expand_as(x)) if self.mirror else x
        dy, dx = self._on_device(rng.integers(0, 2 * self.shift + 1, (2, n, 1)))
        padded = F.pad(x, (0, 0, self.shift, self.shift, self.shift, self.shift))
        rows = self._count(height) + dy
        return padded[self._count(n)[:, None, None], rows[:, :, None], (columns + dx)[:, None, :]]
