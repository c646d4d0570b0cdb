"""The weights of one path of the supernet, as the operators of the lowered architecture want them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.search.candidates import ExactPath
from pipeline.search.cell_costs import EdgePath
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.supernet import Affine, SuperBlock, Supernet
from pipeline.space.blocks import DEPTHWISE_KERNEL, EXPANSION, SE_REDUCTION, se_channels
from pipeline.storage import UNREADABLE, write_bytes

# `weight`, and `scale` and `shift` of its normalization or a `bias`.
LayerWeights: TypeAlias = dict[str, Tensor]


@torch.no_grad()
def inherited(net: Supernet, path: ExactPath) -> list[LayerWeights]:
    """Copies of the weights that `path` uses, one entry for each operator with weights, in execution order."""
    space = net.space
    layers = [_normalized(net.stem, net.stem_norm, 0)]
    arriving = space.stem_channels
    for block, (op, width) in zip(net.blocks, path, strict=True):
        name, channels = space.ops[op], space.channels[width]
        if name != "skip":
            layers += _block(cast(SuperBlock, block), name, arriving, channels)
            arriving = channels
    layers.append({"weight": net.classifier[:, :arriving], "bias": net.classifier_bias})
    return _copies(layers)


@torch.no_grad()
def inherited_cells(net: CellSupernet, path: EdgePath) -> list[LayerWeights]:
    """`inherited` in a space of cells."""
    space = net.space
    layers = [_normalized(net.stem, net.stem_norm, 0)]
    for cell in range(len(space.channels)):
        if str(cell) in net.widen:
            layers.append(_normalized(net.widen[str(cell)], _affine(net.widen_norm[str(cell)]), 0))
        for edge in range(cell * space.edges, (cell + 1) * space.edges):
            if space.ops[path[edge]] == "conv":
                layers += [
                    _normalized(net.depthwise[edge], _affine(net.depthwise_norm[edge]), 0),
                    _normalized(net.pointwise[edge], _affine(net.pointwise_norm[edge]), 0),
                ]
    layers.append({"weight": net.classifier, "bias": net.classifier_bias})
    return _copies(layers)


def _copies(layers: list[LayerWeights]) -> list[LayerWeights]:
    return [{key: value.detach().cpu().clone() for key, value in layer.items()} for layer in layers]


def _affine(module: nn.Module) -> Affine:
    return cast(Affine, module)


def _normalized(weight: Tensor, norm: Affine, row: int) -> LayerWeights:
    channels = weight.shape[0]
    scale, shift = norm.scale[:channels], norm.shift[:channels]
    own_scale, own_shift = norm.row_scale[row, :channels], norm.row_shift[row, :channels]
    return {"weight": weight, "scale": scale + own_scale, "shift": shift + own_shift}


def _block(block: SuperBlock, op: str, arriving: int, channels: int) -> list[LayerWeights]:
    row = block.row[op]
    if op in EXPANSION:
        wide = arriving * EXPANSION[op]
        return [
            _normalized(block.expand[:wide, :arriving], block.expand_norm, row),
            _normalized(block.inner[:wide], block.inner_norm, row),
            _normalized(block.project[:channels, :wide], block.project_norm, row),
        ]
    size = DEPTHWISE_KERNEL.get(op, 3)
    cut = (block.depthwise.shape[-1] - size) // 2
    middle = slice(cut, cut + size)
    layers = [
        _normalized(block.depthwise[:arriving, :, middle, middle], block.depthwise_norm, row),
        _normalized(block.pointwise[:channels, :arriving], block.pointwise_norm, row),
    ]
    if op in SE_REDUCTION:
        hidden = se_channels(channels, SE_REDUCTION[op])
        layers.append({"weight": block.reduce[:hidden, :channels], "bias": block.reduce_bias[:hidden]})
        layers.append({"weight": block.gate[:channels, :hidden], "bias": block.gate_bias[:channels]})
    return layers


def save_weights(path: Path, weights: list[LayerWeights]) -> None:
    """Write `path`, replacing it in one step. Raises StorageError."""
    content = io.BytesIO()
    torch.save(weights, content)
    write_bytes(path, content.getbuffer())


def load_weights(path: Path) -> list[LayerWeights]:
    """What `save_weights` wrote; raises ConfigError for a missing or damaged file."""
    try:
        weights: list[LayerWeights] = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", hint="delete that file; its stage runs again"
        ) from error
    return weights
