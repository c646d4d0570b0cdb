"""A supernet's path with the heads of early exits, trained jointly as the full training does."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.search.supernet import Path, Supernet
from pipeline.train.seeding import seeded

_HEADS = 0xE817  # added to the seed: whatever else is drawn stays as it is without exits


class ExitNet(nn.Module):
    """`net` with a classifier of its own after each block of the space's `exits`.

    Heads are one matrix a block, sliced to the width that a path has there, as the final classifier is. An exit's loss
    counts `head_weight` for its head and `loss_weight` for the blocks before it: 0 trains them for the final output
    alone.
    """

    def __init__(self, net: Supernet, seed: int, loss_weight: float, head_weight: float) -> None:
        super().__init__()
        self.net, self.head_weight = net, head_weight
        self.passed_on = loss_weight / head_weight  # of a head's gradient, to the blocks
        space, widest = net.space, max(net.space.widths)
        with seeded(seed + _HEADS):
            self.heads = nn.ParameterList(
                torch.randn(space.classes, widest) / math.sqrt(widest) for _ in space.exits
            )
            self.biases = nn.ParameterList(torch.zeros(space.classes) for _ in space.exits)

    def forward(self, x: Tensor, path: Path) -> Tensor:
        """Logits (outputs, n, classes): of each exit in order, then the final ones."""
        *early, last = self.net.pooled(x, path, exits=self.net.space.exits)
        logits = [
            F.linear(self._into_head(mean), head[:, : mean.shape[1]], bias)
            for mean, head, bias in zip(early, self.heads, self.biases, strict=True)
        ]
        return torch.stack([*logits, self.net.classify(last)])

    def _into_head(self, mean: Tensor) -> Tensor:
        """`mean` as it is, whose gradient is the part that the blocks learn from."""
        if self.passed_on == 1:
            return mean
        return mean.detach() + self.passed_on * (mean - mean.detach())

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of the final output, plus `head_weight` times that of each exit."""
        *early, final = (F.cross_entropy(logits, labels) for logits in outputs)
        return final + self.head_weight * sum(early)

    def first_nonfinite(self, x: Tensor, path: Path) -> str:
        """As the supernet's; a head where that has nothing to blame."""
        where = self.net.first_nonfinite(x, path)
        if where:
            return where
        with torch.no_grad():
            return "" if torch.isfinite(self(x, path)).all() else "an early exit's head"


def on_int8_grid(logits: NDArray[np.float32]) -> NDArray[np.int8]:
    """Logits (n, classes) as an exported file would have them: 255 steps over their own range, with 0 in it."""
    low, high = min(0.0, float(logits.min())), max(0.0, float(logits.max()))
    scale = max(high - low, 1e-12) / 255
    return np.clip(np.rint((logits - low) / scale) - 128, -128, 127).astype(np.int8)
