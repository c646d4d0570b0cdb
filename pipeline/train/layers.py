"""The layers of a quantization-aware network: TFLite's padding, ranges, and weights on the INT8 grid."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ModelError
from pipeline.space.kernels import LARGEST_DEPTHWISE_RATIO
from pipeline.space.opspec import OpSpec
from pipeline.train.quantconfig import Choice

INPUT_SCALE = 1.0 / 255.0  # real = u8 / 255, q = u8 - 128
INPUT_ZERO_POINT = -128
GATE_SCALE = 1.0 / 255.0  # a folded hard sigmoid: [0, 1] fills the INT8 range, saturation does the clamp
GATE_ZERO_POINT = -128
# A dead layer has range 0. Without a floor its scale would make requantization ratios above 1 and biases
# beyond int32 further down.
SCALE_FLOOR = 1e-4
WEIGHT_SCALE_FLOOR = 1e-6
_RATIO_MARGIN = 1.001  # input scale * weight scale stays below output scale / this
_BIAS_LIMIT = 2.0**29  # leaves the int32 accumulator room for the products
_CHANNEL_RANGE = 2.0**-10  # smallest weight scale of a channel, relative to the layer's largest


class Range(nn.Module):
    """Observed range of one activation tensor, as a moving average of batch minima and maxima."""

    lo: Tensor
    hi: Tensor
    seen: Tensor

    def __init__(self, momentum: float = 0.02) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("lo", torch.zeros(()))
        self.register_buffer("hi", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def observe(self, x: Tensor, activation: str = "none") -> None:
        """Take in a batch (n, c, h, w), `activation` still to be applied to it."""
        x = x.permute(0, 2, 3, 1)  # channels last: this order needs no copy
        if activation == "none":
            lo, hi = torch.aminmax(x)
        else:
            hi = activate(x.amax(), activation)
            lo = torch.zeros_like(hi)
        self.seen += 1
        # A plain mean at first, then a moving one.
        weight = torch.clamp(1.0 / self.seen, min=self.momentum)
        self.lo += (lo - self.lo) * weight
        self.hi += (hi - self.hi) * weight

    @torch.no_grad()
    def set(self, lo: float, hi: float) -> None:
        """The range as found otherwise; later observations are averaged with it."""
        self.lo.fill_(lo)
        self.hi.fill_(hi)
        self.seen.fill_(1)

    def quantization(self, floor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(scale float32, at least `floor`; zero point int32), both 0-d. The range always includes 0."""
        lo = self.lo.clamp(max=0.0)
        hi = self.hi.clamp(min=0.0)
        scale = ((hi - lo) / 255.0).clamp(min=SCALE_FLOOR)
        if floor is not None:
            scale = torch.maximum(scale, floor)
        zero_point = torch.round(-128.0 - lo / scale).clamp(-128, 127).to(torch.int32)
        return scale, zero_point


class _FakeQuantize(torch.autograd.Function):
    # In-place steps and hardtanh's backward: half the time of torch.fake_quantize_per_tensor_affine.
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bounds = (low * scale, high * scale)
        return x.div(scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], x, *ctx.bounds), None, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, activation: str = "none") -> Tensor:
    """Activation, then round to the INT8 grid and back, as the integer kernels do it: by saturation.

    The gradient is 1 inside the range and 0 where the result saturates. A scale that is not finite gives NaN.
    """
    step = float(scale)
    if not math.isfinite(step):  # training has diverged: whoever looks at the loss shall see it
        return x * math.nan
    zero = int(zero_point)
    low, high = -128 - zero, 127 - zero
    if activation != "none":
        low = max(low, 0)
    if activation == "relu6":
        high = min(high, round(6.0 / step))
    result: Tensor = _FakeQuantize.apply(x, step, low, high)
    return result


