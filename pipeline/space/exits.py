"""The rule of early exits, in integers: what generated C, thresholds in the file and NumPy all follow.

An inference ends at the first exit whose margin, the largest minus the second largest INT8 logit, is at least
that exit's threshold; the final output needs none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError

METADATA = "edgenas.exits"  # name of the .tflite's metadata buffer
LARGEST_MARGIN = 255
MAX_EXITS = 127  # the number of the exit that was taken is reported as one INT8
_HINT = "export the model again"


def margins(logits: NDArray[np.int8]) -> NDArray[np.int16]:
    """Largest minus second largest of each row of `logits` (n, classes), 0 to 255."""
    top = np.partition(logits.astype(np.int16), -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0], np.int16)


@dataclass(frozen=True, slots=True)
class ExitRule:
    """One threshold per exit, in execution order. Raises ModelError for a threshold no margin can have."""

    thresholds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.thresholds) <= MAX_EXITS:
            raise ModelError(f"{len(self.thresholds)} exits", hint=f"1 to {MAX_EXITS}")
        for threshold in self.thresholds:
            if type(threshold) is not int or not 0 <= threshold <= LARGEST_MARGIN:
                raise ModelError(
                    f"an exit's threshold is {threshold!r}, not a whole number of 0 to {LARGEST_MARGIN}",
                    hint=_HINT,
                )

    def taken(self, outputs: Sequence[NDArray[np.int8]]) -> NDArray[np.int64]:
        """Which output (n, classes) each of n inferences ends with: 0 is the first exit, the last the final one."""
        found = np.full(len(outputs[0]), len(self.thresholds), np.int64)
        for i in reversed(range(len(self.thresholds))):
            found[margins(outputs[i]) >= self.thresholds[i]] = i
        return found

    def result(self, outputs: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
        """What the device answers, (n, classes + 1): the taken output's logits, then its number."""
        taken = self.taken(outputs)
        logits = np.stack(list(outputs))[taken, np.arange(len(taken))]
        return np.concatenate([logits, taken.astype(np.int8)[:, None]], axis=1)

    def to_bytes(self) -> bytes:
        """Content of the metadata buffer."""
        return json.dumps({"rule": "margin", "thresholds": list(self.thresholds)}).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> ExitRule:
        """Inverse of `to_bytes`. Raises ModelError."""
        try:
            content: Any = json.loads(raw)
            rule, thresholds = content["rule"], tuple(content["thresholds"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"the metadata {METADATA} is damaged: {error!r}", hint=_HINT) from error
        if rule != "margin":
            raise ModelError(f"the exits' rule is {rule!r}", hint="this edgenas knows 'margin' only")
        return cls(thresholds)
