"""OpSpec: one operator instance, the key of LUT rows, benchmark requests and per-layer reports."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

OpKind = Literal[
    "conv2d",
    "depthwise_conv2d",
    "fully_connected",
    "add",
    "mul",
    "mean",
    "avg_pool",
    "max_pool",
    "pad",
    "logistic",
    "hard_swish",
    "softmax",
    "reshape",
]
Activation = Literal["none", "relu", "relu6"]
OP_KINDS: tuple[str, ...] = get_args(OpKind)


@dataclass(frozen=True, slots=True, order=True)
class OpSpec:
    """Shapes and hyper-parameters of one INT8 operator (batch 1, NHWC).

    Quantization parameters are left out on purpose: no kernel's running time depends on them, so two
    layers that differ only there share one LUT row.

    Tensors without spatial extent use h = w = 1. FULLY_CONNECTED and SOFTMAX over several rows put the
    row count into `in_h`. `in2_*` is the second operand of add/mul (0 when there is none); where it
    differs from the first it is broadcast. Paddings are zeros-of-the-input (TFLite SAME gives
    asymmetric values; VALID gives 0).
    """

    kind: OpKind
    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    kernel_h: int = 1
    kernel_w: int = 1
    stride_h: int = 1
    stride_w: int = 1
    dilation_h: int = 1
    dilation_w: int = 1
    pad_top: int = 0
    pad_left: int = 0
    pad_bottom: int = 0
    pad_right: int = 0
    in2_h: int = 0
    in2_w: int = 0
    in2_c: int = 0
    activation: Activation = "none"

    @property
    def in_bytes(self) -> int:
        return self.in_h * self.in_w * self.in_c

    @property
    def out_bytes(self) -> int:
        return self.out_h * self.out_w * self.out_c

    @property
    def macs(self) -> int:
        """Multiply-accumulates per inference; 0 for operators without weights."""
        if self.kind == "conv2d":
            return self.out_bytes * self.kernel_h * self.kernel_w * self.in_c
        if self.kind == "depthwise_conv2d":
            return self.out_bytes * self.kernel_h * self.kernel_w
        if self.kind == "fully_connected":
            return self.in_h * self.in_w * self.in_c * self.out_c
        return 0

    @property
    def key(self) -> str:
        """Stable text form, e.g. `conv2d:28,28,1,14,14,16,3,3,2,2,1,1,0,0,1,1,0,0,0,relu6`."""
        values = [str(getattr(self, f.name)) for f in fields(self)[1:]]
        return f"{self.kind}:{','.join(values)}"

    @classmethod
    def from_key(cls, key: str) -> OpSpec:
        """Inverse of `key`; raises ValueError on anything else."""
        kind, _, rest = key.partition(":")
        parts = rest.split(",")
        if kind not in OP_KINDS or len(parts) != len(fields(cls)) - 1:
            raise ValueError(f"not an operator key: {key!r}")
        if parts[-1] not in get_args(Activation):
            raise ValueError(f"unknown activation in operator key: {key!r}")
        values: Any = (kind, *map(int, parts[:-1]), parts[-1])
        return cls(*values)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int, int]:
    """TFLite SAME along one axis: (output size, pad before, pad after)."""
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return out, total // 2, total - total // 2
