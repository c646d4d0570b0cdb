"""What the timing models of RISC-V cores share: decoded blocks, and where execution came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import capstone

from pipeline.errors import ToolError
from pipeline.latency.timing.decoder import Decoder
from pipeline.latency.timing.model import BlockCost, summed_cycles, whole_blocks
from pipeline.links.blockcount import Region


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The RISC-V Instruction Set Manual, volume I, 20191213: chapters 2, 7, 9
LOADS = _names("lb lh lw lbu lhu")
STORES = _names("sb sh sw")
HIGH_MULTIPLIES = _names("mulh mulhu mulhsu")
DIVIDES = _names("div divu rem remu")
BRANCHES = _names("beq bne blt bge bltu bgeu")
JUMPS = _names("jal jalr")
CSR_ACCESSES = _names("csrrw csrrs csrrc csrrwi csrrsi csrrci")
SIMPLE = _names(
    """lui auipc addi slti sltiu xori ori andi slli srli srai add sub sll slt sltu xor srl sra or and mul
    fence"""
)

# RVC instructions and pseudo-instructions, by the instruction they stand for (same manual, chapter 16)
_STANDS_FOR = {
    **{name: name for name in LOADS | STORES | HIGH_MULTIPLIES | DIVIDES | BRANCHES | CSR_ACCESSES | SIMPLE},
    **{name: name for name in JUMPS},
    "c.lw": "lw",
    "c.lwsp": "lw",
    "c.sw": "sw",
    "c.swsp": "sw",
    "c.j": "jal",
    "c.jal": "jal",
    "c.jr": "jalr",
    "c.jalr": "jalr",
    "c.beqz": "beq",
    "c.bnez": "bne",
    "c.li": "addi",
    "c.lui": "lui",
    "c.addi": "addi",
    "c.addi16sp": "addi",
    "c.addi4spn": "addi",
    "c.slli": "slli",
    "c.srli": "srli",
    "c.srai": "srai",
    "c.andi": "andi",
    "c.mv": "add",
    "c.add": "add",
    "c.and": "and",
    "c.or": "or",
    "c.xor": "xor",
    "c.sub": "sub",
    "c.nop": "addi",
}


@dataclass(frozen=True)
class Instruction:
    """One decoded instruction; registers by number, x0 left out as nothing waits for it."""

    name: str  # of the uncompressed instruction that it stands for
    size: int  # bytes
    reads: frozenset[int]
    writes: frozenset[int]
    address: int = 0
    target: int | None = None  # of a branch or JAL


_DECODER = Decoder(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV32 | capstone.CS_MODE_RISCVC)


def _bits(word: int, high: int, low: int) -> int:
    return word >> low & (1 << (high - low + 1)) - 1


def _uncompressed_registers(name: str, word: int) -> tuple[set[int], set[int]]:
    """Registers read and written, by the instruction formats of the manual's section 2.2."""
    rd, rs1, rs2 = _bits(word, 11, 7), _bits(word, 19, 15), _bits(word, 24, 20)
    opcode = word & 0x7F
    if name in BRANCHES | STORES:
        return {rs1, rs2}, set()
    if name in ("lui", "auipc", "jal"):
        return set(), {rd}
    if name == "fence":
        return set(), set()
    if name in CSR_ACCESSES:
        return (set() if name.endswith("i") else {rs1}), {rd}
    if opcode == 0x33:  # OP
        return {rs1, rs2}, {rd}
    return {rs1}, {rd}  # OP-IMM, LOAD, JALR


def _compressed_registers(name: str, word: int) -> tuple[set[int], set[int]]:
    """The same by the formats of section 16.2."""
    full, full2 = _bits(word, 11, 7), _bits(word, 6, 2)
    short, short2 = 8 + _bits(word, 9, 7), 8 + _bits(word, 4, 2)
    reads_writes: dict[str, tuple[set[int], set[int]]] = {
        "c.lw": ({short}, {short2}),
        "c.lwsp": ({2}, {full}),
        "c.sw": ({short, short2}, set()),
        "c.swsp": ({2, full2}, set()),
        "c.j": (set(), set()),
        "c.jal": (set(), {1}),
        "c.jr": ({full}, set()),
        "c.jalr": ({full}, {1}),
        "c.beqz": ({short}, set()),
        "c.bnez": ({short}, set()),
        "c.li": (set(), {full}),
        "c.lui": (set(), {full}),
        "c.addi": ({full}, {full}),
        "c.nop": (set(), set()),
        "c.addi16sp": ({2}, {2}),
        "c.addi4spn": ({2}, {short2}),
        "c.slli": ({full}, {full}),
        "c.srli": ({short}, {short}),
        "c.srai": ({short}, {short}),
        "c.andi": ({short}, {short}),
        "c.mv": ({full2}, {full}),
        "c.add": ({full, full2}, {full}),
    }
    return reads_writes.get(name, ({short, short2}, {short}))  # c.and, c.or, c.xor, c.sub


@lru_cache(maxsize=65536)
def decode(code: bytes, address: int, model: str) -> tuple[Instruction, ...]:
    """The instructions of a block; ToolError, naming `model`, for what is not RV32IMC with Zicsr."""
    found = []
    for item in _DECODER.disasm(code, address):
        name = item.insn_name()
        if name not in _STANDS_FOR:
            raise ToolError(
                f"timing model {model}: no cycle count for {item.mnemonic} {item.op_str} at {item.address:#x}",
                hint="only RV32IMC with Zicsr is covered; see pipeline/latency/timing/riscv_blocks.py",
            )
        word = int.from_bytes(item.bytes, "little")
        registers = _compressed_registers if item.size == 2 else _uncompressed_registers
        reads, writes = registers(name, word)
        simple = _STANDS_FOR[name]
        target = item.address + item.operands[-1].imm if simple in BRANCHES or simple == "jal" else None
        found.append(
            Instruction(
                simple, item.size, frozenset(reads - {0}), frozenset(writes - {0}), item.address, target
            )
        )
    done = sum(instruction.size for instruction in found)
    if done != len(code):
        raise ToolError(
            f"timing model {model}: no instruction at {address + done:#x} ({code[done : done + 4].hex()})",
            hint="is the firmware built for RV32IMC?",
        )
    return tuple(found)


def cost(cycles: int, last: str, taken_branch_cycles: int) -> BlockCost:
    """Of a block whose branch, where `last` is one, was counted with one cycle, as if not taken."""
    taken = cycles - 1 + taken_branch_cycles if last in BRANCHES else cycles
    return BlockCost(cycles, taken, leaves=last in BRANCHES or last in JUMPS)


def split_target_entries(region: Region) -> int:
    """How often a jump or taken branch led to a 32-bit instruction that is not aligned to a word.

    Such an instruction lies in two words, which are fetched one after the other. Jumps into a block are its
    runs less those that came from the block before it in memory.
    """
    runs: Counter[int] = Counter()
    fell_into: Counter[int] = Counter()
    split: set[int] = set()
    for block in region.blocks:
        runs[block.pc] += block.runs
        fell_into[block.pc + len(block.code)] += block.runs - block.taken
        if block.pc % 4 == 2 and block.code[0] & 3 == 3:
            split.add(block.pc)
    return sum(max(runs[pc] - fell_into[pc], 0) for pc in split)


def region_cycles(region: Region, block_cost: Callable[[bytes, int], BlockCost], split_cycles: int) -> float:
    """Cycles of all that ran, with `split_cycles` for each of `split_target_entries`."""
    region = whole_blocks(region, lambda block: block_cost(block.code, block.pc).leaves)
    return split_cycles * split_target_entries(region) + summed_cycles(region, block_cost)
