"""What to measure next: the operator whose estimate is least certain, until estimates are good enough.

Per kernel, the fit of its loops' trip counts (pipeline/latency/interpolate.py) has a variance at every
operator that was not measured: x' (X'X)^-1 x, X being the relative trip counts measured so far. The operator
where it is largest comes next (D-optimal sequential design: Fedorov, Theory of Optimal Experiments, 1972,
ch. 2). Each operator is predicted before it is measured: those prospective errors are of held-out operators,
and a kernel is done when the last of them stay below a bound.

Predictions begin as soon as the measured operators can span all candidates: at the rank of their trip counts, which
is far below the number of loops where a search space varies few of them (its kernels' widths, say).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.latency.interpolate import KernelModel, features
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec

_RECENT = 4  # prospective errors that must all stay below the bound
_RIDGE = 1e-9


class Plan:
    """Chooses among `candidates`; `first` are measured in any case, before them.

    `bound`: relative error of held-out operators at which a kernel's remaining candidates are left to the
    model; 0 measures them all. `known`: cycles by operator, from an earlier run.
    """

    def __init__(
        self, candidates: Iterable[OpSpec], first: Iterable[OpSpec] = (), *, bound: float = 0.0,
        known: Mapping[OpSpec, float] | None = None,
    ) -> None:  # fmt: skip
        self.bound = bound
        self._first = sorted(set(first))
        self._kernels: dict[str, _Kernel] = {}
        for op in [*self._first, *sorted(set(candidates) - set(self._first))]:
            name = select(op).name
            self._kernels.setdefault(name, _Kernel(name, bound)).waiting[op] = None
        for op in self._first:
            self._kernels[select(op).name].waiting.pop(op)
        self._handed: set[OpSpec] = set()
        for op, cycles in (known or {}).items():
            self.tell(op, cycles)

    def next(self) -> OpSpec | None:
        """The operator to measure now; None when all is measured or certain enough."""
        while self._first:
            op = self._first.pop(0)
            if op not in self._handed:
                return self._hand(op)
        for kernel in sorted(self._kernels.values(), key=lambda k: k.urgency, reverse=True):
            chosen = kernel.choose()
            if chosen is not None:
                return self._hand(chosen)
        return None

    def tell(self, op: OpSpec, cycles: float | None) -> None:
        """The result of `op`; None where the target refused it."""
        self._handed.add(op)
        kernel = self._kernels.setdefault(select(op).name, _Kernel(select(op).name, self.bound))
        kernel.tell(op, cycles)

    def left(self) -> int:
        """How many operators are still to be measured, at most."""
        return sum(op not in self._handed for op in self._first) + sum(
            len(kernel.waiting) for kernel in self._kernels.values() if not kernel.done
        )

    def waiting(self) -> list[OpSpec]:
        """Operators that were neither handed out nor told about."""
        waiting = [op for kernel in self._kernels.values() for op in kernel.waiting]
        return [op for op in self._first if op not in self._handed] + waiting

    def errors(self) -> dict[str, tuple[float, ...]]:
        """Per kernel, relative errors of predictions made before the measurement, in order."""
        return {name: tuple(kernel.errors) for name, kernel in sorted(self._kernels.items())}

    def recent_errors(self) -> list[float]:
        """The last such errors of each kernel that leaves operators to its model."""
        return [k.worst_error for k in self._kernels.values() if k.done and k.waiting]

    def estimated(self) -> list[OpSpec]:
        """Operators left to the model."""
        return sorted(op for kernel in self._kernels.values() if kernel.done for op in kernel.waiting)

    def _hand(self, op: OpSpec) -> OpSpec:
        self._handed.add(op)
        self._kernels[select(op).name].waiting.pop(op, None)
        return op


class _Kernel:
    """One kernel's measured operators, those that wait, and how well the next one was predicted."""

    def __init__(self, name: str, bound: float) -> None:
        self.name, self._bound = name, bound
        self.waiting: dict[OpSpec, None] = {}
        self.errors: list[float] = []
        self._cycles: dict[OpSpec, float] = {}
        self._model: KernelModel | None = None
        self._rank: int | None = None
        self._table: tuple[list[OpSpec], NDArray[np.float64]] | None = None

    @property
    def done(self) -> bool:
        """Whether the model is good enough for what waits."""
        recent = self.errors[-_RECENT:]
        return self._bound > 0 and len(recent) == _RECENT and max(recent) <= self._bound

    @property
    def worst_error(self) -> float:
        return max(self.errors[-_RECENT:], default=float("inf"))

    @property
    def urgency(self) -> tuple[float, float, str]:
        """Largest first: the errors; without any, the kernel that lacks most of what its model needs."""
        missing = 0.0 if self.errors or self._bound <= 0 else 1.0 - len(self._cycles) / max(self.rank(), 1)
        return self.worst_error, missing, self.name

    def rank(self) -> int:
        """How many measurements, well chosen, determine the model at every candidate (those of the first call)."""
        if self._rank is None:
            trips = np.array([features(op) for op in {**self._cycles, **self.waiting}], float)
            scale = np.abs(trips).max(axis=0, initial=0.0)
            self._rank = (
                int(np.linalg.matrix_rank(trips / np.where(scale > 0, scale, 1.0))) if trips.size else 0
            )
        return self._rank

    def tell(self, op: OpSpec, cycles: float | None) -> None:
        needed = self.rank() if self._bound > 0 else 0  # before `op` leaves the candidates
        self.waiting.pop(op, None)
        if cycles is None or cycles <= 0:
            return
        if self._bound > 0 and len(self._cycles) >= needed:
            predicted = self._fitted().estimate(op).cycles
            self.errors.append(abs(predicted / cycles - 1.0))
        self._cycles[op] = cycles
        self._model = None

    def choose(self) -> OpSpec | None:
        if not self.waiting or self.done:
            return None
        if self._bound <= 0:
            return next(iter(self.waiting))
        ops, rows = self._waiting_rows()
        variance = _variance(self._measured_rows(), rows)
        return ops[int(np.argmax(variance))]

    def _fitted(self) -> KernelModel:
        if self._model is None:
            self._model = KernelModel.fit(self.name, self._cycles)
        return self._model

    def _measured_rows(self) -> NDArray[np.float64]:
        return np.array([np.array(features(op)) / cycles for op, cycles in self._cycles.items()])

    def _waiting_rows(self) -> tuple[list[OpSpec], NDArray[np.float64]]:
        """Trip counts relative to the estimated cycles, as the fit weighs them."""
        if self._table is None or len(self._table[0]) < len(self.waiting):
            self._table = (list(self.waiting), np.array([features(op) for op in self.waiting]))
        ops, trips = self._table
        keep = [i for i, op in enumerate(ops) if op in self.waiting]
        ops, trips = [ops[i] for i in keep], trips[keep]
        self._table = (ops, trips)
        if len(self._cycles) < 2:
            return ops, trips
        estimate = trips @ np.array(self._fitted().coefficients)
        return ops, trips / np.maximum(estimate, 1.0)[:, None]


def _variance(measured: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """x' (X'X + ridge)^-1 x for each row x; columns are scaled so that the ridge means the same for all."""
    if measured.size == 0:
        return np.asarray(rows.sum(axis=1))
    scale = np.maximum(np.abs(measured).max(axis=0), np.abs(rows).max(axis=0))
    scale[scale == 0] = 1.0
    x, candidates = measured / scale, rows / scale
    information = x.T @ x + _RIDGE * np.eye(x.shape[1])
    solved = np.linalg.solve(information, candidates.T)
    return np.asarray(np.einsum("ij,ji->i", candidates, solved))
