"""CV32E40P behind memories with wait states: prefetcher, two-word FIFO, aligner, and the stages ID, EX and WB.

Cycle by cycle, after cv32e40p_prefetch_controller.sv, _obi_interface.sv, _aligner.sv, _controller.sv, _ex_stage.sv and
_load_store_unit.sv of the core (OpenHW Group; parameters as in cv32e40p.py). The bus: firmware/emulator/rtl/soc_bus.sv,
one access of a port at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pipeline.latency.timing import cv32e40p
from pipeline.latency.timing import riscv_blocks as rv
from pipeline.latency.timing.model import WaitStates
from pipeline.latency.timing.riscv_flow import Pipeline, Step, waiting_cycles
from pipeline.links.accesses import Regional
from pipeline.links.blockcount import Region

NAME = cv32e40p.NAME
VERSION = 1
_DEPTH = 2  # of the FIFO; as many fetches can be accepted or under way, less the words in it
_NONE = -1


@dataclass(frozen=True, slots=True)
class Fetch:
    """The fetch unit at the start of a cycle."""

    words: int = 0  # in the FIFO
    accepted: int = 0  # fetches without an answer
    dropped: int = 0  # of those, the ones behind a jump
    held: bool = False  # the last one accepted is requested and was not granted
    due: int = _NONE  # cycles until the answer to the one under way; -1: there is none


@dataclass(frozen=True, slots=True)
class State:
    """At the start of the cycle in which an instruction leaves the ID stage."""

    fetch: Fetch
    leaving: Step
    executing: Step | None  # leaves the EX stage in this cycle
    response: int = _NONE  # cycles until that to the access in WB; -1: there is none
    loaded: frozenset[int] = frozenset()  # by that access
    jumped: bool = False  # the next instruction is a target, of which nothing has been fetched
    redirects: bool = False  # the instruction is a jump that sends the fetch unit elsewhere in this cycle


_JUMP = Step("jal", 4, False, 1, frozenset(), frozenset())
START = State(Fetch(), _JUMP, None, jumped=True, redirects=True)  # behind a jump, the bus at rest


def _is_branch(step: Step | None) -> bool:
    return step is not None and step.name in rv.BRANCHES


def _execution_cycles(step: Step) -> int:
    return 1 if step.name in rv.JUMPS else step.cycles


def _stalls(step: Step, executing: Step | None, response: int, loaded: frozenset[int]) -> bool:
    """Whether a register that it reads is still being loaded; asked of an instruction that has left ID, too."""
    if executing is not None and executing.loads:
        return bool(executing.loads & step.reads)
    return response > 0 and bool(loaded & step.reads)


def _jump_stalls(step: Step, executing: Step | None, response: int, loaded: frozenset[int]) -> bool:
    """JALR takes its register from the register file."""
    if step.name != "jalr":
        return False
    return bool(executing and executing.writes & step.reads) or (response >= 0 and bool(loaded & step.reads))


def _advance(fetch: Fetch, redirects: bool, ready: bool, uses: bool, waits: int) -> tuple[Fetch, bool]:
    """A cycle of the fetch unit, and whether a word went on to the aligner.

    `ready`: ID takes an instruction; `uses`: the instruction that follows uses the word up.
    """
    answer = fetch.due == 0
    usable = not redirects and not fetch.dropped
    went = ready and usable and (fetch.words > 0 or answer)
    popped = went and uses
    words = 0
    if not redirects:
        words = fetch.words + (answer and usable) - popped
    valid = (0 if redirects else fetch.words) + fetch.accepted < _DEPTH
    accepts = valid and not fetch.held
    requests = valid or fetch.held
    granted = requests and fetch.due <= 0
    dropped = fetch.accepted - answer if redirects else fetch.dropped - (answer and fetch.dropped > 0)
    due = waits if granted else fetch.due - 1 if fetch.due > 0 else _NONE
    accepted = fetch.accepted + accepts - answer
    return Fetch(words, accepted, dropped, requests and not granted, due), went


@lru_cache(maxsize=1 << 16)
def run(steps: tuple[Step, ...], state: State, fetch_waits: int, taken: bool) -> tuple[int, State]:
    """Cycles that the block `steps` takes from `state`, and the state in which its last instruction leaves ID."""
    fetch, executing, response, loaded = state.fetch, state.executing, state.response, state.loaded
    current: Step | None = state.leaving  # in ID
    last = state.leaving  # that was in ID
    branches = state.leaving.name in rv.BRANCHES and state.jumped  # taken, in EX in cycle 1
    jumped, redirected = state.jumped, False
    left = 1  # cycles of the instruction in EX
    following = 0
    cycle = 0
    while True:
        free = response <= 0
        # EX is emptied; a branch does not wait for the access in WB
        moves = cycle == 0 or _is_branch(executing) or (free and left <= 1)
        ready, redirects = moves, cycle == 0 and state.redirects
        if cycle > 0:
            if _stalls(last, executing, response, loaded):
                ready = False
            if branches and cycle == 1:
                redirects = True
            elif current is not None and current.name in rv.JUMPS:
                if _jump_stalls(current, executing, response, loaded):
                    ready = False
                elif not redirected:
                    redirects = redirected = True
            if ready and current is not None and following == len(steps):
                jumps = taken or current.name in rv.JUMPS
                return cycle, State(fetch, current, executing, response, loaded, jumps, redirects)
        step = steps[following] if ready and not (branches and cycle < 2) else None
        # the first word of a target that lies in two is no instruction yet
        whole = step is not None and not (jumped and step.odd and step.size == 4)
        uses = step is not None and (jumped or not step.odd or step.size == 4)
        fetch, went = _advance(fetch, redirects, step is not None, uses, fetch_waits)
        # EX to WB
        if free:
            response, loaded = _NONE, frozenset()
            if moves and executing is not None and executing.wait >= 0:
                response, loaded = executing.wait, executing.loads
        else:
            response -= 1
        # ID to EX
        if moves:
            executing = current if ready else None
            left = _execution_cycles(executing) if executing is not None else 1
        else:
            left = max(left - 1, 1)
        # IF to ID
        if ready:
            current = None
            if went and step is not None:
                if whole:
                    current = last = step
                    following, redirected = following + 1, False
                jumped = False
        cycle += 1


CORE = Pipeline(NAME, cv32e40p.block_cost, cv32e40p.base_cycles, run, START)


def region_cycles(region: Region, accesses: Regional, waits: WaitStates) -> float:
    """Modelled cycles of all that ran in `region`; `accesses` of the same region."""
    return waiting_cycles(region, accesses, waits, CORE)
