"""Ibex behind memories with wait states: its two-word prefetcher, three-word fetch FIFO, ID and writeback stages.

Cycle by cycle, after ibex_prefetch_buffer.sv, ibex_fetch_fifo.sv, ibex_id_stage.sv and ibex_wb_stage.sv of the core
(lowRISC; parameters as in ibex.py). The bus: firmware/emulator/rtl/soc_bus.sv, one access of a port at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pipeline.latency.timing import ibex
from pipeline.latency.timing.model import WaitStates
from pipeline.latency.timing.riscv_flow import Pipeline, Step, waiting_cycles
from pipeline.links.accesses import Regional
from pipeline.links.blockcount import Region

NAME = ibex.NAME
VERSION = 1
_NONE = -1


@dataclass(frozen=True, slots=True)
class State:
    """At the start of the cycle in which an instruction leaves the ID stage. Counts in cycles; -1: there is none."""

    words: int = 0  # in the FIFO
    due: int = _NONE  # until the answer to the fetch under way
    stale: bool = False  # that answer is behind a jump: it is dropped
    waiting: bool = False  # a fetch is requested and was not granted
    waiting_stale: bool = False
    redirects: bool = True  # this instruction jumps, in this cycle
    wait: int = _NONE  # wait states of its access
    loads: frozenset[int] = frozenset()


def _words(step: Step) -> int:
    """That must be at hand: one that lies in two words takes both."""
    return 2 if step.odd and step.size == 4 else 1


def _empties(step: Step) -> bool:
    """Whether the word that it begins in is used up."""
    return step.odd or step.size == 4


START = State()  # behind a jump, the bus at rest


@lru_cache(maxsize=1 << 16)
def run(steps: tuple[Step, ...], state: State, fetch_waits: int, taken: bool) -> tuple[int, State]:
    """Cycles that the block `steps` takes from `state`, and the state in which its last instruction leaves."""
    words, due, stale, waiting, waiting_stale = (
        state.words, state.due, state.stale, state.waiting, state.waiting_stale,
    )  # fmt: skip
    response, loads = _NONE, frozenset[int]()  # of the access in the writeback stage
    current: Step | None = None  # in the ID stage
    left, redirected = 0, False
    following, last = 0, len(steps) - 1
    cycle = 0
    while True:
        arrives = due == 0 and not stale
        done = redirects = False
        if cycle == 0:
            done, redirects = True, state.redirects
        elif current is not None and not (response >= 0 and loads & current.reads):
            if following > last and taken and not redirected:  # it need not wait for the access before it
                redirects = redirected = True
            if response <= 0:
                left -= 1
                done = left == 0
            if done and following > last:
                return cycle, State(
                    words, due, stale, waiting, waiting_stale, redirects, current.wait, current.loads
                )
        ready = done or current is None
        step = steps[following] if ready else None
        took = step is not None and words + arrives >= _words(step) and not redirects
        request = waiting or redirects or not (words >= 2 and (words >= 3 or due >= 0))
        granted = request and due <= 0
        request_stale = waiting and (redirects or waiting_stale)
        words = 0 if redirects else words + arrives - (took and step is not None and _empties(step))
        if granted:
            due, stale = fetch_waits, request_stale
        elif due > 0:
            due, stale = due - 1, stale or redirects
        else:
            due, stale = _NONE, False
        waiting = request and not granted
        waiting_stale = waiting and request_stale
        if done:
            response, loads = (state.wait, state.loads) if current is None else (current.wait, current.loads)
        else:
            response = response - 1 if response > 0 else _NONE
        if ready:
            current = step if took else None
            if took and step is not None:
                left, redirected, following = step.cycles, False, following + 1
        cycle += 1


CORE = Pipeline(NAME, ibex.block_cost, ibex.base_cycles, run, START)


def region_cycles(region: Region, accesses: Regional, waits: WaitStates) -> float:
    """Modelled cycles of all that ran in `region`; `accesses` of the same region."""
    return waiting_cycles(region, accesses, waits, CORE)
