"""What a timing model of a core answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.links.accesses import Regional
from pipeline.links.blockcount import BlockCount, Region


@dataclass(frozen=True, slots=True)
class WaitStates:
    """Of fetches and data accesses: the answer comes 1 + that many cycles after the grant."""

    flash: int
    sram: int


@dataclass(frozen=True)
class BlockCost:
    """Cycles of one run of a block: where execution falls through its end, and where it leaves it.

    `leaves`: whether it ends with an instruction that can send execution elsewhere (asked by `whole_blocks`).
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


class WaitingModel(Protocol):
    """The same for a core whose memories have wait states."""

    NAME: str
    VERSION: int

    def region_cycles(self, region: Region, accesses: Regional, waits: WaitStates) -> float:
        """Modelled cycles of all that ran in `region`; `accesses`: which memory its loads and stores reached."""


def whole_blocks(region: Region, leaves: Callable[[BlockCount], bool]) -> Region:
    """`region` without the cuts that an emulator makes where a page of its memory ends, or behind a device access.

    So no instruction loses the one before it, and a function's place in memory changes nothing. `leaves`: whether a
    block ends with an instruction that can send execution elsewhere; one that does not was cut. Runs, taken branches
    and instructions keep their sums; where a block is entered at its cut too, its taken branches are shared out.
    """
    at: dict[int, BlockCount] = {}
    found: list[BlockCount] = []

    def keep(block: BlockCount) -> None:
        other = at.get(block.pc)
        if other is None or block.runs > other.runs:
            at[block.pc], block = block, other or replace(block, runs=0)
        if block.runs:
            found.append(block)

    for block in sorted(region.blocks, key=lambda block: block.pc, reverse=True):
        rest = None if leaves(block) else at.get(block.pc + len(block.code))
        if rest is None:
            keep(block)
            continue
        runs = min(block.runs, rest.runs)
        taken = round(rest.taken * runs / rest.runs) if rest.runs else 0
        at[rest.pc] = replace(rest, runs=rest.runs - runs, taken=rest.taken - taken)
        keep(
            BlockCount(block.pc, block.code + rest.code, block.instructions + rest.instructions, runs, taken)
        )
        if block.runs > runs:
            found.append(replace(block, runs=block.runs - runs))
    return Region(tuple(block for block in (*found, *at.values()) if block.runs))


def summed_cycles(region: Region, block_cost: Callable[[bytes, int], BlockCost]) -> float:
    """Cycles of all that ran in `region`, by the costs of its blocks."""
    total = 0.0
    for block in region.blocks:
        cost = block_cost(block.code, block.pc)
        total += (block.runs - block.taken) * cost.cycles + block.taken * cost.taken_cycles
    return total
