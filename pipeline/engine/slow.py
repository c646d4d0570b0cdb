"""Layers that run slower than a latency table can know: it depends on their scales, not on their shape."""

from __future__ import annotations

from pipeline.engine.model import Layer
from pipeline.space.kernels import DEPTHWISE_LEFT_SHIFTS

# the other limits of the fast row functions, as in firmware/engine/portable/depthwise_planes.c
_RIGHT_MAX, _SUM_MAX = 22, 1 << 30
_DEPTHWISE = ("edgenas_depthwise_3x3", "edgenas_depthwise_plain")
# those of Armv7E-M that reckon with the whole range of int8
_WHOLE_RANGE = ("edgenas_conv", "edgenas_conv_1x1", "edgenas_fully_connected", "edgenas_add")
_NARROW = "its activation's range is narrower than int8 and is applied in a pass of its own"


def slower_than_measured(layer: Layer) -> str | None:
    """Why a layer takes longer than the measurement of its shape; None where it does not.

    Networks trained here have no such layer: their activations take the whole range of int8, and depthwise
    convolutions end in a ReLU6. Foreign ones may.
    """
    narrow = "activation_min" in layer.fields and (
        layer.fields["activation_min"] > -128 or layer.fields["activation_max"] < 127
    )
    if layer.kernel in _WHOLE_RANGE and narrow:
        return f"{_NARROW} or a slower loop (Cortex-M4 and M7)"
    if layer.kernel not in _DEPTHWISE:
        return None
    slow = sum(
        not _fast(int(shift), int(bias), layer.fields)
        for shift, bias in zip(layer.arrays["shift"], layer.arrays["bias"], strict=True)
    )
    reasons = []
    if slow:
        reasons.append(f"{slow} of {layer.op.out_c} channels have scales beyond the fast depthwise kernels")
    if narrow:
        reasons.append(_NARROW)
    return "; ".join(reasons) or None


def _fast(shift: int, bias: int, fields: dict[str, int]) -> bool:
    left, right = max(0, shift), max(0, -shift)
    if left > DEPTHWISE_LEFT_SHIFTS or right > _RIGHT_MAX:
        return False
    room = _SUM_MAX >> left
    cuts_negative = fields["activation_min"] >= fields["output_zero_point"]
    return -room <= bias < room and (right > 0 or cuts_negative)
