"""Cortex-A53 cycle model: in-order dual issue of AArch64 integer code, after the compilers' machine models.

Arm publishes no cycle counts for this core. The rules are those of GCC's cortex-a53.md [G], contributed by Arm,
and of LLVM's AArch64SchedA53.td [L]; docs/fidelity.md lists them. Cycle 0 of an instruction's operands and
results is that of the plain ALU operation. Floating point and Advanced SIMD are not covered: the emulated
board's code has none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import capstone
from capstone import arm64

from pipeline.errors import ToolError
from pipeline.latency.timing import issue
from pipeline.latency.timing.decoder import Decoder
from pipeline.latency.timing.issue import Block, Core, Operation
from pipeline.latency.timing.model import BlockCost
from pipeline.links.blockcount import Region

NAME = "cortex_a53"
VERSION = 3

DIVIDE_CYCLES = 8  # by operands; 8 (unsigned) and 9 (signed) in [G] of 2013
TAKEN_CYCLES = 1  # a branch taken as predicted, to its target
MISPREDICT_CYCLES = 9  # [L]

CORE = Core(
    units=(("memory", 1), ("multiply", 1), ("divide", 1), ("branch", 1), ("variable shift", 1)),
    taken_cycles=TAKEN_CYCLES,
    mispredict_cycles=MISPREDICT_CYCLES,
)

# When an operand is needed; behind a load. [G], section "General-purpose register bypasses"
_PLAIN, _SHIFTED, _STORED, _BRANCHED = (0, 0), (-1, -1), (1, 1), (1, 0)
_ADDRESS = (-2, -1)
_FACTOR, _ADDEND = (-1, -2), (1, 0)
# When a result is there
_SHIFT_RESULT, _PLAIN_RESULT, _MULTIPLY_RESULT, _LOAD_RESULT, _BASE_RESULT = 0, 1, 2, 2, -1

_FLAGS = 64  # the number that stands for NZCV; 0 to 30 are the registers, 31 the stack pointer


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LOADS = _names(
    "ldr ldrb ldrh ldrsb ldrsh ldrsw ldur ldurb ldurh ldursb ldursh ldursw ldar ldarb ldarh ldxr ldaxr"
)
_STORES = _names("str strb strh stur sturb sturh stlr stlrb stlrh")
_LOAD_PAIRS = _names("ldp ldpsw ldnp")
_STORE_PAIRS = _names("stp stnp")
_COMPARES = _names("cmp cmn tst")
_PLAINS = _names(
    """add adds sub subs and ands orr orn eor eon bic bics adc adcs sbc sbcs neg negs mvn ngc
    clz cls rbit rev rev16 rev32"""
)
_SETS = _names("adds subs ands bics adcs sbcs negs")
_USES_FLAGS = _names("adc adcs sbc sbcs ngc csel csinc csinv csneg cset csetm cinc cinv cneg ccmp ccmn")
_SELECTS = _names("csel csinc csinv csneg cset csetm cinc cinv cneg")
_EXTENDS = _names("sxtb sxth sxtw uxtb uxth ubfx sbfx ubfiz sbfiz ubfm sbfm bfi bfxil bfm extr")
_SHIFTS = _names("lsl lsr asr ror")
_CONSTANTS = _names("movz movn movk adr adrp")
_MULTIPLIES = _names("mul mneg smull umull smnegl umnegl smulh umulh")
_ACCUMULATES = _names("madd msub smaddl umaddl smsubl umsubl")
_BRANCHES = _names("b bl br blr ret cbz cbnz tbz tbnz")
_NOTHING = _names("nop hint yield wfe wfi sev sevl prfm")
_SPECIAL = _names("mrs msr dmb dsb isb clrex")


_DECODER = Decoder(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)


@lru_cache(maxsize=256)
def _number(register: int) -> int | None:
    """W and X registers by one number, 31 the stack pointer; None for the zero registers."""
    name = _DECODER.register(register)
    if name in ("wzr", "xzr"):
        return None
    if name in ("sp", "wsp"):
        return 31
    known = {"fp": 29, "lr": 30}
    if name in known:
        return known[name]
    if name[:1] in ("w", "x") and name[1:].isdigit():
        return int(name[1:])
    raise ToolError(
        f"timing model {NAME}: register {name} is not covered", hint="build without floating point and SIMD"
    )


class _View:
    """The parts of one capstone instruction that rules look at."""

    def __init__(self, decoded: Any) -> None:
        self.name: str = decoded.mnemonic.split(".")[0]
        self.text = f"{decoded.mnemonic} {decoded.op_str}"
        operands = decoded.operands
        self.registers = [_number(operand.reg) for operand in operands if operand.type == arm64.ARM64_OP_REG]
        memory = [operand.mem for operand in operands if operand.type == arm64.ARM64_OP_MEM]
        self.address = [_number(r) for m in memory for r in (m.base, m.index) if r != 0]
        self.writes_base = bool(decoded.writeback)
        self.shifted = any(
            operand.type == arm64.ARM64_OP_REG and (operand.shift.type != 0 or operand.ext != 0)
            for operand in operands
        )
        numbers = [operand.imm for operand in operands if operand.type == arm64.ARM64_OP_IMM]
        self.number: int | None = numbers[-1] if numbers else None
        self.flagged = decoded.mnemonic.startswith("b.") or self.name in _USES_FLAGS


Reads = list[tuple[int, int, int]]


def _read(registers: list[int | None], when: tuple[int, int]) -> Reads:
    return [(register, *when) for register in registers if register is not None]


def _write(registers: list[int | None], latency: int) -> tuple[tuple[int, int], ...]:
    return tuple((register, latency) for register in registers if register is not None)


def _memory(view: _View) -> Operation:
    address = _read(view.address, _ADDRESS)
    base = _write(view.address[:1] if view.writes_base else [], _BASE_RESULT)
    pair = view.name in _LOAD_PAIRS | _STORE_PAIRS
    if view.name in _STORES | _STORE_PAIRS:
        data = _read(view.registers, _STORED)
        return Operation(reads=tuple(address + data), writes=base, units=(("memory", 1),))
    # a pair issues alone and takes the load pipe for two cycles [G]
    return Operation(
        reads=tuple(address),
        writes=_write(view.registers, _LOAD_RESULT + pair) + base,
        units=(("memory", 2 if pair else 1),),
        load=True,
        alone=pair,
    )


def _multiply(view: _View) -> Operation:
    return Operation(
        reads=tuple(_read(view.registers[1:3], _FACTOR) + _read(view.registers[3:], _ADDEND)),
        writes=_write(view.registers[:1], _MULTIPLY_RESULT),
        units=(("multiply", 1),),
    )


def _data(view: _View) -> Operation | None:
    name, registers = view.name, view.registers
    if name in _COMPARES or name in ("ccmp", "ccmn"):
        last = _SHIFTED if view.shifted else _PLAIN
        return Operation(reads=tuple(_read(registers[:-1], _PLAIN) + _read(registers[-1:], last)))
    result, sources = registers[:1], registers[1:]
    if name in _CONSTANTS or (name == "mov" and not sources):
        kept = result if name == "movk" else []
        return Operation(reads=tuple(_read(kept, _SHIFTED)), writes=_write(result, _SHIFT_RESULT))
    if name in _SHIFTS:
        variable: tuple[tuple[str, int], ...] = (("variable shift", 1),) if len(sources) == 2 else ()
        return Operation(
            reads=tuple(_read(sources, _SHIFTED)), writes=_write(result, _SHIFT_RESULT), units=variable
        )
    if name in _EXTENDS:
        kept = result if name in ("bfi", "bfxil", "bfm") else []
        reads = _read(sources, _SHIFTED) + _read(kept, _PLAIN)
        return Operation(reads=tuple(reads), writes=_write(result, _PLAIN_RESULT))
    if name in _PLAINS | _SELECTS or name == "mov":
        last = _SHIFTED if view.shifted else _PLAIN
        reads = _read(sources[:-1], _PLAIN) + _read(sources[-1:], last)
        return Operation(reads=tuple(reads), writes=_write(result, _PLAIN_RESULT))
    return None


def _plain(view: _View) -> Operation | None:
    """The rules for `view`, flags apart; None where there are none."""
    name = view.name
    if name in _LOADS | _STORES | _LOAD_PAIRS | _STORE_PAIRS:
        return _memory(view)
    if name in _MULTIPLIES | _ACCUMULATES:
        return _multiply(view)
    if name in ("sdiv", "udiv"):
        return Operation(
            reads=tuple(_read(view.registers[1:], _FACTOR)),
            writes=_write(view.registers[:1], DIVIDE_CYCLES),
            units=(("divide", DIVIDE_CYCLES),),
        )
    if name in _BRANCHES:
        return Operation(reads=tuple(_read(view.registers, _BRANCHED)), units=(("branch", 1),))
    if name in _SPECIAL:
        return Operation(alone=True)
    if name in _NOTHING:
        return Operation()
    return _data(view)


def _operation(view: _View, address: int) -> Operation:
    plain = _plain(view)
    if plain is None:
        raise ToolError(
            f"timing model {NAME}: no rule for {view.text.strip()!r} at {address:#x}",
            hint="add it to pipeline/latency/timing/cortex_a53.py, with its source",
        )
    reads, flags = plain.reads, plain.flags
    if view.flagged:
        reads += ((_FLAGS, *(_BRANCHED if view.name == "b" else _PLAIN)),)
    if view.name in _COMPARES | _SETS or view.name in ("ccmp", "ccmn"):
        flags = ((_FLAGS, _PLAIN_RESULT),)
    return Operation(
        reads=reads, writes=plain.writes, flags=flags, units=plain.units, load=plain.load, alone=plain.alone
    )


@lru_cache(maxsize=65536)
def decode(code: bytes, address: int) -> Block:
    """`code` as the simulation takes it; ToolError for an instruction without a rule."""
    operations = []
    target, conditional, leaves, at = None, False, False, address
    for decoded in _DECODER.disasm(code, address):
        view = _View(decoded)
        operations.append(_operation(view, at))
        at += decoded.size
        conditional = view.name in ("cbz", "cbnz", "tbz", "tbnz") or decoded.mnemonic.startswith("b.")
        leaves = view.name in _BRANCHES
        target = view.number if leaves else None
    if at != address + len(code):
        raise ToolError(
            f"timing model {NAME}: no instruction at {at:#x} ({code[at - address : at - address + 4].hex()})",
            hint="is the firmware built for a Cortex-A53?",
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
