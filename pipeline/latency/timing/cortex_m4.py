"""Cortex-M4 cycle model, after Arm's Technical Reference Manual, DDI 0439D.

Costs are those of Table 3-1 (3.3.1, core), Table 3-2 (3.3.1, DSP) and Table 7-1 (7.2.3, FPU) with the
pairing rules of 3.3.2, which are followed inside a block, not across blocks. All memories answer without
wait states. Where the manual gives a range or a "may", the choices are the constants below; docs/fidelity.md
discusses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import capstone
from capstone import arm

from pipeline.errors import ToolError
from pipeline.latency.timing.decoder import Decoder
from pipeline.latency.timing.model import BlockCost, summed_cycles, whole_blocks
from pipeline.links.blockcount import Region

NAME = "cortex_m4"
VERSION = 2

REFILL_CYCLES = 2  # P of a branch: 1 to 3 by alignment and width of the target (3.3.1)
LOADED_PC_REFILL_CYCLES = 3  # P of a load into PC, of TBB and TBH, which block (3.3.2)
DIVIDE_CYCLES = 7  # 2 to 12 by operands: the middle (Table 3-1)
SPECIAL_REGISTER_CYCLES = 2  # MRS, MSR, CPS: 1 or 2 (Table 3-1)
BARRIER_CYCLES = 0  # B of DMB and DSB: at least 0 (3.3.1)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LOADS = _names(
    # STREX is timed like a load (3.3.2)
    """ldr ldrb ldrh ldrsb ldrsh ldrt ldrbt ldrht ldrsbt ldrsht ldrex ldrexb ldrexh
    strex strexb strexh"""
)
_STORES = _names("str strb strh strt strbt strht")
_DOUBLES = _names("ldrd strd")
_LISTS = _names("ldm ldmdb stm stmdb push pop")
_FLOAT_LISTS = _names("vldmia vldmdb vstmia vstmdb vpush vpop")
_BRANCHES = _names("b bl blx bx cbz cbnz")
_TABLE_BRANCHES = _names("tbb tbh")

_ONE_CYCLE = _names(
    # Table 3-1
    """mov movs movw movt mvn add addw adc sub subw sbc rsb adr cmp cmn and orr orn eor bic tst teq
    lsl lsr asr ror rrx clz mul mla mls smull umull smlal umlal ssat usat sxtb sxth uxtb uxth
    ubfx sbfx bfc bfi rev rev16 revsh rbit nop sev wfe wfi yield dbg hint clrex pld pldw pli
    """
    # Table 3-2
    """smmla smmlar smmls smmlsr smmul smmulr smlabb smlabt smlatb smlatt
    smlalbb smlalbt smlaltb smlaltt smlald smlaldx smulbb smulbt smultb smultt smulwb smulwt
    smusd smusdx smlad smladx smlawb smlawt smlsd smlsdx smlsld smlsldx smuad smuadx umaal
    ssat16 usat16 pkhtb pkhbt sxtb16 uxtb16 uxtab uxtab16 uxtah sxtab sxtab16 sxtah sel usad8 usada8
    uqadd16 uqadd8 qadd qadd16 qadd8 qdadd sadd8 sadd16 shadd16 shadd8 uadd16 uadd8 uhadd16 uhadd8
    qdsub uqsub16 uqsub8 qsub qsub16 qsub8 shsub16 shsub8 ssub16 ssub8 uhsub16 uhsub8 usub16 usub8
    uqasx uqsax sasx qasx qsax shasx shsax ssax uasx uhasx uhsax usax"""
)
# Table 7-1; a reader of the result that follows at once waits a cycle (its second note)
_FLOAT_ARITHMETIC = {
    **dict.fromkeys(_names("vadd vsub vmul vnmul vcvt vcvtb vcvtt vcvtr"), 1),
    **dict.fromkeys(_names("vmla vmls vnmla vnmls vfma vfms vfnma vfnms"), 3),
    **dict.fromkeys(_names("vdiv vsqrt"), 14),
}
_FLOAT_ACCUMULATE = _names("vmla vmls vnmla vnmls vfma vfms vfnma vfnms")
_FLOAT_MOVES = _names("vabs vneg vcmp vcmpe vmrs vmsr")

_CORE_REGISTERS = frozenset([*range(arm.ARM_REG_R0, arm.ARM_REG_R12 + 1), arm.ARM_REG_SP, arm.ARM_REG_LR])


@dataclass(frozen=True)
class _Instruction:
    """What the pairing rules look at; registers are capstone's numbers."""

    name: str
    text: str
    size: int
    conditional: bool
    registers: tuple[int, ...]  # register operands in order, without those inside an address
    base: frozenset[int]  # registers that form the address
    indexed: bool  # by a register
    writes: frozenset[int]

    @property
    def loads_pc(self) -> bool:
        return arm.ARM_REG_PC in self.writes and self.name in _LOADS | _LISTS

    @property
    def leaves(self) -> bool:
        """Whether it can send execution elsewhere."""
        return self.name in _BRANCHES | _TABLE_BRANCHES or arm.ARM_REG_PC in self.writes

    @property
    def processes_data(self) -> bool:
        return not self.leaves and self.name not in _LOADS | _STORES | _DOUBLES | _LISTS | _FLOAT_LISTS


_DECODER = Decoder(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)


