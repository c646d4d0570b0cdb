"""Batches from arrays in memory: shuffled, augmented and normalized, all on whole tensors.

Everything random is a function of (seed, step), so that an interrupted training continues exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.train.config import TrainConfig

_SHUFFLE, _AUGMENT = 1, 2  # separate random streams


def to_input(images: Tensor | NDArray[np.uint8]) -> Tensor:
    """uint8 (n, h, w, c) to float32 (n, c, h, w) in [0, 1], channels last in memory."""
    tensor = torch.as_tensor(images)
    return tensor.permute(0, 3, 1, 2).float().div_(255.0).contiguous(memory_format=torch.channels_last)


class Batches:
    """Training batches by step number; the last, incomplete batch of each epoch is left out."""

    def __init__(
        self, x: NDArray[np.uint8], y: NDArray[np.int64], config: TrainConfig, *, seed: int, mirror: bool
    ):
        self.x = torch.from_numpy(np.ascontiguousarray(x))
        self.y = torch.from_numpy(np.ascontiguousarray(y))
        self.size = min(config.batch_size, len(x))
        self.per_epoch = len(x) // self.size
        self.shift = config.shift
        self.mirror = mirror and config.mirror
        self.seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """(images (n, c, h, w) float32, labels (n,) int64) of global step `step`."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self.seed, _SHUFFLE, epoch)).permutation(len(self.x))
            self._order, self._epoch = torch.from_numpy(order), epoch
        chosen = self._order[position * self.size : (position + 1) * self.size]
        rng = np.random.default_rng((self.seed, _AUGMENT, step))
        return to_input(self._augment(self.x[chosen], rng)), self.y[chosen]

    def _augment(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        n, height, width, _ = x.shape
        columns = torch.arange(width).repeat(n, 1)
        if self.mirror:
            flipped = torch.from_numpy(rng.random(n) < 0.5)[:, None]
            columns = torch.where(flipped, width - 1 - columns, columns)
        if not self.shift:
            return x.gather(2, columns[:, None, :, None].expand_as(x)) if self.mirror else x
        dy, dx = torch.from_numpy(rng.integers(0, 2 * self.shift + 1, (2, n, 1)))
        padded = F.pad(x, (0, 0, self.shift, self.shift, self.shift, self.shift))
        rows = torch.arange(height) + dy
        return padded[torch.arange(n)[:, None, None], rows[:, :, None], (columns + dx)[:, None, :]]
