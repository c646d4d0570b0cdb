"""Cycle model of the CV32E40P core (formerly RI5CY), RV32IMC without its PULP extensions.

Costs are those of the OpenHW Group's CV32E40P User Manual, "Pipeline Details" (tables "Cycle counts per
instruction type" and section "Hazards"), for memories that grant at once and answer in the next cycle.
"""

from __future__ import annotations

from functools import lru_cache

from pipeline.latency.timing import riscv_blocks as rv
from pipeline.latency.timing.model import BlockCost
from pipeline.links.blockcount import Region

NAME = "cv32e40p"
VERSION = 2

HIGH_MULTIPLY_CYCLES = 5
DIVIDE_CYCLES = 32  # 3 to 35 by the leading zeros of the divisor: of 4 to 7, operands are not known
JUMP_CYCLES = 2
TAKEN_BRANCH_CYCLES = 3
CSR_CYCLES = 4  # of the status and counter registers, which flush the pipeline
SPLIT_TARGET_CYCLES = 1  # a 32-bit target at an odd halfword takes two fetches
LOAD_USE_CYCLES = 1  # by the next instruction
JUMP_REGISTER_CYCLES = 1  # JALR after the instruction that computes its register
JUMP_LOADED_CYCLES = 2  # JALR after the load of its register; one less with an instruction between


def base_cycles(name: str) -> int:
    """Of one instruction by its uncompressed name; a branch as if not taken."""
    if name in rv.HIGH_MULTIPLIES:
        return HIGH_MULTIPLY_CYCLES
    if name in rv.DIVIDES:
        return DIVIDE_CYCLES
    if name in rv.JUMPS:
        return JUMP_CYCLES
    if name in rv.CSR_ACCESSES:
        return CSR_CYCLES
    return 1


def _hazard_cycles(instruction: rv.Instruction, before: rv.Instruction | None, earlier_load: bool) -> int:
    """Stalls of `instruction` behind `before`; `earlier_load`: the one before that loads what it reads."""
    depends = before is not None and bool(before.writes & instruction.reads)
    loads = before is not None and before.name in rv.LOADS
    if instruction.name == "jalr":
        if depends:
            return JUMP_LOADED_CYCLES if loads else JUMP_REGISTER_CYCLES
        return JUMP_LOADED_CYCLES - 1 if earlier_load else 0
    return LOAD_USE_CYCLES if depends and loads else 0


@lru_cache(maxsize=65536)
def block_cost(code: bytes, address: int) -> BlockCost:
    """Cost of one run of the block `code` at `address`, its target's alignment apart.

    Raises ToolError for an instruction outside RV32IMC.
    """
    cycles = 0
    before: rv.Instruction | None = None
    second: rv.Instruction | None = None
    for instruction in rv.decode(code, address, NAME):
        earlier = second is not None and second.name in rv.LOADS and bool(second.writes & instruction.reads)
        cycles += base_cycles(instruction.name) + _hazard_cycles(instruction, before, earlier)
        second, before = before, instruction
    return rv.cost(cycles, before.name if before is not None else "", TAKEN_BRANCH_CYCLES)


def region_cycles(region: Region) -> float:
    """Modelled cycles of all that ran in `region`."""
    return rv.region_cycles(region, block_cost, SPLIT_TARGET_CYCLES)
