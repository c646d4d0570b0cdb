"""INT8 .tflite out of a quantization-aware network, and its comparison with reference interpreters.

Only `write_tflite` needs torch, through the network that it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.export.parity import Agreement, ParityReport, compare
from pipeline.export.reference import LiteRtReference, TflmReference, evaluate_int8, to_int8

if TYPE_CHECKING:
    from pipeline.frontend import FrontEnd
    from pipeline.train.network import QatNetwork

__all__ = [
    "Agreement",
    "LiteRtReference",
    "ParityReport",
    "TflmReference",
    "compare",
    "evaluate_int8",
    "to_int8",
    "write_tflite",
]


def write_tflite(network: QatNetwork, front_end: FrontEnd | None = None) -> bytes:
    """The fully INT8 .tflite of a trained network; equal networks give equal bytes.

    The file names `front_end`, which makes the input out of sound, so that firmware made from it takes sound.

    Raises ModelError where the network is not quantized yet, or does not fit INT8 arithmetic.
    """
    from pipeline.export.check import check_int8
    from pipeline.export.freeze import freeze
    from pipeline.export.tflite import serialize

    model = serialize(freeze(network, front_end))
    check_int8(model)
    return model
