"""The loss of a network with early exits, as training and pruning count it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def with_exits(
    loss: Tensor, exits: Sequence[Tensor], y: Tensor, exit_weight: float, smoothing: float
) -> Tensor:
    """`loss` of the final output, plus `exit_weight` times the cross entropy of each of `exits`, logits (n, classes).

    y: labels (n,), or (n, classes) of blended images. Without exits it is `loss`.
    """
    for early in exits:
        loss = loss + exit_weight * F.cross_entropy(early, y, label_smoothing=smoothing)
    return loss


def joint_loss(outputs: Sequence[Tensor], y: Tensor, exit_weight: float, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of the last of `outputs`, with `with_exits` of the others."""
    *exits, final = outputs
    loss = F.cross_entropy(final, y, label_smoothing=smoothing)
    return with_exits(loss, exits, y, exit_weight, smoothing)
