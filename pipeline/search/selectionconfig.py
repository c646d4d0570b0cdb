"""SelectionConfig: how EdgeNAS goes from a distribution to one architecture, `[search.selection]` in a run file."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.search.proxyconfig import NAMES, ProxyConfig


@dataclass(frozen=True, slots=True)
class SelectionConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    `pool` architectures within the budgets are drawn for every one that shared weights will judge, and those with
    the best mean rank over `proxies` are kept (none: the most probable, and a draw of the others). The semifinal has
    `rounds`: in the first one the best of these train, in each further one mutations of the best so far. With `shared`
    half of the first round's places go by shared weights, and the semifinal starts from them instead of from scratch;
    so do the trainings of the hypernetwork's and HW-DARTS' members, whose only setting here it is.
    """

    proxies: tuple[str, ...] = ("macs", "naswot")
    pool: int = 4
    rounds: int = 3
    shared: bool = False

    def __post_init__(self) -> None:
        for name in self.proxies:
            if name not in NAMES:
                raise ConfigError(
                    f"search.selection.proxies has '{name}'", hint=f"known: {', '.join(NAMES)}", key="proxies"
                )
        if type(self.shared) is not bool:
            raise ConfigError(
                f"search.selection.shared must be true or false, not {self.shared!r}", key="shared"
            )
        for name in ("pool", "rounds"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"search.selection.{name} must be a whole number >= 1, not {value!r}", key=name
                )

    def passes(self, batch_size: int) -> int:
        """What the first look at one architecture costs, in the unit of `effort`."""
        return ProxyConfig(tuple(self.proxies)).passes(batch_size)
