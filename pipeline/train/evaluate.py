"""Accuracy of a network on a whole split."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.train.batches import to_input

_BATCH = 500


@torch.no_grad()
def accuracy(network: nn.Module, x: NDArray[np.uint8], y: NDArray[np.int64], device: torch.device) -> float:
    """Share (0..1) of the images (n, h, w, c) that `network`, put in evaluation mode, classifies correctly."""
    network.eval()
    right = 0
    for start in range(0, len(x), _BATCH):
        images = torch.from_numpy(x[start : start + _BATCH]).to(device)
        logits = network(to_input(images))
        right += int((logits.argmax(1).cpu().numpy() == y[start : start + _BATCH]).sum())
    return right / len(x)
