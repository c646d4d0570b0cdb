"""PrunedArchitecture: another architecture with fewer channels, anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.space.architecture import Architecture, check_keys
from pipeline.space.blocks import Block
from pipeline.space.graph import OpGraph
from pipeline.space.widths import groups, resize


@dataclass(frozen=True, slots=True)
class PrunedArchitecture(Architecture):
    """`base` with `widths` channels in the groups of its graph (`pipeline.space.widths`), in their order.

    Raises ConfigError where the widths do not fit.
    """

    input_shape: tuple[int, int, int] = field(init=False)
    classes: int = field(init=False)
    stem_channels: int = field(init=False)
    stem_stride: int = field(init=False)
    blocks: tuple[Block, ...] = field(init=False)
    exits: tuple[int, ...] = field(init=False)
    base: Architecture = field(kw_only=True)
    widths: tuple[int, ...] = field(kw_only=True)

    def __post_init__(self) -> None:
        for name in ("input_shape", "classes", "stem_channels", "stem_stride", "blocks", "exits"):
            object.__setattr__(self, name, getattr(self.base, name))
        resize(self.base.lower(), self.widths)

    def to_json(self) -> dict[str, Any]:
        return {"base": self.base.to_json(), "widths": list(self.widths)}

    @classmethod
    def from_pruned_json(cls, raw: Any) -> PrunedArchitecture:
        """Inverse of `to_json`. Raises ConfigError on anything else."""
        check_keys("architecture", raw, ("base", "widths"))
        if not isinstance(raw["widths"], list | tuple):
            raise ConfigError("architecture: widths must be a list")
        return cls(base=Architecture.from_json(raw["base"]), widths=tuple(raw["widths"]))

    def lower(self) -> OpGraph:
        return resize(self.base.lower(), self.widths)

    def describe(self) -> str:
        """That of the base, and the widths as `left/of`."""
        before = groups(self.base.lower())
        pairs = (f"{width}/{group.channels}" for width, group in zip(self.widths, before, strict=True))
        return f"{self.base.describe()} | pruned to {' '.join(pairs)}"


def unpruned(architecture: Architecture) -> Architecture:
    """The architecture that `architecture` was pruned from, or itself."""
    return architecture.base if isinstance(architecture, PrunedArchitecture) else architecture


def with_exits(architecture: Architecture, exits: tuple[int, ...]) -> Architecture:
    """`architecture` with `exits` instead of its own."""
    if architecture.exits == exits:  # cells have none
        return architecture
    if isinstance(architecture, PrunedArchitecture):
        return replace(architecture, base=with_exits(architecture.base, exits))
    return replace(architecture, exits=exits)
