"""In-order issue of two instructions a cycle: what the timing models of dual-issue cores share.

Costs add up along a path: a block's are the cycles from the issue of the last instruction before it to the issue
of its own last one. So pairs across the ends of blocks and waits for operands count, and a loop is costed in its
steady state, behind itself. `region_cycles` reconstructs the paths from the counts of a region.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from pipeline.latency.timing.model import whole_blocks
from pipeline.links.blockcount import BlockCount, Region

_HISTORY_BLOCKS = 8  # simulated before the block that is costed: a loop has settled by then
_HISTORY_OPERATIONS = 160  # no further block once there are so many


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What the issue of one instruction depends on, in cycles.

    reads: (register, how long after issue it is needed, the same where a `load` produces it)
    writes: (register, how long after issue a reader that needs it at once may issue)
    flags: the same, never early
    units: (name, for how long one of them is occupied)
    bank: (base register, offset) of a load of which two go at once if they are in different banks
    """

    reads: tuple[tuple[int, int, int], ...] = ()
    writes: tuple[tuple[int, int], ...] = ()
    flags: tuple[tuple[int, int], ...] = ()
    units: tuple[tuple[str, int], ...] = ()
    load: bool = False
    alone: bool = False  # nothing else issues with it
    first: bool = False  # only as the first of a cycle
    hold: int = 1  # cycles until the next may issue, where `alone`
    early: int = 0  # 1: may compute a cycle early as the first of a cycle, 2: in either place
    bank: tuple[int, int] | None = None


@dataclass(frozen=True)
class Block:
    """Decoded code. `target`: of the branch at its end, where known; `conditional`: it may fall through.

    `leaves`: whether there is a branch at its end.
    """

    operations: tuple[Operation, ...]
    target: int | None = None
    conditional: bool = False
    leaves: bool = True


@dataclass(frozen=True)
class Core:
    """How many of each unit there are, and what branches cost."""

    units: tuple[tuple[str, int], ...]
    taken_cycles: int  # from a taken branch, rightly predicted, to the instruction at its target
    mispredict_cycles: int  # more where the prediction was wrong
    bank_bytes: int = 0  # width of a bank; 0: loads never conflict
    width: int = 2


Step = tuple[Block, bool]  # and whether its branch was taken


