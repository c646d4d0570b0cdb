"""Channels of a float network: how important each is, leaving some out, and masking them instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.space.architecture import Architecture
from pipeline.space.pruned import PrunedArchitecture, unpruned
from pipeline.space.widths import Group, groups
from pipeline.train.layers import Weighted
from pipeline.train.loss import joint_loss
from pipeline.train.network import QatNetwork

Kept = Sequence[NDArray[np.int64]]  # channels that stay, by group, ascending


def importance(
    network: QatNetwork,
    kind: str,
    batches: Iterable[tuple[Tensor, Tensor]],
    rng: np.random.Generator,
    *,
    exit_weight: float,
) -> list[NDArray[np.float64]]:
    """How much each channel of each group matters, (channels,) a group.

    "taylor": the first-order change of the loss that the blocks train by, in which an early exit counts `exit_weight`,
    where the channel is 0 for all that read it (Molchanov et al. 2019, arXiv:1906.10771, eq. 8, at the weights that
    read the channel), squared, mean over `batches`. It compares channels of different layers, and sees a residual
    connection's channel with all its readers.
    "scale": mean factor of the batch normalizations that make the channel, relative to the group's mean.
    """
    parts = groups(network.graph)
    if kind == "random":
        return [rng.random(group.channels) for group in parts]
    if kind == "scale":
        return [_scale(network, group) for group in parts]
    total = [np.zeros(group.channels) for group in parts]
    network.eval()  # running statistics, which do not move: the network as it is deployed
    count = 0
    for x, y in batches:
        network.zero_grad(set_to_none=True)
        joint_loss(network.each(x), y, exit_weight).backward()
        for found, group in zip(total, parts, strict=True):
            found += sum(_change(network.layers[i]) for i in group.consumers) ** 2
        count += 1
    network.zero_grad(set_to_none=True)
    return [found / max(count, 1) for found in total]


def _change(layer: torch.nn.Module) -> NDArray[np.float64]:
    """First-order change of the loss by removing each input channel of a contracting layer, (in_c,)."""
    assert isinstance(layer, Weighted) and layer.weight.grad is not None
    product = (layer.weight * layer.weight.grad).detach().double()
    found: NDArray[np.float64] = product.transpose(0, 1).flatten(1).sum(1).cpu().numpy()
    return found


def _scale(network: QatNetwork, group: Group) -> NDArray[np.float64]:
    found = []
    for i in group.producers:
        layer = network.layers[i]
        if isinstance(layer, Weighted):
            # without normalization (squeezes): the size of the weights
            value = layer.norm.weight.abs() if layer.norm is not None else layer.weight.flatten(1).norm(dim=1)
            found.append(value.detach().double().cpu().numpy())
    mean: NDArray[np.float64] = np.mean(found, axis=0)
    return mean / max(float(mean.mean()), 1e-12)


def all_channels(architecture: Architecture) -> list[NDArray[np.int64]]:
    return [np.arange(group.channels) for group in groups(architecture.lower())]


@torch.no_grad()
def cut(network: QatNetwork, kept: Kept) -> QatNetwork:
    """A smaller float network with the channels `kept`, which computes what `network` does with the others masked."""
    graph = network.graph
    with torch.random.fork_rng(devices=[]):  # its own random weights are replaced
        smaller = QatNetwork(_narrowed(network.architecture, [len(k) for k in kept]))
    of = {t: torch.from_numpy(k) for g, k in zip(groups(graph), kept, strict=True) for t in g.tensors}
    smaller.to(network.device, memory_format=torch.channels_last)
    for node, old, new in zip(graph.nodes, network.layers, smaller.layers, strict=True):
        state: dict[str, Any] = old.state_dict()
        if isinstance(old, Weighted):
            out, into = of.get(node.output), of.get(node.inputs[0])
            for name, value in state.items():
                if value.ndim == 0:
                    continue
                made = into if name.startswith("arriving") else out  # whose channels a row of it stands for
                chosen = value if made is None else value.index_select(0, made.to(value.device))
                if name == "weight" and node.op.kind != "depthwise_conv2d" and into is not None:
                    chosen = chosen.index_select(1, into.to(value.device))
                state[name] = chosen
        new.load_state_dict(state)
        if isinstance(old, Weighted) and old.arriving is not None:
            # what is left varies as before, but its common deviation is not that of all
            new.weight.mul_(new.arriving.deviation / old.arriving.deviation)
    smaller.train(network.training)
    return smaller


def _narrowed(architecture: Architecture, widths: list[int]) -> Architecture:
    return PrunedArchitecture(base=unpruned(architecture), widths=tuple(widths))


@torch.no_grad()
def mask(network: QatNetwork, kept: Kept) -> None:
    """Let nothing read the channels that are not `kept`: their weights in all readers become 0."""
    for group, stay in zip(groups(network.graph), kept, strict=True):
        gone = np.setdiff1d(np.arange(group.channels), stay)
        for i in group.consumers:
            layer = network.layers[i]
            assert isinstance(layer, Weighted)
            layer.weight[:, torch.from_numpy(gone)] = 0.0


def widths_of(architecture: Architecture) -> tuple[int, ...]:
    return tuple(group.channels for group in groups(architecture.lower()))
