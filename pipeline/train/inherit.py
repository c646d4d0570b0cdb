"""Starting a network from weights that were learnt elsewhere, such as in a supernet."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.train.layers import Weighted
from pipeline.train.network import QatNetwork


@torch.no_grad()
def inherit(network: QatNetwork, weights: Sequence[Mapping[str, Tensor]]) -> None:
    """Fill `network` with `weights`: for each operator that has any, in execution order, `weight` and either
    `scale` and `shift` of its normalization or a `bias`.

    Heads of early exits have no such weights and keep their own. Running statistics stay at their start values;
    training sets them. Raises ModelError where they do not fit.
    """
    graph = network.graph
    layers = [
        layer
        for node, layer in zip(graph.nodes, network.layers, strict=True)
        if isinstance(layer, Weighted) and node.output not in graph.exits
    ]
    if len(layers) != len(weights):
        raise ModelError(f"weights of {len(weights)} operators do not fit a network of {len(layers)}")
    for layer, given in zip(layers, weights, strict=True):
        targets: dict[str, Tensor | None] = {"weight": layer.weight, "bias": layer.bias}
        if layer.norm is not None:
            targets |= {"scale": layer.norm.weight, "shift": layer.norm.bias}
        wanted = {name: target for name, target in targets.items() if target is not None}
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        if shapes != {name: tuple(target.shape) for name, target in wanted.items()}:
            raise ModelError(f"weights of shapes {shapes} do not fit {layer.op.key}")
        for name, target in wanted.items():
            target.copy_(given[name])


def fingerprint_of(weights: Sequence[Mapping[str, Tensor]]) -> str:
    """A hash of names, shapes and values."""
    digest = hashlib.sha256()
    for layer in weights:
        for name, value in sorted(layer.items()):
            content = value.cpu().contiguous().numpy().tobytes()
            digest.update(f"{name} {tuple(value.shape)}".encode() + content)
    return digest.hexdigest()
