"""SearchConfig: the knobs of a search, as a run file gives them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pipeline.errors import ConfigError
from pipeline.search.ablation import AblationConfig
from pipeline.search.exitconfig import ExitConfig
from pipeline.search.hwdartsconfig import HwDartsConfig
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.predictorconfig import PredictorConfig
from pipeline.search.proxyconfig import ProxyConfig
from pipeline.search.selectionconfig import SelectionConfig
from pipeline.search.sharingconfig import SharingConfig
from pipeline.tomltable import MOST_RATE, MOST_THREADS, TEMPERATURES, WEIGHTS, check_at_most, check_within

# Settings that change at most the last bits, when something is written, or what comes after the search (exits that are
# searched for are no such thing: see `SearchConfig.outcome`).
WITHOUT_EFFECT = ("checkpoint_seconds", "threads", "workers", "device", "exits")
_AT_LEAST_ONE = ("candidates", "ranking_images", "semifinalists", "finalists", "population", "tournament")


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How long and how a search runs. Raises ConfigError on a value without meaning.

    `steps` counts alternations: one weight step on the training split, then one architecture step on the
    validation split; `warmup_steps` weight steps precede them. `mu`/`nu` are the initial penalty
    coefficients of latency and memory; they grow by `penalty_growth` for each hundredth of `steps` that
    breaks a budget, up to `penalty_cap` (search/penalty.py). `gradient` is the estimator of
    d(validation loss)/d(architecture parameters), see
    docs/search.md. `candidates` feasible architectures are ranked with shared weights, `semifinalists` of
    them after `semifinal_steps` of training of their own, the best `finalists` after `proxy_steps`.
    `workers` of these trainings run at once and share the threads. `device` is "auto" (a GPU where there is
    one), "cpu" or what torch calls it ("cuda:1"); `mixed_precision` computes in bfloat16 on a GPU.
    `exits` says which of the space's early exits stay after training, and whether the search looks for them, too.
    `given` is the architecture of the method of that name, an entry such as "ir4-32" or "skip" for each block.
    `population` and `tournament` are evolution's, `hyper` is the hypernetwork's, `hwdarts` HW-DARTS'; `proxies`
    choose what the baselines train, `selection` what EdgeNAS does, `sharing` says how the supernet's weights begin and
    what contests are worth.
    `latency` guides the search: the expectation of the table ("lut"), or a network fitted to whole models
    ("predictor").
    """

    method: str = "edgenas"
    given: tuple[str, ...] = ()
    warmup_steps: int = 300
    steps: int = 400
    batch_size: int = 96
    validation_batch_size: int = 128
    paths: int = 4
    freedom: float = 0.3
    gradient: str = "score"
    weight_lr: float = 0.2
    architecture_lr: float = 0.03
    temperature_start: float = 1.0
    temperature_end: float = 0.5
    mu: float = 0.1
    nu: float = 0.1
    penalty_growth: float = 1.5
    penalty_cap: float = 100.0
    candidates: int = 32
    ranking_images: int = 1000
    semifinalists: int = 12
    semifinal_steps: int = 50
    finalists: int = 3
    proxy_steps: int = 250
    population: int = 8
    tournament: int = 3
    hyper: HyperConfig = field(default_factory=HyperConfig)
    exits: ExitConfig = field(default_factory=ExitConfig)
    hwdarts: HwDartsConfig = field(default_factory=HwDartsConfig)
    latency: str = "lut"
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    proxies: ProxyConfig = field(default_factory=ProxyConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    sharing: SharingConfig = field(default_factory=SharingConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
    threads: int | None = None
    workers: int = 1
    device: str = "auto"
    mixed_precision: bool = True
    checkpoint_seconds: float = 20.0

    def __post_init__(self) -> None:
        for key in fields(self):
            value = getattr(self, key.name)
            kind = key.type
            if kind == "int" and (type(value) is not int or value < 0):
                raise ConfigError(
                    f"search.{key.name} must be a whole number >= 0, not {value!r}", key=key.name
                )
            real = isinstance(value, int | float) and not isinstance(value, bool)
            if kind == "float" and not (real and value > 0):
                raise ConfigError(f"search.{key.name} must be a number > 0, not {value!r}", key=key.name)
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"search.{name} must be at least 1", key=name)
        for name in ("batch_size", "validation_batch_size"):
            if getattr(self, name) < 2:
                raise ConfigError(
                    f"search.{name} must be at least 2: normalization uses batch statistics", key=name
                )
        if self.gradient not in ("score", "straight-through"):
            raise ConfigError(
                f"search.gradient must be 'score' or 'straight-through', not {self.gradient!r}",
                key="gradient",
            )
        if self.gradient == "score" and self.paths < 2:
            raise ConfigError(
                "search.paths must be at least 2 with gradient 'score': paths are compared", key="paths"
            )
        if self.freedom > 1:
            raise ConfigError("search.freedom must be at most 1", key="freedom")
        if self.latency not in ("lut", "predictor"):
            raise ConfigError(
                f"search.latency must be 'lut' or 'predictor', not {self.latency!r}", key="latency"
            )
        if self.latency == "predictor" and self.ablation.guide == "macs":
            raise ConfigError(
                "search.latency = 'predictor' has no effect with search.ablation.guide = 'macs': "
                "multiply-accumulates guide instead",
                hint="leave one of them out",
                key="latency",
            )
        if self.penalty_growth < 1:
            raise ConfigError("search.penalty_growth must be at least 1", key="penalty_growth")
        if self.workers < 1:
            raise ConfigError("search.workers must be at least 1", key="workers")
        if not re.fullmatch(r"auto|cpu|(cuda|mps)(:\d+)?", self.device):
            raise ConfigError(
                f"search.device must be 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', not {self.device!r}",
                key="device",
            )
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise ConfigError(
                f"search.threads must be a whole number >= 1, not {self.threads!r}", key="threads"
            )
        check_at_most(MOST_THREADS, {"search.threads": self.threads or 1})
        rates = ("weight_lr", "architecture_lr")
        check_at_most(MOST_RATE, {f"search.{name}": getattr(self, name) for name in rates})
        # the penalty is divided by the first two, which become the third
        weights = ("mu", "nu", "penalty_cap")
        check_within(WEIGHTS, {f"search.{name}": getattr(self, name) for name in weights})
        temperatures = ("temperature_start", "temperature_end")
        check_within(TEMPERATURES, {f"search.{name}": getattr(self, name) for name in temperatures})

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SearchConfig:
        """From a run file's table; raises ConfigError on an unknown key."""
        known = [key.name for key in fields(cls)]
        for key in raw:
            if key not in known:
                raise ConfigError(f"unknown key search.{key}", hint=f"known: {', '.join(known)}")
        return cls(**raw)

    @property
    def outcome(self) -> dict[str, Any]:
        """The settings that a search's outcome depends on."""
        found = {k: v for k, v in asdict(self).items() if k not in WITHOUT_EFFECT}
        return {**found, "exits": asdict(self.exits)} if self.exits.search else found

    @property
    def torch_threads(self) -> int:
        return self.threads or os.cpu_count() or 1
