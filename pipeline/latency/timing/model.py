"""What a timing model of a core answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pipeline.links.blockcount import Region


@dataclass(frozen=True)
class BlockCost:
    """Cycles of one run of a block: where execution falls through its end, and where it leaves it."""

    cycles: float
    taken_cycles: float


class TimingModel(Protocol):
    """Turns executed blocks into modelled cycles; a module with these four names is one.

    `VERSION` grows with every change that alters a result: it is part of what identifies a latency table.
    """

    NAME: str
    VERSION: int

    def block_cost(self, code: bytes, address: int) -> BlockCost:
        """Cost of the block `code`, whose first byte lies at `address`; ToolError for code it cannot cost."""

    def region_cycles(self, region: Region) -> float:
        """Modelled cycles of all that ran in `region`."""
