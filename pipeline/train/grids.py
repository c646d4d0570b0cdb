"""Which grids a folded network gets: those that were asked for, or the best of several on the validation split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pipeline.train.batches import to_input
from pipeline.train.calibration import Calibration, Images
from pipeline.train.network import QatNetwork
from pipeline.train.quantconfig import Choice, QuantizationConfig

_BATCH = 500


def set_grids(
    network: QatNetwork,
    images: Images,
    config: QuantizationConfig,
    x_val: NDArray[np.uint8],
    y_val: NDArray[np.int64],
) -> dict[str, Any]:
    """Calibrate the folded `network`; returns the choice and what was tried, as the training's record has it.

    Of several candidates the one with the most right answers on the validation split (x_val (n, h, w, c),
    y_val (n,)) before fine-tuning is taken, of equals the one with the lower loss, then the first.
    """
    candidates = config.candidates
    found = Calibration(network, images, candidates, config.percentile)
    tried: list[dict[str, Any]] = []
    if len(candidates) > 1:
        for choice in candidates:
            found.apply(network, choice)
            accuracy, loss = _judge(network, x_val, y_val)
            tried.append({"choice": str(choice), "val_accuracy": accuracy, "val_loss": loss})
        best = max(range(len(tried)), key=lambda i: (tried[i]["val_accuracy"], -tried[i]["val_loss"], -i))
        chosen = candidates[best]
    else:
        chosen = candidates[0]
    found.apply(network, chosen)
    return {"choice": str(chosen), "tried": tried}


def renew_ranges(network: QatNetwork, images: Images, choice: Choice, percentile: float) -> None:
    """Ranges that do not follow every batch, found anew for the present weights."""
    if not choice.tracks:
        Calibration(network, images, (choice,), percentile).apply(network, choice)


@torch.no_grad()
def _judge(network: QatNetwork, x: NDArray[np.uint8], y: NDArray[np.int64]) -> tuple[float, float]:
    """(accuracy 0..1, mean cross-entropy) of the quantized network."""
    was = network.training
    network.eval()
    right, loss = 0, 0.0
    for start in range(0, len(x), _BATCH):
        logits = network(to_input(torch.from_numpy(x[start : start + _BATCH]).to(network.device)))
        labels = torch.from_numpy(y[start : start + _BATCH]).to(network.device)
        right += int((logits.argmax(1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    network.train(was)
    return right / len(x), loss / len(x)
