"""What a timing model of a core answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.links.blockcount import Region


@dataclass(frozen=True)
class BlockCost:
    """Cycles of one run of a block: where execution falls through its end, and where it leaves it.

    `leaves`: whether it ends with an instruction that can send execution elsewhere (asked by `summed_cycles`).
    """

    cycles: float
    taken_cycles: float
    leaves: bool = True


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


def summed_cycles(region: Region, block_cost: Callable[[bytes, int], BlockCost]) -> float:
    """Cycles of all that ran in `region`, by the costs of its blocks.

    An emulator also cuts a block where a page of its memory ends. What lies on both sides of the cut is costed
    as one, so that no instruction loses the one before it and a function's place in memory changes nothing.
    """
    starts = {block.pc: block for block in region.blocks}
    total = 0.0
    for block in region.blocks:
        cost = block_cost(block.code, block.pc)
        total += (block.runs - block.taken) * cost.cycles + block.taken * cost.taken_cycles
        end = block.pc + len(block.code)
        rest = starts.get(end)
        if rest is not None and not cost.leaves:
            whole = block_cost(block.code + rest.code, block.pc)
            total += block.runs * (whole.cycles - cost.cycles - block_cost(rest.code, end).cycles)
    return total
