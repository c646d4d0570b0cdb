"""Timing models of cores: modelled cycles from the blocks that an emulator counted."""

from __future__ import annotations

from typing import cast

from pipeline.errors import ConfigError
from pipeline.latency.timing import cortex_a53, cortex_m4, cortex_m7, cv32e40p, ibex
from pipeline.latency.timing.model import BlockCost, TimingModel

__all__ = ["BlockCost", "TimingModel", "timing_model"]

_MODELS = {
    model.NAME: cast(TimingModel, model) for model in (cortex_a53, cortex_m4, cortex_m7, cv32e40p, ibex)
}


def timing_model(name: str) -> TimingModel:
    """The timing model that a board names in `core.timing`; raises ConfigError where there is none."""
    if name not in _MODELS:
        raise ConfigError(
            f"unknown timing model {name!r}", hint=f"core.timing is one of: {', '.join(sorted(_MODELS))}"
        )
    return _MODELS[name]
