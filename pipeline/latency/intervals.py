"""Interval: how far an inference's latency may lie from what a table predicts, calibrated on whole models.

Split conformal prediction: the ratios observed/predicted of models that were built and run are exchangeable with
that of the next model drawn alike, so that its rank among them is uniform. Two of their order statistics therefore
enclose it with a probability of at least `LEVEL`, whatever the ratios' distribution (Vovk, Gammerman, Shafer:
Algorithmic Learning in a Random World, 2005; both ends apart as in Romano, Patterson, Candes: Conformalized
Quantile Regression, 2019, arXiv:1905.03222).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError, LutError
from pipeline.figures import Provenance
from pipeline.latency.identity import Identity
from pipeline.latency.tablefiles import damaged, read_toml, write_toml
from pipeline.space.search_space import SearchSpace

LEVEL = 0.90
# fewer models leave no order statistic for one of the ends
FEWEST = 19

# Widths where nobody has calibrated, by what the table's rows are. Chosen, not measured: far more than any error seen
# over random whole models on emulated boards (docs/fidelity.md), and more still where memories and an operating system
# have their say.
_DEFAULT = {"measured": 0.10, "cycle-accurate": 0.025, "modelled": 0.025, "estimated": 0.50}

# By how much more a model may be off, at least, that no calibration model can be like. Chosen: three times the
# largest error of any such model that was checked (benchmarks/results/other_spaces.md).
_ELSEWHERE = 0.0025


@dataclass(frozen=True, slots=True)
class Interval:
    """Factors on the lower and the upper end of what rows and kernels' models predict for one inference.

    `models` were observed on the target (0: none, the width is a default), `provenance` is that of their
    observation, `source` says which models they were, `space` what they were drawn from (None: it holds for all
    models alike) and `fewest_layers` how many layers the shortest of them had.
    """

    low: float
    high: float
    models: int
    provenance: Provenance
    source: str
    level: float = LEVEL
    space: SearchSpace | None = None
    fewest_layers: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high and math.isfinite(self.high)):
            raise ValueError(f"no interval: factors {self.low} to {self.high}")

    @property
    def elsewhere(self) -> float:
        """By how much more (relative) models may be off that are not of `space`, or of fewer layers: as much again as
        the interval is wide, at least a quarter of a percent."""
        return max(_ELSEWHERE, self.high - self.low)

    def describe(self) -> str:
        """E.g. `90 % interval, -0.020 to +0.12 %, calibrated on 45 ...`."""
        how = f"calibrated on {self.models} {self.source}" if self.models else self.source
        ends = f"{percent(self.low - 1)} to {percent(self.high - 1)} %"
        kind = f"{100 * self.level:.0f} % interval" if self.models else "assumed interval"
        return f"{kind}, {ends}, {how}"

    @classmethod
    def default(cls, provenance: Provenance) -> Interval:
        """For a table whose rows are `provenance` and that was never held against whole models."""
        width = _DEFAULT[provenance]
        return cls(1.0 - width, 1.0 + width, 0, provenance, "not calibrated: a default width")

    def widened(self, low: float, high: float, why: str) -> Interval:
        """By factors of another source of error, which only ever widen it."""
        return replace(
            self,
            low=self.low * min(1.0, low),
            high=self.high * max(1.0, high),
            source=f"{self.source}; {why}",
        )

    @classmethod
    def calibrate(
        cls,
        observed: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        provenance: Provenance,
        source: str,
        space: SearchSpace | None = None,
        fewest_layers: int = 0,
    ) -> Interval:
        """From cycles of whole models of `space` and the ends predicted for each, before any factor.

        Raises LutError for fewer than FEWEST models.
        """
        models = len(observed)
        if models < FEWEST:
            raise LutError(
                f"{models} models cannot calibrate a {100 * LEVEL:.0f} % interval",
                hint=f"at least {FEWEST} are needed, 40 or more are better",
            )
        below, above = tails(models)
        under = np.sort(np.asarray(observed, float) / np.asarray(low, float))
        over = np.sort(np.asarray(observed, float) / np.asarray(high, float))
        ends = float(under[below - 1]), float(over[models - above])
        # estimates with too wide ends of their own make the factors cross; exchanged they are on the safe side
        return cls(min(ends), max(ends), models, provenance, source, LEVEL, space, fewest_layers)

    # -- files -------------------------------------------------------------------------------------------

    def save(self, table: Path, identity: Identity) -> None:
        """Beside `table`, with the conditions that table was measured under."""
        values = {name: value for name, value in asdict(self).items() if name != "space"}
        drawn_from = {"space": self.space.to_json()} if self.space else {}
        write_toml(intervals_path(table), {"interval": values, **drawn_from, "identity": asdict(identity)})

    @classmethod
    def load(cls, table: Path, identity: Identity) -> Interval | None:
        """What lies beside `table`, whose identity is given; None where nothing does.

        Raises LutError: damaged, or of a table measured under other conditions (naming the fields).
        """
        path = intervals_path(table)
        if not path.is_file():
            return None
        description = read_toml(path)
        try:
            found, space = Identity(**description["identity"]), description.get("space")
            drawn_from = SearchSpace.from_json(space) if space else None
            interval = cls(**description["interval"], space=drawn_from)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise damaged(path, f"lacks or misstates {error}", identity.board) from error
        differences = found.differences(identity) if found.hash != identity.hash else {}
        # the rest of the firmware adds a few hundred cycles to an inference; operators do not depend on it
        differences.pop("firmware_revision", None)
        if differences:
            what = "; ".join(f"{name} is '{a}', the table's '{b}'" for name, (a, b) in differences.items())
            raise LutError(
                f"{path} was calibrated under other conditions: {what}",
                hint=f"delete it, or calibrate anew: edgenas lut check --board {identity.board} --calibrate",
            )
        return interval


def tails(models: int, level: float = LEVEL) -> tuple[int, int]:
    """Of `models` + 1 equally likely ranks, how many lie below the interval and how many above.

    As many as the level allows, so that the coverage exceeds it by less than 1 / (models + 1).
    """
    outside = math.floor((1.0 - level) * (models + 1) + 1e-9)
    return outside - outside // 2, outside // 2


def intervals_path(table: Path) -> Path:
    return table.with_suffix(".intervals.toml")


def percent(change: float, sign: str = "+") -> str:
    """With a sign (or ""), two decimals, and two significant digits where those would show nothing."""
    value = 100 * change
    digits = 2 if value == 0 or abs(value) >= 0.1 else min(6, 1 - math.floor(math.log10(abs(value))))
    return f"{value:{sign}.{digits}f}"
