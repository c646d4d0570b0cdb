"""AdaptConfig: the `[adapt]` table of a run file, and how the edge stage spends what it may."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.search.config import SearchConfig
from pipeline.search.effort import TRAINING
from pipeline.tomltable import MOST_RATE, check_at_most


@dataclass(frozen=True, slots=True)
class AdaptConfig:
    """From which run the edge stage starts, the device's present condition, and how much it may cost.

    cloud: the folder of the run that searched; empty: this is no edge stage. clock_hz: present clock of the
    core, 0: the board's. latency_scale: how much longer an inference takes under the present load (1: idle);
    measure: measure that on the board instead, over `measure_operators` operators run `measure_runs` times each,
    and count with their `measure_quantile`. share: of the cloud search's images, see search/effort.py.
    candidates: architectures scored with shared weights, of which `contestants` train alone. focus: part of the
    distribution's mass that lies on the cloud's candidates. Raises ConfigError.
    """

    cloud: str = ""
    clock_hz: int = 0
    latency_scale: float = 1.0
    measure: bool = False
    measure_operators: int = 12
    measure_runs: int = 5
    measure_quantile: float = 0.95
    share: float = 0.08
    candidates: int = 16
    contestants: int = 2
    focus: float = 0.8
    learning_rate: float = 0.2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_scale) and self.latency_scale >= 1):
            raise ConfigError(
                f"adapt.latency_scale = {self.latency_scale} is below 1",
                hint="1 is the idle board that the table was measured on; load makes it slower",
                key="latency_scale",
            )
        if self.measure and self.latency_scale != 1.0:
            raise ConfigError(
                "adapt.latency_scale is given and adapt.measure too",
                hint="leave one of them out",
                key="latency_scale",
            )
        for name in ("measure_operators", "measure_runs", "candidates", "contestants"):
            if getattr(self, name) < 1:
                raise ConfigError(f"adapt.{name} = {getattr(self, name)} must be at least 1", key=name)
        if self.contestants > self.candidates:
            raise ConfigError(
                f"adapt.contestants = {self.contestants} is more than adapt.candidates = {self.candidates}",
                hint="contestants are chosen among the candidates",
                key="contestants",
            )
        for name in ("measure_quantile", "share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"adapt.{name} = {getattr(self, name)} must be above 0 and at most 1", key=name
                )
        if not 0 <= self.focus < 1:
            raise ConfigError(f"adapt.focus = {self.focus} must be at least 0 and below 1", key="focus")
        if not self.learning_rate > 0:
            raise ConfigError(
                f"adapt.learning_rate = {self.learning_rate} must be positive", key="learning_rate"
            )
        check_at_most(MOST_RATE, {"adapt.learning_rate": self.learning_rate})


@dataclass(frozen=True, slots=True)
class Spending:
    """What the edge stage does with its share: weight steps, and validation images per look."""

    steps: int  # of the supernet
    ranking_images: int  # for each candidate
    contest_steps: int  # of each contestant
    contest_images: int
    passes: int  # all of it, in the unit of search/effort.py
    allowed: int

    @classmethod
    def plan(
        cls, adapt: AdaptConfig, config: SearchConfig, cloud_passes: int, validation_images: int
    ) -> Spending:
        """Divide `adapt.share` of the cloud search (of `config`, which cost `cloud_passes`).

        At most a quarter goes into scoring and an eighth into judging the contest; of the rest 2/5 tune the
        supernet and 3/5 train the contestants. Raises ConfigError where that is less than one step each.
        """
        allowed = int(adapt.share * cloud_passes)
        most = min(config.ranking_images, validation_images)
        ranking = min(most, allowed // (4 * adapt.candidates))
        contest = min(validation_images, allowed // (8 * adapt.contestants))
        rest = allowed - adapt.candidates * ranking - adapt.contestants * contest
        step = TRAINING * config.batch_size
        steps = 2 * rest // (5 * step)
        contest_steps = (rest - steps * step) // (adapt.contestants * step)
        if min(ranking, contest) < 2 or min(steps, contest_steps) < 1:
            raise ConfigError(
                f"adapt.share = {adapt.share:g} of the cloud search is {allowed:,} images: too few for "
                f"{adapt.candidates} candidates and {adapt.contestants} contestants",
                hint="raise adapt.share, or lower adapt.candidates or adapt.contestants",
                key="share",
            )
        passes = step * (steps + adapt.contestants * contest_steps)
        passes += adapt.candidates * ranking + adapt.contestants * contest
        return cls(steps, ranking, contest_steps, contest, passes, allowed)
