"""Cortex-M7 cycle model: in-order dual issue, after LLVM's machine model and published measurements.

Arm publishes no cycle counts for this core. The rules are those of LLVM's ARMScheduleM7.td [L] and of two series of
measurements on STM32H7: [J] "pipeline cycle test" in github.com/jnk0le/random, [Q] quinapalus.com/cm7cycles.html;
where they differ, the measurements. docs/fidelity.md lists rules and choices. Cycle 0 of an instruction's
operands and results is the late ALU's (EX2); caches and tightly coupled memories answer without waiting.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import capstone
from capstone import arm

from pipeline.errors import ToolError
from pipeline.latency.timing import issue
from pipeline.latency.timing.decoder import Decoder
from pipeline.latency.timing.issue import Block, Core, Operation
from pipeline.latency.timing.model import BlockCost
from pipeline.links.blockcount import Region

NAME = "cortex_m7"
VERSION = 3

DIVIDE_CYCLES = 7  # 4 to 7 by operands [L]: the most
TAKEN_CYCLES = 1  # a branch taken as predicted, to its target; may pair with it by alignment [J]
MISPREDICT_CYCLES = 8  # 6 where the flags were set three cycles before [J]
SPECIAL_CYCLES = 3  # MRS, MSR, barriers: alone [L]
FLOAT_DIVIDE_CYCLES = {"vdiv": 16, "vsqrt": 14}  # [J]

CORE = Core(
    units=(("alu", 2), ("shifter", 1), ("dsp", 1), ("mac", 1), ("load", 2), ("branch", 1), ("float", 1)),
    taken_cycles=TAKEN_CYCLES,
    mispredict_cycles=MISPREDICT_CYCLES,
    bank_bytes=4,  # two loads go at once from an even and an odd word [J]
)

_LATE, _EARLY, _ADDEND, _STORED = (0, 0), (-1, -1), (1, 1), (2, 2)
_FACTOR = (0, -1)  # a multiplier cannot use a word loaded in the cycle before [J]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD_LOADS = _names("ldr ldrt ldrex")
_NARROW_LOADS = _names("ldrb ldrh ldrsb ldrsh ldrbt ldrht ldrsbt ldrsht ldrexb ldrexh")
_STORES = _names("str strb strh strt strbt strht strex strexb strexh")
_LISTS = _names("ldrd strd ldm ldmdb stm stmdb push pop vldmia vldmdb vstmia vstmdb vpush vpop")
_EARLY_ADDS = _names("add addw sub subw mov movs movw movt adr")  # in the older place [J]
_SHIFTS = _names("lsl lsr asr ror")  # in either place [J]
_LOGIC = _names("adc sbc rsb and orr orn eor bic mvn cmp cmn tst teq rrx")
_EARLY_READERS = _names("ubfx sbfx bfc rev rev16 revsh rbit")  # whose source the early ALU takes [J]
_EARLY_SECOND = _names("bfi pkhbt pkhtb sxtab sxtah sxtab16 uxtab uxtah uxtab16")  # the last source [J]
_REVERSALS = _names("rev rev16 revsh rbit")
_SATURATIONS = _names("ssat usat ssat16 usat16 qdadd qdsub")  # early source, two cycles [L]
_SLOW_DSP = _names(
    "qadd qadd8 qadd16 qsub qsub8 qsub16 qasx qsax uqadd8 uqadd16 uqsub8 uqsub16 uqasx uqsax usad8"
)
_DSP = _names(
    """sxtb sxth uxtb uxth sxtb16 uxtb16 clz sel usada8
    sadd8 sadd16 ssub8 ssub16 sasx ssax shadd8 shadd16 shsub8 shsub16 shasx shsax
    uadd8 uadd16 usub8 usub16 uasx usax uhadd8 uhadd16 uhsub8 uhsub16 uhasx uhsax"""
)
_MULTIPLIES = _names(
    "mul smull umull smulbb smulbt smultb smultt smulwb smulwt smuad smuadx smusd smusdx smmul smmulr"
)
_LONG_ACCUMULATES = _names(
    "smlal umlal umaal smlalbb smlalbt smlaltb smlaltt smlald smlaldx smlsld smlsldx"  # two addends, first
)
_ACCUMULATES = _names(
    """mla mls smlabb smlabt smlatb smlatt smlawb smlawt smlad smladx smlsd smlsdx smmla smmlar smmls smmlsr"""
)
_BRANCHES = _names("b bl blx bx cbz cbnz")
_TABLE_BRANCHES = _names("tbb tbh")
_SPECIAL = _names("mrs msr cps dmb dsb isb clrex")
_NOTHING = _names("nop sev wfe wfi yield dbg hint pld pldw pli")
_FLOAT_THREE = _names("vadd vsub vmul vnmul vabs vneg vcmp vcmpe vcvt vcvtb vcvtt vcvtr vmov vmrs vmsr")
_FLOAT_MACS = {
    **dict.fromkeys(_names("vfma vfms vfnma vfnms"), 5),
    **dict.fromkeys(_names("vmla vmls vnmla vnmls"), 6),
}


_DECODER = Decoder(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)


class _View:
    """The parts of one capstone instruction that rules look at."""

    def __init__(self, decoded: Any) -> None:
        self.name: str = decoded.insn_name()
        self.conditional = decoded.cc not in (arm.ARM_CC_AL, arm.ARM_CC_INVALID)
        self.updates = bool(decoded.update_flags) or self.name in ("cmp", "cmn", "tst", "teq")
        operands = decoded.operands
        self.registers = [operand.reg for operand in operands if operand.type == arm.ARM_OP_REG]
        memory = [operand.mem for operand in operands if operand.type == arm.ARM_OP_MEM]
        self.address = [r for m in memory for r in (m.base, m.index) if r not in (0, arm.ARM_REG_PC)]
        self.indexed = any(m.index != 0 for m in memory)
        self.bank: tuple[int, int] | None = (memory[0].base, memory[0].disp) if memory else None
        self.writes_base = bool(decoded.writeback)
        self.shifts = any(operand.type == arm.ARM_OP_REG and operand.shift.type != 0 for operand in operands)
        numbers = [operand.imm for operand in operands if operand.type == arm.ARM_OP_IMM]
        self.number: int | None = numbers[-1] if numbers else None
        self.text = f"{decoded.mnemonic} {decoded.op_str}"

    @property
    def shifted_constant(self) -> bool:
        """Whether its constant is eight bits moved elsewhere: that takes the shifter [J]."""
        if self.number is None or self.name in _SHIFTS | _names("movw movt addw subw adr"):
            return False
        value = self.number & 0xFFFFFFFF
        halves = value & 0xFFFF == value >> 16
        limit = 4096 if self.name in ("add", "sub") else 256
        return value >= limit and not (
            halves and (value & 0xFF == 0 or value & 0xFF00 == 0 or value & 0xFF == value >> 8 & 0xFF)
        )


Reads = list[tuple[int, int, int]]


def _read(registers: list[int], when: tuple[int, int]) -> Reads:
    return [(register, *when) for register in registers]


def _multiply(view: _View) -> Operation:
    registers = view.registers
    if view.name in _LONG_ACCUMULATES:
        results, factors, addends = registers[:2], registers[2:], registers[:2]
    elif view.name in _ACCUMULATES:
        results, factors, addends = registers[:1], registers[1:3], registers[3:]
    else:
        long = view.name in ("smull", "umull")
        results, factors, addends = registers[: 1 + long], registers[1 + long :] or registers[:1], []
    return Operation(
        reads=tuple(_read(factors, _FACTOR) + _read(addends, _ADDEND)),
        writes=tuple((register, 2) for register in results),
        units=(("mac", 1),),
    )


def _memory(view: _View) -> Operation:
    base = [(register, 0) for register in view.address[:1] if view.writes_base]
    address = _read(view.address, _EARLY)
    if view.name in _STORES:
        data = _read(view.registers, _STORED)
        return Operation(
            reads=tuple(address + data), writes=tuple(base), units=(("mac", 1),)
        )  # a store shuts out a multiply [J]
    latency = 1 if view.name in _WORD_LOADS else 2
    results = [(register, latency) for register in view.registers[:1]]
    return Operation(
        reads=tuple(address),
        writes=tuple(results + base),
        units=(("load", 1),),
        load=view.name in _WORD_LOADS,
        bank=view.bank if not view.indexed else (-1, 0),
    )


def _list(view: _View) -> Operation:
    """Several words: alone, two a cycle [J]."""
    registers = list(view.registers)
    base = view.address[:1]
    if view.name in ("push", "pop", "vpush", "vpop"):
        base = [arm.ARM_REG_SP]
    elif view.name not in ("ldrd", "strd"):
        base = [registers.pop(0)]
    words = sum(2 if arm.ARM_REG_D0 <= register <= arm.ARM_REG_D31 else 1 for register in registers)
    hold = (words + 1) // 2
    stores = view.name in ("strd", "stm", "stmdb", "push", "vstmia", "vstmdb", "vpush")
    reads = _read(view.address or base, _EARLY) + (_read(registers, _STORED) if stores else [])
    writes = [] if stores else [(register, hold) for register in registers]
    if view.writes_base or view.name in ("push", "pop", "vpush", "vpop"):
        writes += [(register, 0) for register in base]
    return Operation(reads=tuple(reads), writes=tuple(writes), alone=True, hold=hold, load=not stores)


def _float(view: _View) -> Operation:
    name, registers = view.name, view.registers
    if name in ("vldr", "vstr"):
        double = arm.ARM_REG_D0 <= registers[0] <= arm.ARM_REG_D31
        stored = _read(registers, _STORED) if name == "vstr" else []
        reads = tuple(_read(view.address, _EARLY) + stored)
        if name == "vstr":
            return Operation(reads=reads, units=(("mac", 1),), alone=double)
        return Operation(
            reads=reads, writes=((registers[0], 1),), units=(("load", 1),), alone=double, bank=view.bank
        )
    if name in FLOAT_DIVIDE_CYCLES:
        cycles = FLOAT_DIVIDE_CYCLES[name]
        return Operation(
            reads=tuple(_read(registers[1:], _LATE)),
            writes=((registers[0], cycles),),
            alone=True,
            hold=cycles,
        )
    if name in _FLOAT_MACS:
        reads = tuple(_read(registers[1:], _LATE) + _read(registers[:1], (3, 3)))
        return Operation(reads=reads, writes=((registers[0], _FLOAT_MACS[name]),), units=(("float", 1),))
    sources = registers if name in ("vcmp", "vcmpe", "vmsr") else registers[1:]
    writes = tuple((register, 3) for register in registers[:1]) if name not in ("vcmp", "vcmpe") else ()
    return Operation(reads=tuple(_read(sources, _LATE)), writes=writes, units=(("float", 1),))


def _data(view: _View) -> Operation:
    """Everything of the ALUs."""
    name = view.name
    compares = name in ("cmp", "cmn", "tst", "teq")
    results = [] if compares else view.registers[:1]
    two = len(view.registers) == 2 and view.number is None and name not in ("mov", "movs", "mvn")
    in_place = compares or (len(view.registers) == 1 and name not in ("mov", "movs", "mvn", "movw", "adr"))
    short = two and name in _EARLY_ADDS | _SHIFTS | _LOGIC and not view.shifts
    sources = view.registers if in_place or short or name == "bfi" else view.registers[1:]
    reads = _read(sources, _LATE)
    units = [("alu", 1)]
    latency, early, first = 1, 0, False
    if name in _EARLY_READERS | _SATURATIONS:
        reads = _read(sources, _EARLY)
    elif name in _EARLY_SECOND or view.shifts:
        when = _EARLY if name == "pkhtb" else _LATE
        reads = _read(sources[:-1], when) + _read(sources[-1:], _EARLY if name not in _DSP else _LATE)
    if name in _EARLY_READERS | _EARLY_SECOND | _SATURATIONS | _SLOW_DSP | _DSP:
        units.append(("dsp", 1))
        first = True
        latency = 2 if name in _SATURATIONS | _SLOW_DSP else 0 if name in _REVERSALS else 1
    if name in _EARLY_READERS | _EARLY_SECOND or (not first and (view.shifts or view.shifted_constant)):
        units.append(("shifter", 1))
    elif name in _EARLY_ADDS:
        early = 1
    elif name in _SHIFTS:
        early = 2
    return Operation(
        reads=tuple(reads),
        writes=tuple((register, latency) for register in results),
        units=tuple(units),
        first=first,
        early=early,
    )


def _plain(view: _View) -> Operation | None:
    """The rules for `view`, flags and conditions apart; None where there are none."""
    name = view.name
    if name in _WORD_LOADS | _NARROW_LOADS | _STORES:
        return _memory(view)
    if name in _LISTS:
        return _list(view)
    if name in _MULTIPLIES | _ACCUMULATES | _LONG_ACCUMULATES:
        return _multiply(view)
    if name in ("sdiv", "udiv"):
        reads = tuple(_read(view.registers[-2:], _LATE))
        return Operation(
            reads=reads, writes=((view.registers[0], DIVIDE_CYCLES),), alone=True, hold=DIVIDE_CYCLES
        )
    if name in _BRANCHES:
        return Operation(units=(("branch", 1),))  # predicted: waits for nothing
    if name in _TABLE_BRANCHES:
        return Operation(reads=tuple(_read(view.address, _EARLY)), units=(("load", 1),), alone=True, hold=2)
    if name in _SPECIAL:
        return Operation(alone=True, hold=SPECIAL_CYCLES)
    if name in _NOTHING or name == "it":
        return Operation()
    if name in _FLOAT_THREE or name in _FLOAT_MACS or name in FLOAT_DIVIDE_CYCLES or name in ("vldr", "vstr"):
        return _float(view)
    if (
        name
        in _EARLY_ADDS | _SHIFTS | _LOGIC | _EARLY_READERS | _EARLY_SECOND | _SATURATIONS | _SLOW_DSP | _DSP
    ):
        return _data(view)
    return None


def _operation(view: _View, address: int) -> Operation:
    plain = _plain(view)
    if plain is None:
        raise ToolError(
            f"timing model {NAME}: no rule for {view.text.strip()!r} at {address:#x}",
            hint="add it to pipeline/latency/timing/cortex_m7.py, with its source",
        )
    reads = list(plain.reads)
    if (view.conditional and view.name not in _BRANCHES) or view.name in ("adc", "sbc", "rrx"):
        reads.append((arm.ARM_REG_CPSR, *_LATE))
    flags = ((arm.ARM_REG_CPSR, 1),) if view.updates else ()
    early = 0 if view.conditional else plain.early
    return replace(plain, reads=tuple(reads), flags=flags, early=early)


@lru_cache(maxsize=65536)
def decode(code: bytes, address: int) -> Block:
    """`code` as the simulation takes it; ToolError for an instruction without a rule."""
    operations = []
    target, conditional, leaves, at = None, False, False, address
    for decoded in _DECODER.disasm(code, address):
        view = _View(decoded)
        operations.append(_operation(view, at))
        target, conditional, at = None, False, at + decoded.size
        leaves = view.name in _BRANCHES | _TABLE_BRANCHES or arm.ARM_REG_PC in decoded.regs_access()[1]
        if leaves:
            conditional = view.conditional or view.name in ("cbz", "cbnz")
            target = view.number if view.name in ("b", "bl", "cbz", "cbnz") else None
    if at != address + len(code):
        raise ToolError(
            f"timing model {NAME}: no instruction at {at:#x} ({code[at - address : at - address + 4].hex()})",
            hint="is the firmware built for a Cortex-M7?",
        )
    return Block(tuple(operations), target, conditional, leaves)


@lru_cache(maxsize=65536)
def block_cost(code: bytes, address: int) -> BlockCost:
    """Cost of one run of the block `code` at `address`, branches predicted; behind itself where it is a loop."""
    cycles = issue.block_cycles(CORE, decode(code, address), address)
    return BlockCost(cycles, cycles)


def region_cycles(region: Region) -> float:
    """Modelled cycles of all that ran in `region`."""
    return issue.region_cycles(region, CORE, decode)
