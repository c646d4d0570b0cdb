"""Do the reference interpreters and the fake-quantized network agree on an exported file?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.export.reference import Int8Array, LiteRtReference, TflmReference


class Int8Network(Protocol):
    """What can be compared beside the interpreters: `QatNetwork` is one. It has the file's outputs, in its order."""

    def int8_each(self, x: Int8Array) -> list[Int8Array]: ...


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two sources of INT8 outputs on the same inputs.

    mismatches: output elements that differ, of `elements`; max_difference: in steps of the output grid;
    same_class: share of images (0..1) with equal argmax, at each exit too where there are some.
    """

    first: str
    second: str
    images: int
    elements: int
    mismatches: int
    max_difference: int
    same_class: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Pairwise agreements; the first source is TFLite Micro, which the firmware must equal."""

    agreements: tuple[Agreement, ...]

    def between(self, first: str, second: str) -> Agreement:
        """The agreement of two sources by name: `tflm`, `litert` or `fake_quant`. KeyError if absent."""
        for agreement in self.agreements:
            if {agreement.first, agreement.second} == {first, second}:
                return agreement
        raise KeyError((first, second))

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(agreement) for agreement in self.agreements]


def compare(model: bytes, x: Int8Array, network: Int8Network | None = None) -> ParityReport:
    """Run INT8 inputs (n, h, w, c) through every source and compare all pairs.

    Raises ToolError where an interpreter is missing, ModelError where one refuses the file.
    """
    outputs = {"tflm": TflmReference(model).run_each(x), "litert": LiteRtReference(model).run_each(x)}
    if network is not None:
        outputs["fake_quant"] = network.int8_each(x)
    names = list(outputs)
    return ParityReport(
        tuple(
            _agreement(first, second, outputs[first], outputs[second])
            for index, first in enumerate(names)
            for second in names[index + 1 :]
        )
    )


def _agreement(first: str, second: str, one: list[Int8Array], other: list[Int8Array]) -> Agreement:
    images = len(one[0])
    # outputs x images x classes
    a, b = (np.stack([output.reshape(images, -1) for output in outputs]) for outputs in (one, other))
    difference = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return Agreement(
        first=first,
        second=second,
        images=images,
        elements=difference.size,
        mismatches=int(np.count_nonzero(difference)),
        max_difference=int(difference.max()),
        same_class=float((a.argmax(2) == b.argmax(2)).mean()),
    )
