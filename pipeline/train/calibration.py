"""Grids from what a folded network shows: activation ranges from calibration images, weight ranges from weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.train.layers import Range, Weighted
from pipeline.train.network import QatNetwork
from pipeline.train.quantconfig import Choice

Images = Callable[[], Iterable[Tensor]]  # the same calibration batches (n, c, h, w) each time
_BINS = 2048  # 8 to a step of the grid
_SHARES = np.linspace(0.02, 1.0, 99)  # of an end of the range that are tried
_ROUNDS = 2  # of looking at both ends in turn
_WEIGHT_SHARES = np.linspace(0.3, 1.0, 71)  # of the largest weight


@dataclass(eq=False)
class Histogram:
    """Values of one tensor: `counts` in equal bins from lo to hi, zeros apart since no grid moves them."""

    lo: float
    hi: float
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS))
    zeros: float = 0.0

    def add(self, y: Tensor) -> None:
        values = y[y != 0]
        self.zeros += y.numel() - values.numel()
        if values.numel() and self.hi > self.lo:
            found = torch.histc(values.float(), _BINS, self.lo, self.hi)
            self.counts += found.double().cpu().numpy()

    @property
    def centres(self) -> NDArray[np.float64]:
        width = (self.hi - self.lo) / _BINS
        return np.asarray(self.lo + width * (np.arange(_BINS) + 0.5), np.float64)

    def percentile(self, percent: float) -> tuple[float, float]:
        """Ends that leave out 100 - `percent` percent of the values on either side; never beyond 0."""
        total = self.counts.sum() + self.zeros
        if not self.hi > self.lo or not total:
            return self.lo, self.hi
        below = np.concatenate([[0.0], np.cumsum(self.counts)])
        edges = np.linspace(self.lo, self.hi, _BINS + 1)
        # The zeros lie at one point, which splits the cumulated counts in two.
        at_zero = float(np.interp(0.0, edges, below))
        out = total * (1.0 - percent / 100.0)
        lo = float(np.interp(out, below, edges)) if out < at_zero else 0.0
        above = below[-1] - at_zero
        hi = float(np.interp(below[-1] - out, below, edges)) if out < above else 0.0
        return min(lo, 0.0), max(hi, 0.0)

    def least_error(self) -> tuple[float, float]:
        """Ends whose grid of 256 steps has the least squared error over the values."""
        lo, hi = min(self.lo, 0.0), max(self.hi, 0.0)
        if not hi > lo:
            return lo, hi
        lows, highs = lo * _SHARES, hi * _SHARES
        best = self._best(lows, highs)  # both ends drawn in alike, then one after the other
        for _ in range(_ROUNDS):
            if lo < 0:
                best = self._best(lows, np.full_like(lows, best[1]))
            if hi > 0:
                best = self._best(np.full_like(highs, best[0]), highs)
        return best

    def _best(self, lows: NDArray[np.float64], highs: NDArray[np.float64]) -> tuple[float, float]:
        at = int(np.argmin([self.error(lo, hi) for lo, hi in zip(lows, highs, strict=True)]))
        return float(lows[at]), float(highs[at])

    def error(self, lo: float, hi: float) -> float:
        """Sum of squared errors of the values on the grid from lo to hi."""
        scale = (hi - lo) / 255.0
        if scale <= 0:
            return float((self.counts * self.centres**2).sum())
        zero = np.clip(np.round(-128.0 - lo / scale), -128, 127)
        x = self.centres
        rounded = (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale
        return float((self.counts * (rounded - x) ** 2).sum())


class Calibration:
    """What the calibration images show of a folded network, for any of `choices`.

    Holds for the network's present weights. Ranges of layers that learn none (gates) are not looked at.
    """

    def __init__(
        self, network: QatNetwork, images: Images, choices: Iterable[Choice], percentile: float
    ) -> None:
        wanted = {choice.activations for choice in choices}
        self.percent = percentile
        self.averages: list[dict[str, Tensor]] = []
        self.extremes: dict[str, tuple[float, float]] = {}
        self.histograms: dict[str, Histogram] = {}
        was = network.training
        network.eval()
        if "average" in wanted:
            self._average(network, images)
        if wanted - {"average"}:
            self._extremes(network, images)
        if wanted & {"percentile", "mse"}:
            self._histograms(network, images)
        network.train(was)

    @torch.no_grad()
    def apply(self, network: QatNetwork, choice: Choice) -> None:
        """Set the network's grids by `choice`; it is in quantized mode then."""
        network.quantize_by(choice)
        if choice.weight_range == "mse":
            for layer in network.layers:
                if isinstance(layer, Weighted):
                    layer.clip = least_error_shares(layer.deployed()[0], tensor=layer.one_scale)
        if choice.tracks:
            for observed, state in zip(_ranges(network), self.averages, strict=True):
                observed.load_state_dict(state)
        else:
            for name, observed in _named_ranges(network):
                observed.set(*self._ends(name, choice.activations))
        network.mode = "quantized"

    def _ends(self, name: str, how: str) -> tuple[float, float]:
        if how == "minmax":
            return self.extremes[name]
        found = self.histograms[name]
        return found.percentile(self.percent) if how == "percentile" else found.least_error()

    @torch.no_grad()
    def _average(self, network: QatNetwork, images: Images) -> None:
        network.mode = "observe"
        for x in images():
            network(x)
        self.averages = [
            {name: value.clone() for name, value in observed.state_dict().items()}
            for observed in _ranges(network)
        ]

    def _extremes(self, network: QatNetwork, images: Images) -> None:
        def look(name: str, y: Tensor, *_: Any) -> None:
            lo, hi = (float(end) for end in torch.aminmax(y))
            before = self.extremes.get(name, (0.0, 0.0))  # every range includes 0
            self.extremes[name] = min(lo, before[0]), max(hi, before[1])

        _watch(network, images, look)

    def _histograms(self, network: QatNetwork, images: Images) -> None:
        self.histograms = {name: Histogram(*self.extremes[name]) for name, _ in _named_ranges(network)}

        def look(name: str, y: Tensor, *_: Any) -> None:
            if name in self.histograms:
                self.histograms[name].add(y)

        _watch(network, images, look)


