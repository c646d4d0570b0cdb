"""WaitModel: cycles that operators wait for a board's memories, kernel by kernel, fitted to simulated whole models.

An operator of a deployed model reads its weights from flash and finds in the caches what the layer before left; one
that a benchmark measures alone, again and again, has its data in SRAM and its code at hand. Both are simulated
(pipeline/profiler/waiting.py); per kernel, waits are affine in the trip counts of its loops, as cycles are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import LutError
from pipeline.latency.interpolate import Floats, features, nonnegative_least_squares
from pipeline.latency.tablefiles import damaged, read_toml, write_toml
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec

_REST = "*"  # kernels that no sample has


@dataclass(frozen=True, slots=True)
class WaitIdentity:
    """What a fit holds for; every field must be equal for it to be used."""

    board: str
    emulated: str
    engine_revision: str
    compiler: str
    flags: str
    timing: str
    simulator: str  # hash of its sources, of the board's memory system and of the models that were run


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of an operator: modelled cycles without waits, and waits by every reading of the documents."""

    op: OpSpec
    cycles: float
    waits: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class OpWaits:
    """Cycles; `low` and `high` by the readings of the documents that give the least and the most."""

    likely: float
    low: float
    high: float


Terms = Mapping[str, tuple[tuple[float, ...], ...]]  # by kernel: of each reading, cycles a trip of each loop


@dataclass(frozen=True)
class WaitModel:
    """`deployed` within a whole model, `alone` as a benchmark has it. `low` and `high` are the least and the largest
    ratio of simulated to predicted cycles (waits included, same reading) over `models`, each predicted from the others.
    """

    identity: WaitIdentity
    deployed: Terms
    alone: Terms
    low: float
    high: float
    models: int
    refill_only: bool = False  # what `deployed` is above `alone`, for tables that were measured

    def op(self, op: OpSpec) -> OpWaits:
        """Of one run; nothing for a reshape."""
        if op.kind == "reshape":
            return OpWaits(0.0, 0.0, 0.0)
        waits = _predict(self.deployed, op)
        if self.refill_only:
            waits = np.maximum(waits - _predict(self.alone, op), 0.0)
        return OpWaits(float(waits[0]), float(waits.min()), float(waits.max()))

    @cached_property
    def kernels(self) -> tuple[str, ...]:
        return tuple(name for name in self.deployed if name != _REST)

    def save(self, path: Path) -> None:
        description = {
            "identity": asdict(self.identity),
            "fit": {"low": self.low, "high": self.high, "models": self.models},
            "deployed": {name: [list(row) for row in rows] for name, rows in self.deployed.items()},
            "alone": {name: [list(row) for row in rows] for name, rows in self.alone.items()},
        }
        write_toml(path, description)

    @classmethod
    def load(cls, path: Path) -> WaitModel:
        """Raises LutError: missing, damaged or edited."""
        description = read_toml(path)
        try:
            identity = WaitIdentity(**description["identity"])
            deployed, alone = (_terms(description[name]) for name in ("deployed", "alone"))
            return cls(identity, deployed, alone, **description["fit"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged(path, f"lacks or misstates {error}") from error


def _terms(table: Mapping[str, Any]) -> Terms:
    found = {name: tuple(tuple(map(float, row)) for row in rows) for name, rows in table.items()}
    if _REST not in found:
        raise ValueError(_REST)
    return found


# -- fit ---------------------------------------------------------------------------------------------------


def fit_waits(
    identity: WaitIdentity, models: Sequence[Sequence[Sample]], alone: Sequence[Sample]
) -> WaitModel:
    """`models`: layers of whole ones, at least two; `alone`: operators by themselves, not the first time.

    Raises LutError for fewer models.
    """
    if len(models) < 2 or not alone:
        raise LutError(
            f"{len(models)} models and {len(alone)} operators tell no waits", hint="two models are the least"
        )
    ratios: list[float] = []
    for left_out, model in enumerate(models):
        others = [sample for i, other in enumerate(models) if i != left_out for sample in other]
        ratios += _ratios(_fit(others), model)
    deployed = _fit([sample for model in models for sample in model])
    return WaitModel(identity, deployed, _fit(alone), min(ratios), max(ratios), len(models))


def _ratios(terms: Terms, model: Sequence[Sample]) -> list[float]:
    """Simulated over predicted cycles of a whole model, by each reading."""
    plain = sum(sample.cycles for sample in model)
    simulated = plain + np.sum([sample.waits for sample in model], axis=0)
    predicted = plain + np.sum([_predict(terms, sample.op) for sample in model], axis=0)
    return [float(ratio) for ratio in simulated / predicted]


def _fit(samples: Sequence[Sample]) -> Terms:
    """Non-negative coefficients that make the least error in proportion to an operator's cycles."""
    by_kernel: dict[str, list[Sample]] = {_REST: list(samples)}
    for sample in samples:
        by_kernel.setdefault(select(sample.op).name, []).append(sample)
    return {
        name: _fit_kernel(name, sorted(found, key=lambda sample: sample.op))
        for name, found in sorted(by_kernel.items())
    }


def _fit_kernel(name: str, samples: Sequence[Sample]) -> tuple[tuple[float, ...], ...]:
    trips = np.array([_trips(name, sample.op) for sample in samples])
    cycles = np.array([sample.cycles for sample in samples])
    waits = np.array([sample.waits for sample in samples])
    relative = trips / cycles[:, None]
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0] = 1.0
    rows = [nonnegative_least_squares(relative / scale, column / cycles) / scale for column in waits.T]
    return tuple(tuple(float(f"{value:.6g}") for value in row) for row in rows)


def _trips(name: str, op: OpSpec) -> tuple[float, ...]:
    return (float(op.macs), float(op.out_bytes), 1.0) if name == _REST else (*features(op), 1.0)


def _predict(terms: Terms, op: OpSpec) -> Floats:
    name = select(op).name
    name = name if name in terms else _REST
    predicted: Floats = np.array(terms[name]) @ np.array(_trips(name, op))
    return predicted