def _view(decoded: Any) -> _Instruction:
    """The part of capstone's instruction that costs depend on."""
    name = decoded.insn_name()
    registers = [operand.reg for operand in decoded.operands if operand.type == arm.ARM_OP_REG]
    base: set[int] = set()
    indexed = False
    for operand in decoded.operands:
        if operand.type == arm.ARM_OP_MEM:
            base |= {operand.mem.base, operand.mem.index} - {0, arm.ARM_REG_PC}
            indexed |= operand.mem.index != 0
    if name in ("push", "pop", "vpush", "vpop"):
        base = {arm.ARM_REG_SP}
    elif name in _LISTS | _FLOAT_LISTS:
        base = {registers.pop(0)}
    _, writes = decoded.regs_access()
    return _Instruction(
        name=name,
        text=f"{decoded.mnemonic} {decoded.op_str}",
        size=decoded.size,
        conditional=name in ("cbz", "cbnz") or decoded.cc not in (arm.ARM_CC_AL, arm.ARM_CC_INVALID),
        registers=tuple(registers),
        base=frozenset(base),
        indexed=indexed,
        writes=frozenset(writes),
    )


def _decode(code: bytes, address: int) -> list[_Instruction]:
    decoded = list(_DECODER.disasm(code, address))
    done = sum(instruction.size for instruction in decoded)
    if done != len(code):
        raise ToolError(
            f"timing model {NAME}: no instruction at {address + done:#x} ({code[done : done + 4].hex()})",
            hint="is the firmware built for a Cortex-M4?",
        )
    return [_view(instruction) for instruction in decoded]


def _list_words(instruction: _Instruction) -> int:
    doubles = range(arm.ARM_REG_D0, arm.ARM_REG_D31 + 1)
    return sum(2 if register in doubles else 1 for register in instruction.registers)


def _base_cycles(instruction: _Instruction, address: int) -> int:
    """Cycles of `instruction` on its own, a branch not taken where it is conditional."""
    name, registers = instruction.name, instruction.registers
    if name in _LOADS:
        return 2
    if name in _STORES:
        return 2 if instruction.indexed else 1  # STR with an immediate offset is always one cycle (3.3.2)
    if name in _DOUBLES:
        return 3
    if name in _LISTS | _FLOAT_LISTS:
        return 1 + _list_words(instruction)
    if name in ("sdiv", "udiv"):
        return DIVIDE_CYCLES
    if name in ("mrs", "msr", "cps"):
        return SPECIAL_REGISTER_CYCLES
    if name in ("dmb", "dsb"):
        return 1 + BARRIER_CYCLES
    if name == "isb":
        return 1 + REFILL_CYCLES
    if name in ("vldr", "vstr"):
        return 1 + _list_words(instruction)
    if name == "vmov":
        return 2 if _CORE_REGISTERS & set(registers) else 1
    if name in _FLOAT_ARITHMETIC:
        return _FLOAT_ARITHMETIC[name]
    if name in _TABLE_BRANCHES:
        return 3  # two for the load, one for the addition (3.3.2)
    if name in _ONE_CYCLE | _BRANCHES | _FLOAT_MOVES or name == "it":
        return 1
    raise ToolError(
        f"timing model {NAME}: no cycle count for {instruction.text.strip()!r} at {address:#x}",
        hint="see Tables 3-1, 3-2 and 7-1 of Arm DDI 0439D; add it to pipeline/latency/timing/cortex_m4.py",
    )


def _refill_cycles(instruction: _Instruction) -> int:
    if instruction.loads_pc or instruction.name in _TABLE_BRANCHES:
        return LOADED_PC_REFILL_CYCLES
    return REFILL_CYCLES


def _pairing_cycles(before: _Instruction | None, instruction: _Instruction) -> int:
    """What following directly on `before` adds, or saves where negative."""
    if before is None:
        return 0
    name = instruction.name
    if name == "it":
        return -1 if before.size == 2 and before.name != "it" else 0  # folded (Table 3-1, note d)
    if before.name in _FLOAT_ARITHMETIC:
        reads = instruction.registers
        if name in _FLOAT_ACCUMULATE:
            reads = reads[1:]  # the addend is read a cycle later
        elif name not in ("vcmp", "vcmpe", "vstr"):
            reads = reads[1:]  # without the destination
        return 1 if name.startswith("v") and before.writes & set(reads) else 0
    if before.processes_data:
        return 1 if before.writes & instruction.base else 0  # no forwarding to the address (3.3.2)
    if before.name in _LOADS and not before.writes & {arm.ARM_REG_PC}:
        pipelines = name in _LOADS or (name in _STORES and instruction.indexed)
        destination = before.registers[0] if before.registers else 0
        return -1 if pipelines and not instruction.loads_pc and destination not in instruction.base else 0
    return 0


@lru_cache(maxsize=65536)
def block_cost(code: bytes, address: int) -> BlockCost:
    """Cost of one run of the block `code` at `address`.

    An instruction that an IT block skips is charged as if it ran, but for a branch at the end. Raises
    ToolError for an instruction that the manual's tables do not list.
    """
    instructions = _decode(code, address)
    cycles = 0
    before = None
    for instruction in instructions:
        cycles += _base_cycles(instruction, address) + _pairing_cycles(before, instruction)
        address += instruction.size
        before = instruction
    if before is None or not before.leaves:
        return BlockCost(cycles, cycles, leaves=False)
    taken = cycles + _refill_cycles(before)
    if not before.conditional:
        return BlockCost(taken, taken, leaves=True)
    skipped = cycles - _base_cycles(before, address) + 1  # one cycle where its condition fails
    return BlockCost(skipped, taken, leaves=True)


def region_cycles(region: Region) -> float:
    """Modelled cycles of all that ran in `region`."""
    return summed_cycles(
        whole_blocks(region, lambda block: block_cost(block.code, block.pc).leaves), block_cost
    )
