"""Which of a search's settings mean nothing in a space of cells, so that none is ignored silently. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.search.config import SearchConfig

METHODS = ("hypernetwork", "random")

_BLOCKS = 'leave it out, or take [space] kind = "blocks"'
_PATHS = "whose steps train all operators of an edge together"
# Of each setting: why it cannot be followed, and what to do.
_REFUSED = {
    "hyper.boards": ("whose hypernetwork serves one board", "one run file per board, without this key"),
    "hyper.condition_weight": ("whose hypernetwork is not asked for budgets", _BLOCKS),
    "hyper.spend_weight": ("whose hypernetwork is not asked for budgets", _BLOCKS),
    "hyper.entropy_weight": ("whose loss has no such term", _BLOCKS),
    "hyper.conditions": ("whose steps see one S each", _BLOCKS),
    "device": ("which are searched on the CPU", "device = 'cpu' or 'auto'; training has a device of its own"),
    "workers": ("whose contests run one after the other", "leave it out: threads serve one training"),
    "proxies": ("which no proxy chooses from", _BLOCKS),
    "selection": ("which are ranked by shared weights alone", _BLOCKS),
    "sharing": (_PATHS, _BLOCKS),
    "ablation": ("which EdgeNAS does not search", _BLOCKS),
    "latency": ("which have no latency predictor", "latency = 'lut'"),
}
_HARMLESS = {"device": ("auto", "cpu")}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A setting, as its key below `search`, that a space of cells cannot follow."""

    key: str
    what: str
    hint: str

    @property
    def error(self) -> ConfigError:
        return ConfigError(f"search.{self.key} {self.what}", hint=self.hint)


def refused_for_cells(config: SearchConfig) -> Refusal | None:
    """The first setting that differs from its default and would be ignored, or a method of blocks alone."""
    if config.method not in METHODS:
        return Refusal(
            "method", f"'{config.method}' does not know cell spaces", f"known: {', '.join(METHODS)}"
        )
    for key, (why, hint) in _REFUSED.items():
        value, default = _value(config, key), _value(SearchConfig(), key)
        if value != default and value not in _HARMLESS.get(key, ()):
            told = f"is {value!r}" if isinstance(value, str | int | float) else "is set"
            return Refusal(key, f"{told}, which means nothing in spaces of cells, {why}", hint)
    return None


def _value(config: SearchConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
