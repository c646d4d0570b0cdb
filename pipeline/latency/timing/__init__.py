"""Timing models of cores: modelled cycles from the blocks that an emulator counted."""

from __future__ import annotations

from typing import cast

from pipeline.errors import ConfigError
from pipeline.latency.timing import (
    cortex_a53,
    cortex_m4,
    cortex_m7,
    cv32e40p,
    cv32e40p_waits,
    ibex,
    ibex_waits,
)
from pipeline.latency.timing.model import BlockCost, TimingModel, WaitingModel, WaitStates

__all__ = ["BlockCost", "TimingModel", "WaitStates", "WaitingModel", "timing_model", "waiting_model"]

_MODELS = {
    model.NAME: cast(TimingModel, model) for model in (cortex_a53, cortex_m4, cortex_m7, cv32e40p, ibex)
}
_WAITING = {model.NAME: cast(WaitingModel, model) for model in (cv32e40p_waits, ibex_waits)}


def timing_model(name: str) -> TimingModel:
    """The timing model that a board names in `core.timing`; raises ConfigError where there is none."""
    if name not in _MODELS:
        raise ConfigError(
            f"unknown timing model {name!r}", hint=f"core.timing is one of: {', '.join(sorted(_MODELS))}"
        )
    return _MODELS[name]


def waiting_model(name: str) -> WaitingModel:
    """The model of the same core behind memories with wait states; raises ConfigError where there is none."""
    if name not in _WAITING:
        raise ConfigError(
            f"timing model {name}: wait states are not modelled",
            hint=f"set memory.*.wait_states to 0; core.timing that knows them: {', '.join(sorted(_WAITING))}",
        )
    return _WAITING[name]
