"""Cycle model of the Ibex core: RV32IMC, single-cycle multiplier, branch target ALU, writeback stage.

Costs are those of the Ibex reference guide, "Pipeline Details" (lowRISC), for the parameters RV32M =
RV32MSingleCycle, BranchTargetALU = 1, WritebackStage = 1, no instruction cache, no branch predictor, and
memories that grant at once and answer in the next cycle. Constants marked RTL: the guide is silent or off by a cycle,
and they are what the core's RTL showed in Verilator (docs/fidelity.md).
"""

from __future__ import annotations

from functools import lru_cache

from pipeline.latency.timing import riscv_blocks as rv
from pipeline.latency.timing.model import BlockCost
from pipeline.links.blockcount import Region

NAME = "ibex"
VERSION = 2

HIGH_MULTIPLY_CYCLES = 2  # MULH and its kin: one stall cycle; MUL has none
DIVIDE_CYCLES = 37  # RTL: whatever the operands, but for a divisor of zero
JUMP_CYCLES = 2  # one stall cycle: the prefetch buffer is flushed
TAKEN_BRANCH_CYCLES = 2  # likewise, as the branch target ALU computes target and condition at once
LOAD_USE_CYCLES = 1  # RTL: the loaded value is in the register file a cycle after the response
SPLIT_TARGET_CYCLES = 1  # a 32-bit target at an odd halfword takes two fetches


def base_cycles(name: str) -> int:
    """Of one instruction by its uncompressed name; a branch as if not taken."""
    if name in rv.HIGH_MULTIPLIES:
        return HIGH_MULTIPLY_CYCLES
    if name in rv.DIVIDES:
        return DIVIDE_CYCLES
    if name in rv.JUMPS:
        return JUMP_CYCLES
    return 1


@lru_cache(maxsize=65536)
def block_cost(code: bytes, address: int) -> BlockCost:
    """Cost of one run of the block `code` at `address`, its target's alignment apart.

    Raises ToolError for an instruction outside RV32IMC.
    """
    cycles = 0
    loaded: frozenset[int] = frozenset()
    last = ""
    for instruction in rv.decode(code, address, NAME):
        last = instruction.name
        cycles += base_cycles(last) + (LOAD_USE_CYCLES if loaded & instruction.reads else 0)
        loaded = instruction.writes if last in rv.LOADS else frozenset()
    return rv.cost(cycles, last, TAKEN_BRANCH_CYCLES)


def region_cycles(region: Region) -> float:
    """Modelled cycles of all that ran in `region`."""
    return rv.region_cycles(region, block_cost, SPLIT_TARGET_CYCLES)
