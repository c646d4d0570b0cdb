"""Batches, training steps and accuracies of single paths through the supernet, on a CPU or a GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.search.cell_costs import EdgePath
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.checkpoint import Checkpoint
from pipeline.search.data import SearchData
from pipeline.search.exitnet import ExitNet
from pipeline.search.supernet import Path, Supernet
from pipeline.train.device import there

Images: TypeAlias = NDArray[np.uint8] | Tensor
Labels: TypeAlias = NDArray[np.int64] | Tensor
Net: TypeAlias = Supernet | CellSupernet | ExitNet  # `AnyPath` is one of its own
AnyPath: TypeAlias = Path | EdgePath


class Diagnosable(Protocol):
    """A supernet that can say where on one of its paths the first value that is not a number appears."""

    def first_nonfinite(self, x: Tensor, path: Any, /) -> str: ...


MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
GRADIENT_NORM = 5.0
RATE = "search.weight_lr"  # whose learning rate it is, unless said otherwise


def tensors(x: Images, y: Labels) -> tuple[Tensor, Tensor]:
    """Images as (n, c, h, w) float 0..1 in channels-last memory, labels as int64; where `x` is."""
    images = torch.as_tensor(x).permute(0, 3, 1, 2).float().div_(255.0)
    return images.contiguous(memory_format=torch.channels_last), torch.as_tensor(y).long()


def draw_batch(x: Images, y: Labels, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch of different images. Which ones depends on `rng` alone, not on the device."""
    index: Any = rng.choice(len(x), size=min(size, len(x)), replace=False, shuffle=False)
    if isinstance(x, Tensor):
        index = there(index, x.device)
    return tensors(x[index], y[index])


def weight_optimizer(net: Net, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(
        net.parameters(), lr=lr, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )


def weight_step(
    net: Net,
    optimizer: torch.optim.SGD,
    path: AnyPath,
    batch: tuple[Tensor, Tensor],
    lr: float,
    rate_name: str = RATE,
) -> float:
    """One step on the weights that `path` uses; returns the loss. Weights of other paths stay untouched."""
    return shared_step(net, optimizer, [path], batch, lr, rate_name=rate_name)


def shared_step(
    net: Net,
    optimizer: torch.optim.SGD,
    paths: Sequence[AnyPath],
    batch: tuple[Tensor, Tensor],
    lr: float,
    distill: float = 0.0,
    rate_name: str = RATE,
) -> float:
    """One step on the weights that any of `paths` uses; returns the mean of their losses on the batch.

    The first path learns the labels; of the others' loss the part `distill` is the cross entropy with the first one's
    outputs (after "BigNAS"). One path's activations live at a time. Raises ConfigError where the step diverges, with
    `rate_name`, the run file's name of the rate.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    images, labels = batch
    losses: list[Tensor] = []
    soft: Tensor | None = None
    for path in paths:
        logits = net(images, path).float()
        loss = net.loss(logits, labels) if isinstance(net, ExitNet) else F.cross_entropy(logits, labels)
        if soft is not None:
            loss = (1 - distill) * loss + distill * F.cross_entropy(logits, soft)
        elif distill:
            soft = logits.detach().softmax(1)
        (loss / len(paths)).backward()
        losses.append(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
    # A GPU is waited for here alone. A step that diverges is not applied: the weights stay as the last checkpoint could
    # have them.
    *values, length = torch.stack([*losses, norm]).tolist()
    for path, value in zip(paths, values, strict=True):
        if not math.isfinite(value):
            raise diverged(net, path, images, f"the loss is {value}", rate_name)
    if not math.isfinite(length):
        raise diverged(net, paths[0], images, f"the gradient's norm is {length}", rate_name)
    optimizer.step()
    return float(sum(value / len(paths) for value in values))


def diverged(
    net: Diagnosable, path: Any, images: Tensor, what: str, rate: str = RATE, *, choices: str = ""
) -> ConfigError:
    """The error of a step that cannot be taken, with the first layer that is to blame; `path` is one of `net`'s.

    `rate` is the setting that the hint names; of a step of what chooses among paths `choices`, where no layer of the
    net is to blame.
    """
    where = net.first_nonfinite(images, path)
    if choices and not where:
        where, rate = "what chooses among the operators", choices
    where = where or "the backward pass"
    return ConfigError(
        f"the search diverged: {what}; first in {where}",
        hint=f"lower {rate}; the last good checkpoint is kept",
    )


def choice_rate(rate: str, loss: Tensor) -> str:
    """What to lower where a step of what chooses, with learning rate `rate`, cannot be taken.

    Where `loss` is finite its gradient was not, which is made of the net's losses, or comes through its gates: the
    weights may have grown too large without a value in the net that is not finite.
    """
    return f"{rate} or {RATE}" if torch.isfinite(loss) else rate


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Of all gradients together; 0 where there are none."""
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())


