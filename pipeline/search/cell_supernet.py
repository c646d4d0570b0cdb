"""The supernet of a cell space."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.search.cell_costs import EdgePath
from pipeline.search.supernet import Affine, convolve, kernel, max_pool
from pipeline.space.cells import CellSpace, edges
from pipeline.train.seeding import seeded

_EPSILON = 1e-5  # that of batch normalization


def standardized(x: Tensor) -> Tensor:
    """(n, c) less each channel's mean, all divided by one deviation, as `pipeline.train.layers.Standardize` does."""
    variance, mean = torch.var_mean(x.float(), 0, correction=0)
    return (x - mean) / torch.sqrt(variance.mean() + _EPSILON)


class CellSupernet(nn.Module):
    """Every edge has weights of its own; `forward` runs one path, or all operators weighted by gates.

    Gates (edges of all cells, ops) with rows that sum to 1 make an edge the weighted sum of its operators, as
    DARTS does. Normalization uses the batch's own statistics, that of what the classifier reads included.
    """

    def __init__(self, space: CellSpace, seed: int) -> None:
        super().__init__()
        with seeded(seed):
            self.space = space
            self.stem = kernel(space.stem_channels, space.input_shape[2], 3)
            self.stem_norm = Affine(1, space.stem_channels)
            self.widen, self.widen_norm = nn.ParameterDict(), nn.ModuleDict()
            self.depthwise, self.pointwise = nn.ParameterList(), nn.ParameterList()
            self.depthwise_norm, self.pointwise_norm = nn.ModuleList(), nn.ModuleList()
            arriving = space.stem_channels
            for cell, c in enumerate(space.channels):
                if c != arriving:
                    self.widen[str(cell)] = kernel(c, arriving, 1)
                    self.widen_norm[str(cell)] = Affine(1, c)
                for _ in range(space.edges):
                    self.depthwise.append(kernel(c, 1, 3))
                    self.pointwise.append(kernel(c, c, 1))
                    self.depthwise_norm.append(Affine(1, c))
                    self.pointwise_norm.append(Affine(1, c))
                arriving = c
            self.classifier = nn.Parameter(torch.randn(space.classes, arriving) / math.sqrt(arriving))
            self.classifier_bias = nn.Parameter(torch.zeros(space.classes))

    def forward(
        self, x: Tensor, choice: EdgePath | Tensor, watch: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w) in 0..1; `watch` gets each layer's name and output."""

        def seen(name: str, y: Tensor, op: str = "") -> Tensor:
            if watch is not None:
                watch(f"{name} ({op})" if op else name, y)
            return y

        space = self.space
        x = seen("the stem", F.relu6(self.stem_norm(convolve(x, self.stem, space.stem_stride), 0)))
        for cell, stride in enumerate(space.strides):
            x = max_pool(x) if stride == 2 else x
            if str(cell) in self.widen:
                x = F.relu6(self.widen_norm[str(cell)](F.conv2d(x, self.widen[str(cell)]), 0))
                seen(f"cell {cell + 1}, the convolution before it", x)
            nodes: list[Tensor] = [x]
            sums: dict[int, Tensor] = {}
            for edge, (node, source) in enumerate(edges(space.nodes), cell * space.edges):
                begin = f"node {source}" if source else "the input"
                name = f"cell {cell + 1}, {begin} to node {node + 1}"
                y = self._edge(edge, nodes[source], choice, partial(seen, name))
                sums[node] = sums[node] + y if node in sums else y
                if source == node:
                    nodes.append(sums[node])
            x = seen(f"cell {cell + 1}, its sum", torch.stack(nodes[1:]).sum(0))
        # A cell's sums grow with the identities in it: without this the logits of paths differ by orders of magnitude,
        # and the gradients of large ones spoil the weights of all. Deployed, it is part of the classifier.
        x = x.mean((2, 3))
        x = standardized(x) if len(x) > 1 else x
        return seen("the classifier", F.linear(x, self.classifier, self.classifier_bias))

    def paths_of(self, choice: EdgePath | Tensor, watch: object = None) -> int:
        """How many paths' work a pass is: gates run every operator of every edge."""
        return len(self.space.ops) if isinstance(choice, Tensor) else 1

    def first_nonfinite(self, x: Tensor, path: EdgePath | Tensor) -> str:
        """Where the first value that is not a number appears on the way of `x`; empty where there is none."""
        if not torch.isfinite(x).all():
            return "the images"
        if isinstance(path, Tensor) and not torch.isfinite(path).all():
            return "the hypernetwork"
        found: list[str] = []

        def watch(name: str, y: Tensor) -> None:
            if not found and not torch.isfinite(y).all():
                found.append(name)

        with torch.no_grad():
            self(x, path, watch)
        return found[0] if found else ""

    def _edge(
        self, edge: int, x: Tensor, choice: EdgePath | Tensor, seen: Callable[[Tensor, str], Tensor]
    ) -> Tensor:
        ops = self.space.ops
        if not isinstance(choice, Tensor):
            op = ops[choice[edge]]
            return seen(self._apply_op(edge, x, op), op)
        mixed = [choice[edge, i] * seen(self._apply_op(edge, x, op), op) for i, op in enumerate(ops)]
        return torch.stack(mixed).sum(0)

    def _apply_op(self, edge: int, x: Tensor, op: str) -> Tensor:
        if op == "identity":
            return x
        if op == "pool":
            return F.max_pool2d(x, 3, 1, padding=1)
        y = F.conv2d(x, self.depthwise[edge], padding=1, groups=x.shape[1])
        y = F.relu6(self.depthwise_norm[edge](y, 0))
        out: Tensor = F.relu6(self.pointwise_norm[edge](F.conv2d(y, self.pointwise[edge]), 0))
        return out
