"""From a .tflite operator to an OpSpec and a kernel call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.flatfile import FlatModel, Operator, Tensor
from pipeline.engine.quantization import (
    Requantization,
    accumulator_reach,
    activation_range,
    fold_zero_point,
    normalized_multiplier,
    quantize_multiplier,
    rounding_is_safe,
    sum_is_safe,
)
from pipeline.engine.source import SIZE_LIMIT, Source
from pipeline.engine.tables import hard_swish_is_supported, hard_swish_table, logistic_table, softmax_table
from pipeline.space.opspec import OpKind, OpSpec

SUPPORTED: dict[str, OpKind] = {
    "CONV_2D": "conv2d",
    "DEPTHWISE_CONV_2D": "depthwise_conv2d",
    "FULLY_CONNECTED": "fully_connected",
    "ADD": "add",
    "MUL": "mul",
    "MEAN": "mean",
    "AVERAGE_POOL_2D": "avg_pool",
    "MAX_POOL_2D": "max_pool",
    "PAD": "pad",
    "LOGISTIC": "logistic",
    "HARD_SWISH": "hard_swish",
    "SOFTMAX": "softmax",
    "RESHAPE": "reshape",
}
_DEGENERATE = "the scales of this layer are degenerate; quantize again"
_MAX_SOFTMAX = 256  # beyond it TFLite's fixed-point sum runs out of headroom


@dataclass(slots=True, eq=False)
class Lowered:
    """What an operator becomes: OpSpec, activation tensors it reads, parameter struct."""

    op: OpSpec
    inputs: tuple[int, ...]
    struct: str = ""
    fields: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    parameters: int = 0


def lower_operator(model: FlatModel, operator: Operator) -> Lowered:
    """Raises ModelError for an operator, type or combination that the engine does not have."""
    source = Source(model, operator)
    kind = SUPPORTED.get(operator.kind)
    if kind is None:
        raise source.error("is not a supported operator", hint=f"supported: {', '.join(SUPPORTED)}")
    lowered = _LOWER[kind](source, kind)
    source.expect_output(lowered.op)
    return lowered


def _weight_scales(source: Source, weights: Tensor, channels: int, dimension: int) -> NDArray[np.float32]:
    if np.any(weights.zero_points != 0):
        raise source.error(
            "weights are not symmetric (zero point is not 0)", hint="use symmetric int8 weights"
        )
    scales = weights.scales
    if len(scales) not in (1, channels) or (len(scales) > 1 and weights.quantized_dimension != dimension):
        raise source.error(f"{len(scales)} weight scales for {channels} output channels")
    if not np.all(np.isfinite(scales)) or np.any(scales <= 0):
        raise source.error("a weight scale is not a positive number")
    return scales


def _bias(source: Source, channels: int) -> NDArray[np.int64]:
    inputs = source.operator.inputs
    if len(inputs) < 3 or inputs[2] < 0:
        return np.zeros(channels, np.int64)
    bias = source.constant(2, "INT32", 1)
    if len(bias) != channels:
        raise source.error(f"{len(bias)} biases for {channels} output channels")
    return bias.astype(np.int64)


def _conv_struct(
    source: Source, op: OpSpec, taps: NDArray[np.int8], bias: NDArray[np.int64], effective: list[float]
) -> tuple[dict[str, int], dict[str, NDArray[Any]]]:
    """edgenas_conv_t of a convolution whose weights are [channels, taps]."""
    x = source.quantization(source.tensor(0))
    y = source.quantization(source.output)
    low, high = activation_range(op.activation, y)
    pairs = [normalized_multiplier(value) for value in effective]
    names = ("in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w", "stride_h", "stride_w",
             "dilation_h", "dilation_w", "pad_top", "pad_left")  # fmt: skip
    fields = {name: getattr(op, name) for name in names}
    fields |= {
        "input_zero_point": x.zero_point,
        "output_zero_point": y.zero_point,
        "activation_min": low,
        "activation_max": high,
        "per_channel": int(len(pairs) > 1),
    }
    folded = fold_zero_point(bias, taps, x.zero_point, source.label)
    for channel, reach in enumerate(accumulator_reach(folded, taps)):
        if not rounding_is_safe(int(reach), *pairs[channel if len(pairs) > 1 else 0]):
            raise source.error(
                f"channel {channel} overflows when it is requantized",
                hint=_DEGENERATE,
            )
    if op.kind == "depthwise_conv2d":
        taps, folded, pairs = _without_quiet_channels(taps, folded, pairs, (y.zero_point, low, high))
    arrays: dict[str, NDArray[Any]] = {
        "weights": taps.reshape(-1),
        "bias": folded,
        "multiplier": np.array([m for m, _ in pairs], np.int32),
        "shift": np.array([s for _, s in pairs], np.int8),
    }
    return fields, arrays


def _without_quiet_channels(
    taps: NDArray[np.int8],
    folded: NDArray[np.int32],
    pairs: list[tuple[int, int]],
    limits: tuple[int, int, int],
) -> tuple[NDArray[np.int8], NDArray[np.int32], list[tuple[int, int]]]:
    """Channels whose output no input can change, written so that the fast kernels can take them.

    Training leaves such channels behind: tiny weights beside a bias that is huge in their units, which would
    cost their three neighbours the fast path too. `limits`: zero point, lowest and highest output.
    """
    taps, folded, pairs = taps.copy(), folded.copy(), list(pairs)
    reach = 128 * np.abs(taps.astype(np.int64)).sum(axis=1)
    for channel in range(len(folded) if len(pairs) > 1 else 0):
        requantize = Requantization(*pairs[channel], *limits)
        bias = int(folded[channel])
        output = requantize.quiet(bias - int(reach[channel]), bias + int(reach[channel]))
        if output is not None:
            taps[channel] = 0
            folded[channel], *pair = requantize.constant(output)
            pairs[channel] = (pair[0], pair[1])
    return taps, folded, pairs


def _convolution(source: Source, kind: OpKind) -> Lowered:
    tensor, number = source.activation_input(0)
    h, w, c = source.hwc(tensor)
    filters = source.tensor(1)
    weights = source.constant(1, "INT8", 4)
    depthwise = kind == "depthwise_conv2d"
    channels = weights.shape[3] if depthwise else weights.shape[0]
    if depthwise and (weights.shape[0] != 1 or channels % c or channels == 0):
        raise source.error(f"weights of shape {weights.shape} for {c} input channels")
    if not depthwise and weights.shape[3] != c:
        raise source.error(f"weights of shape {weights.shape} for {c} input channels (grouped convolution?)")
    window = source.window(h, w, weights.shape[1], weights.shape[2])
    op = OpSpec(kind, h, w, c, out_c=channels, activation=source.activation(), **window)  # type: ignore[arg-type]
    taps = weights[0].transpose(2, 0, 1).reshape(channels, -1) if depthwise else weights.reshape(channels, -1)
    scales = _weight_scales(source, filters, channels, 3 if depthwise else 0)
    x, y = source.quantization(tensor), source.quantization(source.output)
    wide = np.broadcast_to(scales, (channels,))
    effective = [x.scale * float(scale) / y.scale for scale in wide]
    if channels == 1:
        effective = effective[:1]
    fields, arrays = _conv_struct(source, op, np.ascontiguousarray(taps), _bias(source, channels), effective)
    return Lowered(op, (number,), "conv", fields, arrays, weights.size + channels)


def _fully_connected(source: Source, kind: OpKind) -> Lowered:
    tensor, number = source.activation_input(0)
    source.hwc(tensor)
    weights = source.constant(1, "INT8", 2)
    channels, depth = weights.shape
    if depth == 0 or channels == 0 or tensor.elements % depth:
        raise source.error(f"weights of shape {weights.shape} for an input of {tensor.elements} elements")
    rows = tensor.elements // depth
    if max(rows, depth, channels) > SIZE_LIMIT:
        raise source.error(
            f"{rows} rows of {depth} inputs to {channels} outputs", hint=f"{SIZE_LIMIT} at most each"
        )
    op = OpSpec(kind, rows, 1, depth, rows, 1, channels, activation=source.activation())  # type: ignore[arg-type]
    scales = _weight_scales(source, source.tensor(1), channels, 0)
    x, y = source.quantization(tensor), source.quantization(source.output)
    # in double, as TFLite Micro does; LiteRT rounds differently here (docs/kernels.md)
    effective = [x.scale * float(scale) / y.scale for scale in scales]
    fields, arrays = _conv_struct(source, op, weights, _bias(source, channels), effective)
    return Lowered(op, (number,), "conv", fields, arrays, weights.size + channels)


def _elementwise(source: Source, kind: OpKind) -> Lowered:
    (a, number_a), (b, number_b) = source.activation_input(0), source.activation_input(1)
    shape_a, shape_b, out = source.hwc(a), source.hwc(b), source.hwc(source.output)
    for one, other, result in zip(shape_a, shape_b, out, strict=True):
        if result != max(one, other) or (one != other and min(one, other) != 1):
            raise source.error(f"shapes {a.shape} and {b.shape} do not broadcast to {source.output.shape}")
    op = OpSpec(
        kind, *shape_a, *out, in2_h=shape_b[0], in2_w=shape_b[1], in2_c=shape_b[2],
        activation=source.activation(),  # type: ignore[arg-type]
    )  # fmt: skip
    qa, qb, y = source.quantization(a), source.quantization(b), source.quantization(source.output)
    low, high = activation_range(op.activation, y)
    if kind == "add":
        twice = 2.0 * max(qa.scale, qb.scale)
        ma, mb = normalized_multiplier(qa.scale / twice), normalized_multiplier(qb.scale / twice)
        mo = normalized_multiplier(twice / ((1 << 20) * y.scale))
    else:
        ma = mb = (0, 0)
        mo = normalized_multiplier(qa.scale * qb.scale / y.scale)
    if kind == "add" and max(ma[1], mb[1], mo[1]) > 0:
        raise source.error("its scales differ by more than a million", hint="quantize the model again")
    if kind == "mul" and not rounding_is_safe(qa.reach * qb.reach, *mo):
        raise source.error(
            f"its products overflow when they are requantized from {qa.scale:g} * {qb.scale:g} to {y.scale:g}",
            hint=_DEGENERATE,
        )
    fields = {"out_h": out[0], "out_w": out[1], "out_c": out[2]}
    for name, (h, w, c) in (("a", shape_a), ("b", shape_b)):
        fields[f"{name}_stride_h"] = w * c if h > 1 else 0
        fields[f"{name}_stride_w"] = c if w > 1 else 0
        fields[f"{name}_stride_c"] = 1 if c > 1 else 0
    fields |= {
        "a_zero_point": qa.zero_point, "b_zero_point": qb.zero_point, "output_zero_point": y.zero_point,
        "activation_min": low, "activation_max": high,
        "a_multiplier": ma[0], "a_shift": ma[1], "b_multiplier": mb[0], "b_shift": mb[1],
        "output_multiplier": mo[0], "output_shift": mo[1],
    }  # fmt: skip
    return Lowered(op, (number_a, number_b), "elementwise", fields)


def _pool(source: Source, kind: OpKind) -> Lowered:
    tensor, number = source.activation_input(0)
    h, w, c = source.hwc(tensor)
    window = source.window(h, w, source.option("filterHeight"), source.option("filterWidth"))
    op = OpSpec(kind, h, w, c, out_c=c, activation=source.activation(), **window)  # type: ignore[arg-type]
    x, y = source.quantization(tensor), source.quantization(source.output)
    if x != y:
        raise source.error("input and output differ in quantization", hint="pooling cannot requantize")
    low, high = activation_range(op.activation, y)
    names = ("in_h", "in_w", "in_c", "out_h", "out_w", "kernel_h", "kernel_w", "stride_h", "stride_w", "pad_top",
             "pad_left")  # fmt: skip
    fields = {name: getattr(op, name) for name in names}
    fields |= {"activation_min": low, "activation_max": high, "input_zero_point": 0, "output_zero_point": 0,
               "multiplier": 0, "shift": 0}  # fmt: skip
    return Lowered(op, (number,), "pool", fields)


def _mean(source: Source, kind: OpKind) -> Lowered:
    tensor, number = source.activation_input(0)
    h, w, c = source.hwc(tensor)
    axes = source.tensor(1)
    if axes.type != "INT32" or axes.data is None:
        raise source.error("its axes are not constant")
    rank = len(tensor.shape)
    wanted = {rank - 3, rank - 2}
    if rank != 4 or {int(axis) % rank for axis in axes.data.reshape(-1)} != wanted:
        raise source.error(f"mean over axes {axes.data.reshape(-1).tolist()}", hint="height and width only")
    op = OpSpec(kind, h, w, c, 1, 1, c)
    x, y = source.quantization(tensor), source.quantization(source.output)
    multiplier, shift = _mean_multiplier(x.scale / y.scale, h * w)
    if not sum_is_safe(h * w * x.reach, shift):
        raise source.error(
            f"the sum of {h} x {w} pixels overflows when it is requantized from {x.scale:g} to {y.scale:g}",
            hint=_DEGENERATE,
        )
    fields = {"in_h": h, "in_w": w, "in_c": c, "out_h": 1, "out_w": 1, "kernel_h": h, "kernel_w": w,
              "stride_h": 1, "stride_w": 1, "pad_top": 0, "pad_left": 0, "activation_min": -128,
              "activation_max": 127, "input_zero_point": x.zero_point, "output_zero_point": y.zero_point,
              "multiplier": multiplier, "shift": shift}  # fmt: skip
    return Lowered(op, (number,), "pool", fields)


def _mean_multiplier(scale: float, count: int) -> tuple[int, int]:
    """Multiplier and shift of scale / count: the division is folded into the multiplier and truncated, as in
    TFLite's reference_ops (the reason why a mean of exactly -28.5 becomes -28)."""
    multiplier, shift = quantize_multiplier(scale)
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << extra) // count, shift - extra


