"""Which settings of `[search]` mean nothing for a method, or in a space of cells: none is ignored silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.search.config import SearchConfig

METHODS = (
    "edgenas",
    "hypernetwork",
    "hwdarts",
    "random",
    "evolution",
    "mobilenetv2",
    "given",
)  # that the tables know
CELL_METHODS = ("hypernetwork", "hwdarts", "random", "evolution")
# who trains candidates alone, for one board, and so can compare them with their early exits
EXIT_METHODS = ("edgenas", "hwdarts", "random", "evolution", "mobilenetv2")

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
    "given": (("given",), "it is the architecture of a run that searches none"),
    "population": (("evolution",), "it describes the evolution"),
    "tournament": (("evolution",), "it describes the evolution"),
}

_BLOCKS = 'leave it out, or take [space] kind = "blocks"'
_PATHS = "whose steps train all operators of an edge together"
# Field of SearchConfig, or a key in one, that no method reads in a space of cells: why, and what to do.
_NOT_IN_CELLS = {
    "workers": ("whose contests run one after the other", "leave it out: threads serve one training"),
    "proxies": ("which no proxy chooses from", _BLOCKS),
    "selection": ("which are ranked by shared weights alone", _BLOCKS),
    "sharing": (_PATHS, _BLOCKS),
    "ablation": ("which EdgeNAS does not search", _BLOCKS),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A setting, as its key below `search`, that cannot be followed."""

    key: str
    what: str
    hint: str

    @property
    def error(self) -> ConfigError:
        return ConfigError(f"search.{self.key} {self.what}", hint=self.hint)


def check_settings(config: SearchConfig, methods: Sequence[str], *, cells: bool = False) -> None:
    """Raises ConfigError for a setting that none of `methods` reads, or that means nothing in `cells`.

    Methods of one's own may read all of them.
    """
    refusal = refused_for_cells(config) if cells else None
    if refusal := refusal or _refused_for_methods(config, methods) or _refused_exits(config, methods, cells):
        raise refusal.error


def refused_for_cells(config: SearchConfig) -> Refusal | None:
    """The first setting that differs from its default and would be ignored, or a method of blocks alone."""
    if config.method not in CELL_METHODS:
        return Refusal(
            "method", f"'{config.method}' does not know cell spaces", f"known: {', '.join(CELL_METHODS)}"
        )
    for key, (why, hint) in _NOT_IN_CELLS.items():
        value = _value(config, key)
        if value != _value(SearchConfig(), key):
            told = f"is {value!r}" if isinstance(value, str | int | float) else "is set"
            return Refusal(key, f"{told}, which means nothing in spaces of cells, {why}", hint)
    return None


def _refused_for_methods(config: SearchConfig, methods: Sequence[str]) -> Refusal | None:
    """The first setting that differs from its default and that none of `methods` reads."""
    for name, (readers, reason) in _READERS.items():
        key = _changed(config, name)
        if key and all(method in METHODS and method not in readers for method in methods):
            return Refusal(
                key,
                f"has no effect with method '{', '.join(methods)}': {reason}",
                f"leave it out, or choose the method: {' or '.join(readers)}",
            )
    return None


def _refused_exits(config: SearchConfig, methods: Sequence[str], cells: bool) -> Refusal | None:
    """Early exits that are to be searched for by a method that cannot."""
    if not config.exits.search:
        return None
    if cells:
        what = "means nothing in spaces of cells, which have no early exits"
        return Refusal("exits.search", what, "leave it out")
    if all(method in METHODS and method not in EXIT_METHODS for method in methods):
        why = {
            "given": "nothing is trained to choose by",
            "hypernetwork": "one member serves several boards, on each of which other exits would be best",
        }
        what = f"cannot be followed by method '{', '.join(methods)}': {why[methods[0]]}"
    elif config.ablation.guide == "macs":
        what = "cannot be followed with search.ablation.guide = 'macs', which knows no latency to an exit"
    else:
        return None
    hint = "leave search = true out (exits are chosen after training in any case)"
    return Refusal("exits.search", what, f"{hint}, or choose the method: {' or '.join(EXIT_METHODS)}")


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
        if method in METHODS and method not in readers
    }
    return replace(config, method=method, **unread)


def _changed(config: SearchConfig, name: str) -> str:
    """The key by which a field differs from its default, e.g. "hyper.kappa"; "" where it does not."""
    value, usual = getattr(config, name), getattr(SearchConfig(), name)
    if value == usual:
        return ""
    for f in fields(value) if is_dataclass(value) else ():
        if getattr(value, f.name) != getattr(usual, f.name):
            return f"{name}.{f.name}"
    return name


def _value(config: SearchConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
