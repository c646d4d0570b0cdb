"""Which settings of `[search]` only some methods read, and why: the others refuse them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.search.config import SearchConfig

# Field of SearchConfig: who reads it, and why nobody else does. Fields that are not here are read by every method: the
# baselines too, whose effort is what these settings make EdgeNAS cost.
_READERS: dict[str, tuple[tuple[str, ...], str]] = {
    "ablation": (("edgenas",), "it takes a part of EdgeNAS away"),
    "hyper": (("hypernetwork",), "it describes the hypernetwork"),
    "hwdarts": (("hwdarts",), "it describes the searches of HW-DARTS"),
    "latency": (
        ("edgenas", "hypernetwork", "hwdarts"),
        "only a search along the gradient of latency follows a predictor",
    ),
    "proxies": (("random", "evolution"), "only these methods draw what they train uniformly"),
    "population": (("evolution",), "it describes the evolution"),
    "tournament": (("evolution",), "it describes the evolution"),
}
_METHODS = (
    "edgenas",
    "hypernetwork",
    "hwdarts",
    "random",
    "evolution",
    "mobilenetv2",
)  # that the table knows


def check_settings(config: SearchConfig, methods: Sequence[str]) -> None:
    """Raises ConfigError for a setting that none of `methods` reads. Methods of one's own may read all of them."""
    for name, keys in _changed(config).items():
        readers, reason = _READERS[name]
        if all(method in _METHODS and method not in readers for method in methods):
            raise ConfigError(
                f"search.{keys[0]} has no effect with method '{', '.join(methods)}': {reason}",
                hint=f"leave it out, or choose the method: {' or '.join(readers)}",
            )


def check_yields_family(config: SearchConfig) -> None:
    """Raises ConfigError for a method whose searches cannot be asked for further architectures."""
    if config.method != "hypernetwork":
        raise ConfigError(
            f"search.method is '{config.method}': only searches of the hypernetwork yield a family",
            hint='set method = "hypernetwork" in [search], search, then ask for the family',
        )


def read_by(config: SearchConfig, method: str) -> SearchConfig:
    """`config` for `method`, with the defaults of whatever it does not read: for several methods with one file."""
    default = SearchConfig()
    unread = {
        name: getattr(default, name)
        for name, (readers, _) in _READERS.items()
        if method in _METHODS and method not in readers
    }
    return replace(config, method=method, **unread)


def _changed(config: SearchConfig) -> dict[str, list[str]]:
    """The table's fields that differ from their defaults, with the keys: `{"hyper": ["hyper.kappa"]}`."""
    default, found = SearchConfig(), {}
    for name in _READERS:
        value, usual = getattr(config, name), getattr(default, name)
        if value != usual:
            found[name] = [f"{name}.{key}" for key in _differing(value, usual)] or [name]
    return found


def _differing(value: Any, usual: Any) -> list[str]:
    if not is_dataclass(value):
        return []
    return [f.name for f in fields(value) if getattr(value, f.name) != getattr(usual, f.name)]