@torch.no_grad()
def least_error_shares(weight: Tensor, *, tensor: bool) -> Tensor:
    """Share (out_c,) of each channel's largest weight at which to clip for the least squared error.

    weight: (out_c, ...). tensor: one share for all channels, of the largest weight of all.
    """
    rows = weight.detach().double().flatten(1).cpu()
    values = rows.reshape(1, -1) if tensor else rows
    largest = values.abs().amax(1, keepdim=True).clamp(min=1e-12)
    errors = []
    for share in _WEIGHT_SHARES:
        scale = largest * (share / 127.0)
        rounded = torch.round(values / scale).clamp(-127, 127) * scale
        errors.append(((rounded - values) ** 2).sum(1))
    # of equal errors the largest share: flipped, because argmin takes the first
    at = len(_WEIGHT_SHARES) - 1 - torch.stack(errors[::-1]).argmin(0)
    found = torch.from_numpy(_WEIGHT_SHARES)[at].float().expand(len(rows))
    return found.contiguous().to(weight.device)


@torch.no_grad()
def _watch(network: QatNetwork, images: Images, look: Callable[..., None]) -> None:
    network.mode, network.watch = "float", look
    try:
        for x in images():
            network(x)
    finally:
        network.watch = None


def _range_of(layer: nn.Module) -> Range | None:
    if isinstance(layer, Weighted):
        return layer.range
    return layer if isinstance(layer, Range) else None


def _ranges(network: QatNetwork) -> Iterator[Range]:
    return (observed for layer in network.layers if (observed := _range_of(layer)) is not None)


def _named_ranges(network: QatNetwork) -> Iterator[tuple[str, Range]]:
    for node, layer in zip(network.graph.nodes, network.layers, strict=True):
        observed = _range_of(layer)
        if observed is not None:
            yield node.name, observed
