"""Which kernel of the engine runs an operator, and what it needs in scratch and constant memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pipeline.space.opspec import OpSpec

# The benchmark firmware knows kernels by their position here.
KERNELS: tuple[str, ...] = (
    "edgenas_conv",
    "edgenas_conv_1x1",
    "edgenas_depthwise",
    "edgenas_depthwise_3x3",
    "edgenas_depthwise_plain",
    "edgenas_fully_connected",
    "edgenas_add",
    "edgenas_mul",
    "edgenas_mean",
    "edgenas_average_pool",
    "edgenas_max_pool",
    "edgenas_pad",
    "edgenas_table",
    "edgenas_softmax",
)

# sizeof of the parameter structs in edgenas/kernels.h on a 32-bit target; a test compiles them
STRUCT_BYTES = {"conv": 56, "elementwise": 56, "pool": 40, "pad": 20, "table": 8, "softmax": 12}

_LANES = 4  # channels that the depthwise kernels copy at a time

# Shifts to the left that the depthwise kernels' fast row functions take, as LEFT_MAX in
# firmware/engine/portable/depthwise_planes.c, without a cycle more.
DEPTHWISE_LEFT_SHIFTS = 8
# So large a requantization ratio (input scale * weight scale / output scale) may a depthwise convolution have in a
# network that is trained here: a ratio is a multiplier from 0.5 to 1, shifted.
LARGEST_DEPTHWISE_RATIO = 2.0 ** (DEPTHWISE_LEFT_SHIFTS - 1)


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """`name` is the C function; `constant_bytes` is what the layer places in flash besides code."""

    name: str
    scratch_bytes: int = 0
    constant_bytes: int = 0


@lru_cache(maxsize=65536)
def select(op: OpSpec) -> KernelChoice:
    """The kernel for `op`; RESHAPE has none (empty name): it is an alias."""
    return _SELECT[op.kind](op)


def _conv(op: OpSpec) -> KernelChoice:
    constants = _weighted(op, op.kernel_h * op.kernel_w * op.in_c, op.out_c)
    if (
        (op.kernel_h, op.kernel_w, op.stride_h, op.stride_w) == (1, 1, 1, 1)
        and (op.out_h, op.out_w) == (op.in_h, op.in_w)
        and not (op.pad_top or op.pad_left or op.pad_bottom or op.pad_right)
    ):
        return KernelChoice("edgenas_conv_1x1", 0, constants)
    return KernelChoice("edgenas_conv", 2 * op.kernel_h * op.kernel_w * op.in_c, constants)


def _depthwise(op: OpSpec) -> KernelChoice:
    constants = _weighted(op, op.kernel_h * op.kernel_w, op.out_c)
    if op.in_c == op.out_c and (op.dilation_h, op.dilation_w) == (1, 1):
        scratch = depthwise_scratch_bytes(op)
        if (op.kernel_h, op.kernel_w) == (3, 3):
            return KernelChoice("edgenas_depthwise_3x3", scratch, constants)
        return KernelChoice("edgenas_depthwise_plain", scratch, constants)
    return KernelChoice("edgenas_depthwise", 0, constants)


def depthwise_scratch_bytes(op: OpSpec) -> int:
    """Scratch of the depthwise kernels with planes: as edgenas_depthwise_planes (depthwise_planes.c) lays it out.

    Packed weights of four channels and a ring of kernel_h padded rows of four channels, all int16.
    """
    width = (op.out_w - 1) * op.stride_w + op.kernel_w
    width += width % 2
    packed_rows = 0
    if op.stride_w <= 2 and op.kernel_w in (5, 7):
        packed_rows = op.kernel_h
    elif op.stride_w <= 2 and (op.kernel_h, op.kernel_w) == (3, 3):
        packed_rows = 5
    return 2 * _LANES * (packed_rows * 2 * op.kernel_w + op.kernel_h * width)


def _fully_connected(op: OpSpec) -> KernelChoice:
    # one multiplier and shift for all channels; per-channel models add theirs in the engine
    weights = _padded(op.in_c * op.out_c)
    return KernelChoice("edgenas_fully_connected", 0, STRUCT_BYTES["conv"] + weights + 4 * op.out_c + 4 + 4)


def _weighted(op: OpSpec, taps: int, channels: int) -> int:
    """Parameter struct, weights, biases, multipliers and shifts (arrays are aligned to 4)."""
    return STRUCT_BYTES["conv"] + _padded(taps * channels) + 8 * channels + _padded(channels)


def _padded(count: int) -> int:
    return -(-count // 4) * 4


_SELECT = {
    "conv2d": _conv,
    "depthwise_conv2d": _depthwise,
    "fully_connected": _fully_connected,
    "add": lambda op: KernelChoice("edgenas_add", 0, STRUCT_BYTES["elementwise"]),
    "mul": lambda op: KernelChoice("edgenas_mul", 0, STRUCT_BYTES["elementwise"]),
    "mean": lambda op: KernelChoice("edgenas_mean", 4 * op.in_c, STRUCT_BYTES["pool"]),
    "avg_pool": lambda op: KernelChoice("edgenas_average_pool", 0, STRUCT_BYTES["pool"]),
    "max_pool": lambda op: KernelChoice("edgenas_max_pool", 0, STRUCT_BYTES["pool"]),
    "pad": lambda op: KernelChoice("edgenas_pad", 0, STRUCT_BYTES["pad"]),
    "logistic": lambda op: KernelChoice("edgenas_table", 0, STRUCT_BYTES["table"] + 256),
    "hard_swish": lambda op: KernelChoice("edgenas_table", 0, STRUCT_BYTES["table"] + 256),
    "softmax": lambda op: KernelChoice("edgenas_softmax", 0, STRUCT_BYTES["softmax"] + 1024),
    "reshape": lambda op: KernelChoice(""),
}
