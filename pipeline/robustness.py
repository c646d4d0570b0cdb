"""Robustness: what a finished model does on other inputs, in small batches, at lower clocks and under load."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import Board
from pipeline.data.dataset import DataSet, Images, Labels
from pipeline.data.shift import noisy, rotated
from pipeline.errors import ConfigError
from pipeline.export.reference import int8_logits
from pipeline.figures import Figure, Provenance
from pipeline.latency.condition import at_clock
from pipeline.space.budgets import Budgets
from pipeline.space.exits import ExitRule

_Right = NDArray[np.bool_]  # (n,): whether each image was classified rightly


@dataclass(frozen=True, slots=True)
class RobustnessConfig:
    """`[robustness]` of a run file; what is empty is not looked at. Raises ConfigError.

    rotate_degrees, noise: the test images turned so far (counter-clockwise), or with Gaussian noise of that part of
    the full range. images: of the test split, evenly spaced. batches: sizes of the batches whose accuracies are
    drawn, once with the test set's classes and once with classes that are mixed unevenly (`skew`: concentration of
    the Dirichlet distribution; small: few classes make up a batch). draws: batches of each kind.

    clocks_hz: clocks that the board may be stepped down to. loads: factors by which everything may take longer
    while other work runs beside the model. hold: the latency budget must hold under each of them, so the search's
    own limit is lowered; without it they are only shown.
    """

    rotate_degrees: tuple[float, ...] = ()
    noise: tuple[float, ...] = ()
    images: int = 2000
    batches: tuple[int, ...] = ()
    skew: float = 0.3
    draws: int = 1000
    clocks_hz: tuple[int, ...] = ()
    loads: tuple[float, ...] = ()
    hold: bool = False

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, hint: str) -> None:
            if not ok:
                raise ConfigError(f"robustness.{name} = {getattr(self, name)}", hint=hint, key=name)

        check(
            all(0 < d < 360 for d in self.rotate_degrees), "rotate_degrees", "degrees above 0 and below 360"
        )
        check(all(0 < n <= 1 for n in self.noise), "noise", "parts of the full range, above 0 and at most 1")
        check(self.images >= 1, "images", "at least 1")
        check(all(b >= 1 for b in self.batches), "batches", "images in a batch, at least 1")
        check(self.skew > 0, "skew", "above 0; small values mix classes unevenly")
        check(self.draws >= 2, "draws", "at least 2")
        check(all(c >= 1 for c in self.clocks_hz), "clocks_hz", "clocks in Hz")
        check(all(f >= 1 and math.isfinite(f) for f in self.loads), "loads", "factors of at least 1")
        check(
            not self.hold or bool(self.clocks_hz or self.loads),
            "hold",
            "name clocks_hz or loads to hold under",
        )

    @property
    def nothing(self) -> bool:
        return not (self.rotate_degrees or self.noise or self.batches or self.clocks_hz or self.loads)

    def conditions(self, board: Board) -> list[tuple[int, float]]:
        """(clock in Hz, load factor) of each condition, the board's own clock and no load first.

        Raises ConfigError for a clock to which the board's table cannot be scaled.
        """
        clocks = dict.fromkeys((board.clock_hz, *self.clocks_hz))
        for clock in self.clocks_hz:
            at_clock(board, clock, "robustness.clocks_hz")
        return [(clock, load) for clock in clocks for load in dict.fromkeys((1.0, *self.loads))]

    def held(self, budgets: Budgets, board: Board) -> Budgets:
        """The budgets of an idle board at its own clock that keep the real ones under every condition.

        Raises ConfigError for conditions that have no meaning on `board`.
        """
        conditions = self.conditions(board)
        if not self.hold:
            return budgets
        if budgets.latency_ms is None:
            raise ConfigError(
                "robustness.hold without a latency budget", hint="give budgets.latency_ms", key="hold"
            )
        slowest = max(board.clock_hz / clock * load for clock, load in conditions)
        return replace(budgets, latency_ms=budgets.latency_ms / slowest)


def latency_under(
    config: RobustnessConfig, board: Board, high_cycles: float, limit_ms: float | None, provenance: Provenance
) -> list[dict[str, Any]]:
    """A row for each clock and load: latency (upper quantile) and whether the budget holds there.

    `provenance`: of `high_cycles`.
    """
    rows = []
    for clock, load in config.conditions(board):
        ms = high_cycles / clock * 1e3 * load
        figure = Figure(ms, "ms", provenance, note="upper quantile by the table, scaled to clock and load")
        rows.append(
            {
                "clock_hz": clock,
                "load": load,
                "latency_ms": figure.to_json(),
                "holds": None if limit_ms is None else ms <= limit_ms,
            }
        )
    return rows


def accuracy_under(
    config: RobustnessConfig, model: bytes, data: DataSet, seed: int, rule: ExitRule | None = None
) -> dict[str, Any]:
    """INT8 accuracy of the .tflite on changed test images, and its spread over batches of unchanged ones.

    On LiteRT's reference kernels; with early exits each image ends where `rule` says. Raises ModelError and ToolError
    as `LiteRtReference`.
    """
    count = min(config.images, len(data.x_test))
    chosen = np.linspace(0, len(data.x_test) - 1, count).round().astype(int)
    x, y = data.x_test[chosen], data.y_test[chosen]
    usual = _right(model, x, y, rule)
    base = float(usual.mean())
    note = "the exported file on LiteRT's reference kernels"
    if rule is not None:
        note += ", each image ending at the exit that the thresholds say"
    inputs = [_row("unchanged", usual, base, note)]
    for degrees in config.rotate_degrees:
        turned = _right(model, rotated(x, degrees), y, rule)
        inputs.append(_row(f"rotated by {degrees:g} degrees", turned, base, note))
    for number, noise in enumerate(config.noise):
        changed = noisy(x, noise, np.random.default_rng([seed, 0x0B0, number]))
        inputs.append(_row(f"noise of {noise:g} of the range", _right(model, changed, y, rule), base, note))
    batches = []
    for size in config.batches:
        for skewed in (False, True):
            drawn = batch_accuracies(
                usual,
                y,
                size,
                config.draws,
                config.skew if skewed else None,
                np.random.default_rng([seed, size]),
            )
            batches.append(
                {
                    "size": size,
                    "classes": f"mixed unevenly (Dirichlet {config.skew:g})"
                    if skewed
                    else "as in the test split",
                    "mean": float(drawn.mean()),
                    "fifth_percentile": float(np.quantile(drawn, 0.05)),
                    "worst": float(drawn.min()),
                    "draws": config.draws,
                }
            )
    return {"images": count, "inputs": inputs, "batches": batches}


def batch_accuracies(
    right: _Right, labels: Labels, size: int, draws: int, skew: float | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(draws,) accuracies of batches of `size` images drawn with replacement.

    skew: None draws images evenly; else each batch first draws its mixture of classes from a symmetric Dirichlet
    distribution of that concentration.
    """
    if skew is None:
        return right[rng.integers(0, len(right), (draws, size))].mean(1)
    classes = np.unique(labels)
    members = [np.flatnonzero(labels == c) for c in classes]
    accuracies = np.empty(draws)
    for i in range(draws):
        # a concentration near 0 may underflow to no class at all
        mixture = np.nan_to_num(rng.dirichlet(np.full(len(classes), skew)))
        mixture = (
            mixture / mixture.sum() if mixture.sum() > 0 else np.eye(len(classes))[rng.integers(len(classes))]
        )
        counts = rng.multinomial(size, mixture)
        drawn = [rng.choice(m, n) for m, n in zip(members, counts, strict=True) if n]
        accuracies[i] = right[np.concatenate(drawn)].mean()
    return accuracies