def _pad(source: Source, kind: OpKind) -> Lowered:
    tensor, number = source.activation_input(0)
    h, w, c = source.hwc(tensor)
    pads = source.constant(1, "INT32", 2).astype(int)
    if (
        len(tensor.shape) != 4
        or pads.shape != (4, 2)
        or pads.min() < 0
        or pads[0].any()
        or pads.max() > SIZE_LIMIT
    ):
        raise source.error(f"paddings {pads.tolist()}", hint="4-D tensors, not along the batch, not negative")
    (top, bottom), (left, right), (front, back) = pads[1:].tolist()
    op = OpSpec(
        kind, h, w, c, h + top + bottom, w + left + right, c + front + back,
        pad_top=top, pad_left=left, pad_bottom=bottom, pad_right=right,
    )  # fmt: skip
    x, y = source.quantization(tensor), source.quantization(source.output)
    if x != y:
        raise source.error("input and output differ in quantization", hint="padding cannot requantize")
    fields = {"in_h": h, "in_w": w, "in_c": c, "out_h": op.out_h, "out_w": op.out_w, "out_c": op.out_c,
              "pad_top": top, "pad_left": left, "pad_front": front, "value": y.zero_point}  # fmt: skip
    return Lowered(op, (number,), "pad", fields)


def _table(source: Source, kind: OpKind) -> Lowered:
    tensor, number = source.activation_input(0)
    h, w, c = source.hwc(tensor)
    x, y = source.quantization(tensor), source.quantization(source.output)
    if kind == "logistic":
        if (y.scale, y.zero_point) != (1.0 / 256.0, -128):
            raise source.error("its output must have scale 1/256 and zero point -128")
        table = logistic_table(x)
    else:
        if not hard_swish_is_supported(x, y):
            raise source.error(
                f"its scales, {x.scale:g} and {y.scale:g} of its output, do not go together",
                hint="quantize again",
            )
        table = hard_swish_table(x, y)
    return Lowered(OpSpec(kind, h, w, c, h, w, c), (number,), "table", {"count": h * w * c}, {"table": table})


