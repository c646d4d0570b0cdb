"""Early exits on a target: what it must answer, and which inputs show the latency of each exit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Model
from pipeline.export.reference import TflmReference

_RANDOM_INPUTS = 64  # tried where none of the inputs at hand goes through to the end


@dataclass(frozen=True, slots=True)
class ExitRun:
    """One output of a model with exits, as the target took it.

    `cycles` of an inference that ends there: modelled from one input's executed blocks where the device counts
    instructions, else the median of the device's counter; None where no input ended there.
    """

    name: str
    images: int
    cycles: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """The reference's answers (n, ...) to n inputs, and with exits which of them each ended at.

    `slowest` is an input whose inference goes as far as any known one does, through `layers` layers.
    """

    answers: NDArray[np.int8]
    taken: NDArray[np.int64]
    slowest: bytes
    layers: int

    @property
    def with_exits(self) -> bool:
        return len(self.taken) > 0

    def logits(self, answers: NDArray[np.int8]) -> NDArray[np.int8]:
        """(n, classes) of the target's or the reference's answers."""
        flat = answers.reshape(len(answers), -1)
        return flat[:, :-1] if self.with_exits else flat

    def example(self, exit_number: int, x: NDArray[np.int8]) -> bytes | None:
        """An input that ends at this exit."""
        found = np.flatnonzero(self.taken == exit_number)
        return x[found[0]].tobytes() if len(found) else None


def expect(model: Model, tflite: bytes, x: NDArray[np.int8]) -> Expected:
    """What TFLite Micro and the rule say of inputs `x` [n, ...] int8."""
    reference = TflmReference(tflite)
    outputs = reference.run_each(x)
    rule = model.exit_rule
    if rule is None:
        return Expected(outputs[0], np.zeros(0, np.int64), x[0].tobytes(), len(model.layers))
    flat = [output.reshape(len(output), -1) for output in outputs]
    taken = rule.taken(flat)
    deepest, slowest = int(taken.max()), x[int(taken.argmax())]
    if deepest < len(model.exits):
        rng = np.random.default_rng(0)
        more = rng.integers(-128, 128, (_RANDOM_INPUTS, *x.shape[1:])).astype(np.int8)
        others = rule.taken([y.reshape(len(y), -1) for y in reference.run_each(more)])
        if others.max() > deepest:
            deepest, slowest = int(others.max()), more[int(others.argmax())]
    return Expected(rule.result(flat), taken, slowest.tobytes(), executed_layers(model, deepest))


def executed_layers(model: Model, exit_number: int) -> int:
    """Layers of an inference that ends at that output."""
    return model.exits[exit_number].layers if exit_number < len(model.exits) else len(model.layers)


def exit_runs(model: Model, taken: NDArray[np.int64], cycles: Sequence[float | None]) -> tuple[ExitRun, ...]:
    """One row an output, the final one last; `cycles` in that order."""
    names = [*(e.name.partition("/")[0] for e in model.exits), "final"]
    counts = np.bincount(taken, minlength=len(names))
    return tuple(ExitRun(n, int(c), one) for n, c, one in zip(names, counts, cycles, strict=True))