class _Pipeline:
    """Issue of a path, operation after operation."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._free = {name: [0] * count for name, count in core.units}  # when each is free again
        self._ready: defaultdict[int, tuple[int, bool]] = defaultdict(lambda: (-1000, False))
        self._cycle = 0  # of the group that is being filled
        self._issued = 0  # in it
        self._bank: tuple[int, int] | None = None  # of the load in it
        self.last = -1  # cycle of the last issue

    def _wait(self, operation: Operation, early: int) -> int:
        """When its operands are there, `early` cycles before they are needed."""
        cycle = self._cycle
        for register, needed, behind_load in operation.reads:
            ready, loaded = self._ready[register]
            cycle = max(cycle, ready - (behind_load if loaded else needed) + early)
        return cycle

    def _conflicts(self, operation: Operation) -> bool:
        bank, other, size = operation.bank, self._bank, self._core.bank_bytes
        if bank is None or other is None or size == 0:
            return False
        return bank[0] != other[0] or (bank[1] // size - other[1] // size) % 2 == 0

    def issue(self, operation: Operation) -> None:
        cycle = self._wait(operation, 0)
        for name, _ in operation.units:
            cycle = max(cycle, min(self._free[name]))
        full = self._issued == self._core.width or (self._issued > 0 and (operation.alone or operation.first))
        if cycle == self._cycle and (full or self._conflicts(operation)):
            cycle += 1
        if cycle > self._cycle:
            self._cycle, self._issued, self._bank = cycle, 0, None
        early = operation.early == 2 or (operation.early == 1 and self._issued == 0)
        saved = 1 if early and self._wait(operation, 1) <= cycle else 0
        for name, busy in operation.units:
            units = self._free[name]
            units[units.index(min(units))] = cycle + busy
        for register, latency in operation.writes:
            self._ready[register] = (cycle + latency - saved, operation.load)
        for register, latency in operation.flags:
            self._ready[register] = (cycle + latency, False)
        self._issued += 1
        self._bank = operation.bank or self._bank
        self.last = cycle + operation.hold - 1
        if operation.alone:
            self._cycle, self._issued, self._bank = cycle + operation.hold, 0, None

    def jump(self) -> None:
        """The branch issued last is taken."""
        self._cycle = max(self._cycle, self.last + self._core.taken_cycles)
        self._issued, self._bank = 0, None


@lru_cache(maxsize=65536)
def path_cycles(core: Core, history: tuple[Step, ...], block: Block) -> int:
    """Cycles of `block` behind the path `history`, as the module says."""
    pipeline = _Pipeline(core)
    for before, taken in history:
        for operation in before.operations:
            pipeline.issue(operation)
        if taken:
            pipeline.jump()
    start = pipeline.last
    for operation in block.operations:
        pipeline.issue(operation)
    return pipeline.last - start


def block_cycles(core: Core, block: Block, address: int) -> float:
    """Cycles of `block` at `address` by itself; where its branch leads back to it, of a round, over eight."""
    if block.target != address:
        return float(path_cycles(core, (), block))
    rounds = [path_cycles(core, ((block, True),) * before, block) for before in range(8, 16)]
    return sum(rounds) / len(rounds)


@dataclass(frozen=True)
class _Edge:
    """`count` times execution came from `block`, by its branch where `taken`."""

    block: BlockCount
    taken: bool
    count: int


class _Paths:
    """Which blocks ran before which, as far as the counts of a region tell."""

    def __init__(self, region: Region, decode: Callable[[bytes, int], Block]) -> None:
        self._decode = decode
        self._into: defaultdict[int, list[_Edge]] = defaultdict(list)
        for block in region.blocks:
            target = self.block(block).target
            if block.runs > block.taken:
                self._into[block.pc + len(block.code)].append(_Edge(block, False, block.runs - block.taken))
            if block.taken and target is not None:
                self._into[target].append(_Edge(block, True, block.taken))

    def block(self, block: BlockCount) -> Block:
        return self._decode(block.code, block.pc)

    def edges(self, block: BlockCount) -> list[_Edge]:
        return self._into[block.pc]

    def history(self, edge: _Edge) -> tuple[Step, ...]:
        """The likeliest path that ends with `edge`: at each block the way it was mostly entered."""
        steps: list[Step] = []
        operations = 0
        at: _Edge | None = edge
        while at is not None and len(steps) < _HISTORY_BLOCKS and operations < _HISTORY_OPERATIONS:
            block = self.block(at.block)
            steps.append((block, at.taken))
            operations += len(block.operations)
            at = max(self.edges(at.block), key=lambda into: into.count, default=None)
        return tuple(reversed(steps))


def _block_cycles(core: Core, paths: _Paths, block: BlockCount) -> float:
    """Cycles of all runs of `block`."""
    decoded = paths.block(block)
    edges = paths.edges(block)
    known = sum(edge.count for edge in edges)
    share = min(1.0, block.runs / known) if known else 0.0  # blocks with the same start share what enters it
    total = sum(edge.count * share * path_cycles(core, paths.history(edge), decoded) for edge in edges)
    unknown = block.runs - known * share
    if unknown > 0:  # from an indirect jump, or at the region's start
        total += unknown * (path_cycles(core, (), decoded) - 1 + core.taken_cycles)
    return total


def region_cycles(region: Region, core: Core, decode: Callable[[bytes, int], Block]) -> float:
    """Cycles of all that ran in `region`.

    A conditional branch is taken to be predicted to go where it last went most often: it is wrong as often as
    it goes the rarer way, whatever way led to it.
    """
    region = whole_blocks(region, lambda block: decode(block.code, block.pc).leaves)
    paths = _Paths(region, decode)
    total = 0.0
    branches: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])  # [taken, not taken] by where it ends
    for block in region.blocks:
        total += _block_cycles(core, paths, block)
        if paths.block(block).conditional:
            counts = branches[block.pc + len(block.code)]
            counts[0] += block.taken
            counts[1] += block.runs - block.taken
    total += core.mispredict_cycles * sum(min(counts) for counts in branches.values())
    return total