def _right(model: bytes, x: Images, y: Labels, rule: ExitRule | None) -> _Right:
    outputs = int8_logits(model, x)
    answers = outputs[-1] if rule is None else rule.result(outputs)[:, :-1]
    found: _Right = answers.argmax(1) == y
    return found


def _row(name: str, right: _Right, base: float, note: str) -> dict[str, Any]:
    accuracy = Figure(float(right.mean()), "fraction", "measured", n=len(right), note=note)
    return {"name": name, "accuracy": accuracy.to_json(), "change": float(right.mean()) - base}


def section(
    config: RobustnessConfig,
    board: Board,
    high_cycles: float,
    budgets: Budgets,
    accuracies: dict[str, Any] | None,
    provenance: Provenance = "modelled",
) -> dict[str, Any] | None:
    """The report's part; None where nothing was asked for. `high_cycles`: the prediction's upper end.

    `slowest_clock_hz` and `highest_load` say how far the latency budget reaches, each with the other as it is; the
    first is None where the table cannot be scaled to other clocks.
    """
    if config.nothing:
        return None
    rows = latency_under(config, board, high_cycles, budgets.latency_ms, provenance)
    limit = budgets.latency_ms
    room = limit / (high_cycles / board.clock_hz * 1e3) if limit is not None else None
    slowest = math.ceil(board.clock_hz / room) if room and room >= 1 else None
    return {
        "latency": rows if len(rows) > 1 else [],
        "hold": config.hold,
        "slowest_clock_hz": slowest if slowest is not None and _scales(board, slowest) else None,
        "highest_load": room if room and room >= 1 else None,
        **(accuracies or {"images": 0, "inputs": [], "batches": []}),
    }


def _scales(board: Board, clock_hz: int) -> bool:
    """Whether the table's cycles stay right at that clock, as for clocks that are named."""
    try:
        at_clock(board, clock_hz)
    except ConfigError:
        return False
    return True


def hold_checks(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Whether the latency budget holds under each condition that it must hold under, as the report's checks."""
    if part is None or not part["hold"]:
        return []
    found = []
    for row in part["latency"]:
        latency, where = row["latency_ms"], f"{row['clock_hz'] / 1e6:g} MHz, load {row['load']:g}"
        detail = f"{latency['value']:.2f} ms ({latency['provenance']}, upper end of the interval) at {where}"
        detail += ", within" if row["holds"] else ", over"
        found.append(
            {
                "name": f"robustness.hold at {where}",
                "ok": row["holds"] is not False,
                "detail": f"latency under robustness.hold: {detail} its budget",
            }
        )
    return found
