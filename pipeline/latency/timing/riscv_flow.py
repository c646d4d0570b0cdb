"""Cycles of a counted region on a RISC-V core whose memories have wait states.

What a block takes depends on what the fetch unit holds when it begins. How often each block ran and was left is
counted, their order is not; so the states at a block's entry are those in which the blocks before it end, in proportion
to how often each came before it: a Markov chain over the counted edges, iterated until it rests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.latency.timing import riscv_blocks as rv
from pipeline.latency.timing.model import BlockCost, WaitStates, whole_blocks
from pipeline.links.accesses import Accesses, Regional
from pipeline.links.blockcount import BlockCount, Region

_ROUNDS = 60
_RESTS = 1e-6  # change of all cycles in a round
_RARE = 1e-4  # of a block's entries: states that seldom are left out


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction as a pipeline sees it."""

    name: str
    size: int  # bytes
    odd: bool  # does not begin on a word
    cycles: int  # without waits and hazards
    reads: frozenset[int]
    writes: frozenset[int]
    wait: int = -1  # wait states of its access; -1: it has none

    @property
    def loads(self) -> frozenset[int]:
        return self.writes if self.name in rv.LOADS else frozenset()


# (block, state, wait states of fetches, whether it is left by its jump) -> cycles, state
Run = Callable[[tuple[Step, ...], Any, int, bool], tuple[int, Any]]
Shares = dict[Hashable, float]  # of each state, summing up to 1


@dataclass(frozen=True)
class Pipeline:
    """A core: `run` costs a block, whose states behind a jump begin with `start`."""

    name: str
    block_cost: Callable[[bytes, int], BlockCost]
    base_cycles: Callable[[str], int]
    run: Run
    start: Hashable


@dataclass
class _Node:
    block: BlockCount
    steps: tuple[Step, ...]
    target: int | None  # of the branch or JAL at its end
    entry: Shares
    ends: dict[bool, Shares]  # by whether it was left by its jump
    cycles: float = 0.0


Arrivals = Mapping[int, tuple[Sequence[tuple[_Node, bool, float]], float]]


def waiting_cycles(region: Region, accesses: Regional, waits: WaitStates, core: Pipeline) -> float:
    """Modelled cycles of `region`, whose code is fetched from flash. Raises ToolError as `riscv_blocks.decode`."""
    nodes = []
    whole = whole_blocks(region, lambda block: core.block_cost(block.code, block.pc).leaves)
    for block in sorted(whole.blocks, key=lambda block: block.pc):
        steps = block_steps(block.code, block.pc, core, waits, accesses)
        target = rv.decode(block.code, block.pc, core.name)[-1].target
        start = {core.start: 1.0}
        nodes.append(_Node(block, steps, target, start, {False: start, True: start}))
    arrivals = _arrivals(nodes)
    total = before = 0.0
    for _ in range(_ROUNDS):
        returns = [(node.ends[True], float(node.block.taken)) for node in nodes if node.target is None]
        anywhere = _mixed(returns) or {core.start: 1.0}
        for node in nodes:
            known, others = arrivals[node.block.pc]
            parts = [(source.ends[taken], weight) for source, taken, weight in known]
            _enter(node, _mixed([*parts, (anywhere, others)]), core.run, waits.flash)
        total = sum(node.cycles * node.block.runs for node in nodes)
        if abs(total - before) <= _RESTS * total:
            break
        before = total
    return total + sum(_elsewhere(seen, waits) for seen in accesses.values())


def block_steps(
    code: bytes, address: int, core: Pipeline, waits: WaitStates, accesses: Regional
) -> tuple[Step, ...]:
    """A block; each access waits for the memory that most of its instruction's accesses went to, else SRAM."""
    found = []
    for item in rv.decode(code, address, core.name):
        wait = -1
        if item.name in rv.LOADS or item.name in rv.STORES:
            seen = accesses.get(item.address)
            wait = waits.flash if seen is not None and _mostly_flash(seen) else waits.sram
        odd, cycles = item.address % 4 == 2, core.base_cycles(item.name)
        found.append(Step(item.name, item.size, odd, cycles, item.reads, item.writes, wait))
    return tuple(found)


def _mostly_flash(seen: Accesses) -> bool:
    return 2 * seen.flash > seen.all


def _elsewhere(seen: Accesses, waits: WaitStates) -> int:
    """Cycles to add for the accesses that went to the other memory, as if nothing else had been done meanwhile."""
    if _mostly_flash(seen):
        return (waits.sram - waits.flash) * (seen.all - seen.flash)
    return (waits.flash - waits.sram) * seen.flash


def _arrivals(nodes: Sequence[_Node]) -> Arrivals:
    """By address: from which blocks execution came and how often; how often it came from elsewhere."""
    runs: dict[int, int] = defaultdict(int)
    known: dict[int, list[tuple[_Node, bool, float]]] = defaultdict(list)
    for node in nodes:
        block = node.block
        runs[block.pc] += block.runs
        if block.runs > block.taken:
            known[block.pc + len(block.code)].append((node, False, block.runs - block.taken))
        if block.taken and node.target is not None:
            known[node.target].append((node, True, block.taken))
    return {
        pc: (known[pc], max(count - sum(weight for _, _, weight in known[pc]), 0.0))
        for pc, count in runs.items()
    }


def _mixed(parts: Sequence[tuple[Shares, float]]) -> Shares:
    mixed: Shares = defaultdict(float)
    whole = sum(weight for _, weight in parts)
    for shares, weight in parts:
        for state, share in shares.items():
            if weight:
                mixed[state] += share * weight / whole
    return dict(mixed)


def _enter(node: _Node, fresh: Shares, run: Run, fetch_waits: int) -> None:
    """What the block takes, and how it ends; half of its entries as they were before, or loops would swing."""
    entry = _mixed([(fresh, 0.5), (node.entry, 0.5)]) if fresh else node.entry
    kept = {state: share for state, share in entry.items() if share > _RARE} or entry
    whole, runs = sum(kept.values()), node.block.runs
    node.entry = {state: share / whole for state, share in kept.items()}
    node.cycles = 0.0
    for taken, count in ((False, runs - node.block.taken), (True, node.block.taken)):
        if not count:
            continue
        ends: Shares = defaultdict(float)
        for state, share in node.entry.items():
            cycles, end = run(node.steps, state, fetch_waits, taken)
            ends[end] += share
            node.cycles += share * cycles * count / runs
        node.ends[taken] = dict(ends)