def cosine(lr: float, done: int, total: int) -> float:
    """Cosine decay from `lr` to 2 % of it."""
    return lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done / max(1, total)))))


@dataclass(frozen=True, slots=True)
class Validation:
    """A fixed, seeded part of the validation split, in equal batches (their statistics normalize)."""

    batches: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, data: SearchData, images: int, seed: int, batch: int = 500) -> Validation:
        index = np.random.default_rng([seed, 0x7A1]).permutation(len(data.x_val))[:images]
        parts = np.array_split(index, max(1, len(index) // batch))
        return cls(tuple(tensors(data.x_val[p], data.y_val[p]) for p in parts))

    def accuracy(self, net: Net, path: AnyPath, rate_name: str = RATE) -> float:
        """Fraction of the images that `path` classifies correctly.

        Raises ConfigError where its outputs are no numbers: the last step's weights have seen no loss yet.
        """
        finite, right = [], []
        with torch.inference_mode():
            for x, y in self.batches:
                logits = net(x, path)
                finite.append(torch.isfinite(logits).all())
                right.append((logits.argmax(1) == y).sum())
            # a GPU is waited for once, not after each batch
            found: list[int] = torch.stack([*finite, *right]).tolist()
        count = len(self.batches)
        for (x, _), whole in zip(self.batches, found[:count], strict=True):
            if not whole:
                raise diverged(net, path, x, "validation gives no numbers", rate_name)
        return sum(found[count:]) / sum(len(y) for _, y in self.batches)

    def outputs(self, net: ExitNet, path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logits (outputs, n, classes) of all images, in the order of their labels (n,). Raises as `accuracy`."""
        found, labels = [], []
        with torch.inference_mode():
            for x, y in self.batches:
                found.append(net(x, path).float())
                labels.append(y)
            logits = torch.cat(found, dim=1).cpu().numpy()
        if not np.isfinite(logits).all():
            raise diverged(net, path, self.batches[0][0], "validation gives no numbers")
        return logits, torch.cat(labels).cpu().numpy()


def train_path(
    net: Net,
    path: AnyPath,
    data: SearchData,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    rng: np.random.Generator,
    on_step: Callable[[int], None],
    rate_name: str = RATE,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train `net` along one path only, with cosine decay; calls `on_step(steps done)`. Raises as `shared_step`.

    Goes on exactly from where `checkpoint` is, which the caller discards once the outcome is kept.
    """
    optimizer = weight_optimizer(net, lr)
    state = checkpoint.load() if checkpoint is not None else None
    if state is not None:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        rng.bit_generator.state = json.loads(state["rng"])
    for step in range(state["step"] if state is not None else 0, steps):
        batch = draw_batch(data.x_train, data.y_train, batch_size, rng)
        weight_step(net, optimizer, path, batch, cosine(lr, step, steps), rate_name)
        if checkpoint is not None and checkpoint.due():
            checkpoint.save(
                {
                    "net": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "rng": json.dumps(rng.bit_generator.state),
                    "step": step + 1,
                }
            )
        on_step(step + 1)