def _softmax(source: Source, kind: OpKind) -> Lowered:
    tensor, number = source.activation_input(0)
    h, w, c = source.hwc(tensor)
    x, y = source.quantization(tensor), source.quantization(source.output)
    if (y.scale, y.zero_point) != (1.0 / 256.0, -128):
        raise source.error("its output must have scale 1/256 and zero point -128")
    if c > _MAX_SOFTMAX:
        raise source.error(
            f"softmax over {c} values", hint=f"{_MAX_SOFTMAX} at most; classify on the logits instead"
        )
    beta = float(getattr(source.options, "beta", 1.0))
    if not (np.isfinite(beta) and beta > 0):
        raise source.error(f"beta is {beta}")
    op = OpSpec(kind, h, w, c, h, w, c)
    fields = {"rows": h * w, "depth": c}
    return Lowered(op, (number,), "softmax", fields, {"exp": softmax_table(x.scale, beta)})


def _reshape(source: Source, kind: OpKind) -> Lowered:
    tensor, number = source.activation_input(0)
    x, y = source.quantization(tensor), source.quantization(source.output)
    if x != y:
        raise source.error("input and output differ in quantization", hint="reshaping cannot requantize")
    return Lowered(OpSpec(kind, *source.hwc(tensor), *source.hwc(source.output)), (number,))


_LOWER: dict[OpKind, Callable[[Source, OpKind], Lowered]] = {
    "conv2d": _convolution,
    "depthwise_conv2d": _convolution,
    "fully_connected": _fully_connected,
    "add": _elementwise,
    "mul": _elementwise,
    "mean": _mean,
    "avg_pool": _pool,
    "max_pool": _pool,
    "pad": _pad,
    "logistic": _table,
    "hard_swish": _table,
    "softmax": _softmax,
    "reshape": _reshape,
}
