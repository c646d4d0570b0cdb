"""What a finished hypernetwork search can be asked for later. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.search.targets import Target

MEMBERS = 16  # unless the user says otherwise


@dataclass(frozen=True, slots=True)
class Request:
    """`members` architectures for `target` and its budgets, ranked with shared weights.

    `complexity` is S; without it the centre of the simplex and a point near each corner are swept. The best
    `trained` members train alone for `train_steps` each (0: none does).
    """

    target: Target
    complexity: tuple[float, ...] | None = None
    members: int = MEMBERS
    trained: int = 4
    train_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("members", "trained"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.train_steps < 0:
            raise ConfigError(f"train_steps must be 0 or more, not {self.train_steps}")


def complexity_of(ops: Sequence[str], penalties: Mapping[str, float]) -> tuple[float, ...] | None:
    """The point of the simplex with the given components; the others share what is left. None for none given.

    Raises ConfigError for an operator that is not in `ops`, and for components that do not fit a simplex.
    """
    if not penalties:
        return None
    for name, value in penalties.items():
        if name not in ops:
            raise ConfigError(f"the search space has no operator {name!r}", hint=f"it has {', '.join(ops)}")
        if not 0 <= value <= 1:
            raise ConfigError(
                f"the penalty of {name} is {value:g}", hint="components of S lie between 0 and 1"
            )
    given, free = sum(penalties.values()), len(ops) - len(penalties)
    if given > 1 + 1e-9 or (not free and given < 1 - 1e-9):
        raise ConfigError(f"the penalties add up to {given:g}", hint="all components of S together are 1")
    rest = max(0.0, 1 - given) / max(1, free)
    return tuple(penalties.get(name, rest) for name in ops)


def not_trained() -> ConfigError:
    return ConfigError(
        "there is no trained hypernetwork of this run file",
        hint="train it first: edgenas search RUN.toml with search.method = 'hypernetwork'",
    )