def constant_grid(scale: float, zero_point: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(scale float32, zero point int32), both 0-d; written by the device itself, so that nothing is waited for."""
    return (
        torch.full((), scale, device=device),
        torch.full((), zero_point, dtype=torch.int32, device=device),
    )


@torch.no_grad()
def requantize(y: Tensor, unit: Tensor, output_scale: Tensor, divisor: int = 1) -> Tensor:
    """`y`, whole multiples of `unit`, rounded to `output_scale` as TFLite's kernels do it: twice.

    The kernel multiplies the accumulator y / unit by a 32-bit fraction in [0.5, 1), rounds, shifts right and
    rounds again, halves away from zero. MEAN has its number of elements, `divisor`, folded into fraction and
    shift (not normalized again). `unit` is float64 and broadcasts with `y`.
    """
    accumulator = torch.round(y.double() * divisor / unit)
    ratio = unit / output_scale.double()
    shift = (divisor.bit_length() - 1 - torch.frexp(ratio).exponent).clamp(min=0)
    two_to_shift = torch.exp2(shift.double())
    once = torch.round(accumulator * (ratio / divisor * two_to_shift))
    twice = torch.sign(once) * torch.floor(torch.abs(once) / two_to_shift + 0.5)
    return (twice * output_scale.double()).float()


def _slow_in_bfloat16(op: OpSpec) -> bool:
    """Depthwise convolutions whose gradients a CPU computes several times slower in bfloat16 than in float32.

    With stride 2 those of the input, with large kernels those of the weights (docs/training.md).
    """
    return op.kind == "depthwise_conv2d" and (max(op.stride_h, op.stride_w) > 1 or op.kernel_h > 3)


def same_pad(x: Tensor, op: OpSpec) -> tuple[Tensor, tuple[int, int]]:
    """The input with TFLite's padding, as (explicitly padded input, what is left for the convolution).

    Symmetric padding is left to the convolution, which is faster; SAME at stride 2 is often asymmetric.
    """
    if op.pad_top == op.pad_bottom and op.pad_left == op.pad_right:
        return x, (op.pad_top, op.pad_left)
    return F.pad(x, (op.pad_left, op.pad_right, op.pad_top, op.pad_bottom)), (0, 0)


def activate(x: Tensor, activation: str, *, inplace: bool = False) -> Tensor:
    """ReLU, ReLU6 or nothing; `inplace` saves time where `x` is not used otherwise."""
    if activation == "relu6":
        return F.relu6(x, inplace=inplace)
    return F.relu(x, inplace=inplace) if activation == "relu" else x


class Standardize(nn.BatchNorm2d):
    """Each channel less its mean, all divided by one deviation: the root of the channels' mean variance.

    One for all, so that no weight grows by what its channel hardly varies when `Weighted` folds it: the classifier's
    weights share one INT8 scale.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        # The statistics of one vector say nothing; the running ones take their place.
        if self.training and x.numel() > self.num_features:
            super().forward(x)  # moves the running statistics
            variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        else:
            mean, variance = self.running_mean, self.running_var
        return (x - mean[:, None, None]) / torch.sqrt(variance.mean() + self.eps)

    @property
    def deviation(self) -> Tensor:
        """What everything is divided by where the network is not in training; 0-d."""
        return torch.sqrt(self.running_var.mean() + self.eps)


class Weighted(nn.Module):
    """CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED with its batch normalization, until that is folded.

    gate: the output passes a hard sigmoid, which `fold` moves into weights and bias. standardize: what arrives goes
    through `Standardize` first, which `fold` holds; only for FULLY_CONNECTED with a bias. hold: what normalization
    multiplies by is held as well instead of moved into `weight`. Then a step of fine-tuning changes the output as much
    as one of float training, however large what arrives is; moved, a tenfold input makes it a hundredfold.
    `deployed` has what is exported.
    """

    bias: nn.Parameter | None
    clip: Tensor | None  # (out_c,) share of the largest weight that the grid reaches to; None: all of it
    factor: Tensor | None  # (out_c,) that the weights are multiplied by; None: nothing is held
    mean: Tensor | None  # (in_c,) that what arrives is less by; None: 0

    def __init__(
        self, op: OpSpec, *, normalize: bool, gate: bool, standardize: bool = False, hold: bool = False
    ) -> None:
        super().__init__()
        self.op = op
        self.gate = gate
        self.hold = hold
        self.folded = False
        if op.kind == "depthwise_conv2d":
            if op.out_c != op.in_c:
                raise ModelError(f"depth multiplier {op.out_c // op.in_c} is not trainable here (only 1 is)")
            shape: tuple[int, ...] = (op.out_c, 1, op.kernel_h, op.kernel_w)
        elif op.kind == "conv2d":
            shape = (op.out_c, op.in_c, op.kernel_h, op.kernel_w)
        else:
            shape = (op.out_c, op.in_c)
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if op.kind == "fully_connected":
            nn.init.normal_(self.weight, std=op.in_c**-0.5)
        self.norm = nn.BatchNorm2d(op.out_c) if normalize else None
        self.bias = None if normalize else nn.Parameter(torch.zeros(op.out_c))
        self.arriving = Standardize(op.in_c) if standardize else None
        self.range = Range()
        # TFLite Micro's FULLY_CONNECTED is safest per tensor, and the classifier is small.
        self.one_scale = op.kind == "fully_connected"
        for name in ("clip", "factor", "mean"):
            self.register_buffer(name, None)

    def quantize_by(self, choice: Choice) -> None:
        """Take on what `choice` says of weights; `clip` is still to be found where it has one."""
        self.one_scale = self.op.kind == "fully_connected" or choice.weights == "tensor"
        clips = choice.weight_range == "mse"
        self.clip = torch.ones(len(self.weight), device=self.weight.device) if clips else None

    @torch.no_grad()
    def fold(self) -> None:
        """Batch normalizations (running statistics) and hard sigmoid become part of weights and bias."""
        if self.folded:
            return
        if self.norm is not None:
            norm = self.norm
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            self.bias = nn.Parameter(norm.bias - norm.running_mean * factor)
            if self.hold:
                self.factor = factor
            else:
                self.weight.mul_(self._by_channel(factor))
            self.norm = None
        if self.arriving is not None:
            self.factor = (1.0 / self.arriving.deviation).repeat(len(self.weight))
            self.mean = self.arriving.running_mean.clone()
            self.arriving = None
        if self.gate and self.bias is not None:
            self.weight.div_(6.0)
            self.bias.div_(6.0).add_(0.5)
        self.folded = True

    def deployed(self) -> tuple[Tensor, Tensor]:
        """Weights and bias (out_c,) of the folded layer, as they are exported. Raises ModelError before folding."""
        if self.bias is None or self.arriving is not None:
            raise ModelError("batch normalization must be folded before quantization")
        if self.factor is None:
            return self.weight, self.bias
        weight = self.weight * self._by_channel(self.factor)
        return weight, self.bias if self.mean is None else self.bias - weight @ self.mean

    def _by_channel(self, values: Tensor) -> Tensor:
        """(out_c,) in a shape that multiplies the weights."""
        return values.reshape(-1, *[1] * (self.weight.ndim - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Float arithmetic; (n, c, h, w) in and out."""
        if self.arriving is not None:
            x = self.arriving(x)
        y = self._linear(x, *(self.deployed() if self.folded else (self.weight, self.bias)))
        if self.norm is not None:
            y = self.norm(y)
        if self.gate:
            return torch.clamp(y if self.folded else y / 6.0 + 0.5, 0.0, 1.0)
        return activate(y, self.op.activation, inplace=True)

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        op = self.op
        if op.kind == "fully_connected":
            return F.linear(x.flatten(1), weight, bias)[:, :, None, None]
        groups = op.in_c if op.kind == "depthwise_conv2d" else 1
        stride = op.stride_h, op.stride_w
        x, padding = same_pad(x, op)
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and _slow_in_bfloat16(op):
            with torch.autocast("cpu", enabled=False):
                return F.conv2d(x.float(), weight, bias, stride, padding, groups=groups).bfloat16()
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    @property
    def output_quantization(self) -> tuple[Tensor, Tensor] | None:
        """Fixed (scale, zero point) of a gate; None where the range is learned."""
        if not self.gate:
            return None
        return constant_grid(GATE_SCALE, GATE_ZERO_POINT, self.weight.device)

    @torch.no_grad()
    def weight_scale(self, input_scale: Tensor) -> Tensor:
        """Symmetric weight scales (out_c,) float32, all equal where the tensor has one scale."""
        weight, bias = self.deployed()
        largest, bias = weight.flatten(1).abs().amax(1), bias.abs()
        if self.one_scale:
            largest, bias = largest.amax().expand_as(largest), bias.amax().expand_as(bias)
        if self.clip is not None:
            largest = largest * self.clip
        scale = largest / 127.0
        scale = torch.maximum(scale, scale.amax() * _CHANNEL_RANGE)
        scale = torch.maximum(scale, bias / (input_scale * _BIAS_LIMIT))
        return scale.clamp(min=WEIGHT_SCALE_FLOOR).contiguous()

    def scale_floor(self, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
        """Smallest output scale that keeps every requantization ratio below 1, of depthwise convolutions below 128.

        A larger one would let ReLU6 end within the range of INT8, for which depthwise kernels need a pass of its own.
        """
        largest = LARGEST_DEPTHWISE_RATIO if self.op.kind == "depthwise_conv2d" else 1.0
        return input_scale * weight_scale.amax() * _RATIO_MARGIN / largest

    def forward_quantized(self, x: Tensor, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
        """What the integer kernel computes before it requantizes and activates, in real units."""
        weight, bias = self.deployed()
        # float32: torch looks at the values of whole zero points, and a GPU would be waited for
        zeros = torch.zeros_like(weight_scale)
        weight = torch.fake_quantize_per_channel_affine(weight, weight_scale, zeros, 0, -127, 127)
        step = input_scale * weight_scale
        rounded = torch.round(bias / step) * step
        bias = bias + (rounded - bias).detach()
        return self._linear(x, weight, bias)
