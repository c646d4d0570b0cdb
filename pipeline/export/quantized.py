"""The integers of a quantized network, as plain values: what the writer writes. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.frontend import FrontEnd
from pipeline.space.exits import ExitRule
from pipeline.space.graph import OpGraph
from pipeline.space.kernels import LARGEST_DEPTHWISE_RATIO

_INT32_MAX = 2**31 - 1
_SMALLEST_RATIO = 2.0**-31  # below it TFLite's fixed-point multiplier becomes 0


@dataclass(frozen=True, slots=True)
class Grid:
    """real = (q - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """INT8 weights in TFLite's layout and INT32 biases.

    values: (out, kh, kw, in) for CONV_2D, (1, kh, kw, c) for DEPTHWISE_CONV_2D, (out, in) for
    FULLY_CONNECTED. scales: (out,) float32, or (1,) where all channels share one. biases: (out,).
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    biases: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedNetwork:
    """An OpGraph with a grid for each tensor, and weights for the nodes (by index) that have some.

    `constants`: values (INT8) of tensors, by number, that are no activations: the fixed operand of an addition.
    `exit_rule`: when to leave at the graph's exits; a file without it can be run as a whole only. `front_end`: what
    makes the input out of sound.
    """

    graph: OpGraph
    grids: tuple[Grid, ...]
    weights: dict[int, Weights]
    constants: dict[int, NDArray[np.int8]] = field(default_factory=dict)
    exit_rule: ExitRule | None = None
    front_end: FrontEnd | None = None

    def check(self) -> None:
        """Raise ModelError, naming the layer, where an integer kernel would overflow or lose everything."""
        if self.exit_rule is not None and len(self.exit_rule.thresholds) != len(self.graph.exits):
            raise ModelError(f"{len(self.exit_rule.thresholds)} thresholds for {len(self.graph.exits)} exits")
        for index, node in enumerate(self.graph.nodes):
            where = f"layer {index} ({node.name or node.op.kind})"
            out = self.grids[node.output]
            if not (np.isfinite(out.scale) and out.scale > 0 and -128 <= out.zero_point <= 127):
                raise ModelError(f"{where}: scale {out.scale}, zero point {out.zero_point} are not usable")
            if index not in self.weights:
                continue
            weights = self.weights[index]
            ratios = self.grids[node.inputs[0]].scale * weights.scales.astype(np.float64) / out.scale
            largest = LARGEST_DEPTHWISE_RATIO if node.op.kind == "depthwise_conv2d" else 1.0
            if not (ratios.max() < largest and ratios.min() > _SMALLEST_RATIO):
                raise ModelError(
                    f"{where}: requantization ratios {ratios.min():.3g}..{ratios.max():.3g} "
                    f"are not within (0, {largest:g})"
                )
            depth = 1 if node.op.kind == "depthwise_conv2d" else node.op.in_c
            products = node.op.kernel_h * node.op.kernel_w * depth * 255 * 127
            # A shift to the left comes before the multiplication, in 32 bits.
            sums = (np.abs(weights.biases.astype(np.float64)) + products) * np.exp2(_left_shifts(ratios))
            if sums.max() > _INT32_MAX:
                raise ModelError(f"{where}: bias {np.abs(weights.biases).max()} overflows the accumulator")


def _left_shifts(ratios: NDArray[np.float64]) -> NDArray[np.int32]:
    """Bits that TFLite shifts an accumulator to the left: a ratio is 2^shift times a fraction in [0.5, 1)."""
    return np.maximum(np.frexp(ratios)[1], 0)
