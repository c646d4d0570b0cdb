"""ProxyConfig: which cheap scores choose what is trained at all, `[search.proxies]` in a run file."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ConfigError

NAMES = ("parameters", "macs", "gradient_norm", "synflow", "naswot")  # what pipeline.search.proxies has
# Images through one architecture that a score of a batch of n images costs: (times n, plus).
_PASSES = {"gradient_norm": (3, 0), "synflow": (0, 3), "naswot": (1, 0)}


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Raises ConfigError, naming the field, on a value without meaning.

    Where `names` is not empty, a method draws `pool` times as many architectures as it can train and trains
    those with the best mean rank over the named proxies.
    """

    names: tuple[str, ...] = ()
    pool: int = 8

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in NAMES:
                raise ConfigError(
                    f"search.proxies.names has '{name}'", hint=f"known: {', '.join(NAMES)}", key="names"
                )
        if type(self.pool) is not int or self.pool < 1:
            raise ConfigError(
                f"search.proxies.pool must be a whole number >= 1, not {self.pool!r}", key="pool"
            )

    def passes(self, batch_size: int) -> int:
        """What looking at one architecture costs, in the unit of `effort`."""
        return sum(
            times * batch_size + plus for name in self.names for times, plus in [_PASSES.get(name, (0, 0))]
        )
