"""Vetoes: what makes an operator impossible to deploy, however fast and small it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.space.opspec import OP_KINDS, OpSpec

_ALIGNED = ("conv2d", "depthwise_conv2d")


@dataclass(frozen=True, slots=True)
class Vetoes:
    """`[vetoes]` of a run file. Raises ConfigError for an operator kind that does not exist.

    operators: kinds that the target's engine lacks (`mul`, `mean`, ...). channel_multiple: channels that go into
    and come out of convolutions must be multiples of it, images' own channels and pointwise convolutions of one
    pixel (the gates of squeeze-and-excitation) excepted: what SIMD units and accelerators want of alignment.
    weights_bytes: the largest constant array of one operator, where flash comes in pieces (0: no limit).
    tensor_bytes: the largest activation, where SRAM comes in banks (0: no limit).
    """

    operators: tuple[str, ...] = ()
    channel_multiple: int = 1
    weights_bytes: int = 0
    tensor_bytes: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.operators if kind not in OP_KINDS]
        if unknown:
            raise ConfigError(
                f"vetoes.operators has '{unknown[0]}'",
                hint=f"operators: {', '.join(sorted(OP_KINDS))}",
                key="operators",
            )
        if self.channel_multiple < 1:
            raise ConfigError("vetoes.channel_multiple must be at least 1", key="channel_multiple")

    def reason(self, op: OpSpec) -> str:
        """Why `op` cannot be deployed; empty where nothing is against it."""
        if op.kind in self.operators:
            return f"{op.kind} is vetoed: the target's engine does not have it"
        pixels = op.out_h * op.out_w
        channels = (op.out_c,) if op.in_c <= 4 else (op.in_c, op.out_c)
        if op.kind in _ALIGNED and pixels > 1 and any(c % self.channel_multiple for c in channels):
            return f"{op.kind} of {op.in_c} to {op.out_c} channels: not multiples of {self.channel_multiple}"
        weights = _weights_bytes(op)
        if self.weights_bytes and weights > self.weights_bytes:
            return f"{op.kind} with {weights:,} bytes of weights in one piece, {self.weights_bytes:,} are allowed"
        tensor = max(op.in_bytes, op.out_bytes)
        if self.tensor_bytes and tensor > self.tensor_bytes:
            return f"{op.kind} at a tensor of {tensor:,} bytes, {self.tensor_bytes:,} are allowed"
        return ""

    def reasons(self, ops: Iterable[OpSpec]) -> list[str]:
        """The reasons against any of `ops`, each once."""
        return list(dict.fromkeys(filter(None, map(self.reason, ops))))


def _weights_bytes(op: OpSpec) -> int:
    if op.kind == "conv2d":
        return op.kernel_h * op.kernel_w * op.in_c * op.out_c
    if op.kind == "depthwise_conv2d":
        return op.kernel_h * op.kernel_w * op.out_c
    return op.in_bytes * op.out_c if op.kind == "fully_connected" else 0
