"""Memory systems: the simulator in C against a plain second one, by hand, and slower memories that help nobody."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_oracle import Counts, Event, Oracle, c_counts, windows_of

from pipeline.boards import board_names, load_board
from pipeline.boards.memory_system import LIKELY, Cache, MemorySystem, Variant, Window
from pipeline.errors import ConfigError, LinkError
from pipeline.links.memorysim import Simulated, read_waits

pytestmark = pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("cc")), reason="needs a C compiler")

FLASH, SRAM = (0, 4096), (0x2000, 2048)
SMALL = MemorySystem(
    instructions=Cache(4, 16, 8, 0, "lru"),
    data=Cache(2, 16, 8, 0, "lru"),
    prefetch="kept",
    flash=Window((0, 0, 0), 1),
    sram=None,
    wait_state_hz=(10, 20),
)
DESCRIBED = [name for name in board_names() if load_board(name).memory.system is not None]


def fetch(first: int, last: int, instructions: int = 1) -> Event:
    return "fetch", first, last, instructions


def load(address: int, size: int = 4) -> Event:
    return "load", address, size, 0


def store(address: int, size: int = 4) -> Event:
    return "store", address, size, 0


def run(system: MemorySystem, events: list[Event], wait_states: int = 5, rate: float = 1.0) -> Counts:
    return c_counts(system.describe(wait_states, FLASH, SRAM, cycles_per_instruction=rate), events)


# -- by hand -----------------------------------------------------------------------------------------------


def test_a_straight_run_is_prefetched() -> None:
    """Five wait states, 8 bytes a read. The first part: 5 cycles. Its four instructions take 4 cycles while the next
    part is read; that read began at 6 (one cycle behind the first's answer at 5) and answers at 11, so at 9 there are
    2 left to wait. The third was begun at 12: answer 17; asked for at 11 + 4 = 15: 2 again."""
    counts = run(SMALL, [fetch(0, 7, 4), fetch(8, 15, 4), fetch(16, 23, 4)])
    assert (counts.fetch_stall, counts.fetch_misses, counts.prefetched) == (256 * (5 + 2 + 2), 1, 2)
    alone = run(replace(SMALL, prefetch="none"), [fetch(0, 7, 4), fetch(8, 15, 4), fetch(16, 23, 4)])
    assert (alone.fetch_stall, alone.fetch_misses) == (256 * 15, 3)


def test_a_loop_stays() -> None:
    """The second round finds all of its four lines; staying within a part asks for nothing."""
    once = [fetch(0, 7, 2), fetch(0, 7, 2), fetch(8, 15, 2), fetch(32, 39, 2)]
    first, both = run(SMALL, once), run(SMALL, once * 2)
    assert both.fetch_stall == first.fetch_stall > 0
    assert (first.fetches, both.fetches) == (3, 6)


def test_least_recently_used_goes() -> None:
    """Two lines of data: 0 and 16 stay while 0 is used; 32 drives 16 out, not 0. A line is filled by halves."""
    counts = run(SMALL, [load(0), load(16), load(0), load(32), load(0), load(16), load(24)])
    assert (counts.reads, counts.read_misses) == (7, 5)
    # each but the first waits from when it was asked for: no time passes between, so a read in progress adds a cycle
    assert counts.data_stall == 256 * (5 + 4 * 6)
    five = run(SMALL, [load(0), fetch(0x3000, 0x3001, 9), load(16)])
    assert five.data_stall == 256 * 10


def test_stores_and_dirty_lines() -> None:
    system = replace(SMALL, sram=Window((3, 4, 9), 2, skip_bytes=1024, allocate=True))
    at_once, behind = 0x2000, 0x2400
    assert run(system, [store(at_once), load(at_once)]) == Counts()
    counts = run(system, [store(behind), load(behind)])
    assert (counts.write_misses, counts.data_stall, counts.read_misses) == (1, 0, 0)
    # the changed line goes when a third comes; the load of it waits 4 behind the 6 + 6 that came before
    counts = run(system, [store(behind), load(behind + 16), load(behind + 32), load(behind + 48)])
    assert counts.writebacks == 1
    assert counts.data_stall == 256 * ((6 + 4) + (2 + 4) + (2 + 2 + 4))
    around = replace(system, sram=Window((3, 4, 9), 2, skip_bytes=1024))
    assert run(around, [store(behind), load(behind)]).read_misses == 1


def test_an_access_over_two_parts() -> None:
    assert run(SMALL, [load(6, 4)]).read_misses == 2
    assert run(SMALL, [fetch(6, 9)]).fetches == 2


# -- against the plain one ---------------------------------------------------------------------------------

powers = st.sampled_from([4, 8, 16, 32])


@st.composite
def caches(draw: st.DrawFn) -> Cache:
    fill = draw(powers)
    ways = draw(st.sampled_from([0, 1, 2, 4]))
    lines = draw(st.sampled_from([0, 1, 2, 5])) * (ways or 1)
    return Cache(
        lines, fill * draw(st.sampled_from([1, 2, 4])), fill, ways, draw(st.sampled_from(["lru", "random"]))
    )


@st.composite
def windows(draw: st.DrawFn) -> Window:
    path = draw(st.integers(0, 9))
    return Window(
        (0, path, path), draw(st.integers(0, 4)), draw(st.sampled_from([0, 512])), draw(st.booleans())
    )


systems = st.builds(
    MemorySystem,
    instructions=caches(),
    data=caches(),
    prefetch=st.sampled_from(["none", "kept", "eager"]),
    flash=windows(),
    sram=st.none() | windows(),
    wait_state_hz=st.just((10,)),
    flash_divider=st.integers(1, 2),
)
places = st.integers(0, 700) | st.integers(0x2000, 0x2000 + 1500)
events = st.lists(
    st.builds(
        lambda a, n, i: fetch(a * 2, a * 2 + n, i),
        st.integers(0, 350),
        st.sampled_from([1, 3, 20]),
        st.integers(1, 9),
    )
    | st.builds(load, places, st.sampled_from([1, 2, 4, 8]))
    | st.builds(store, places, st.sampled_from([1, 2, 4, 8])),
    max_size=120,
)


@settings(max_examples=400, deadline=None)
@given(systems, events, st.integers(0, 7), st.sampled_from([0.5, 1.0, 1.37]))
def test_agrees_with_the_plain_one(
    system: MemorySystem, events: list[Event], states: int, rate: float
) -> None:
    description = system.describe(states, FLASH, SRAM, cycles_per_instruction=rate)
    oracle = Oracle(system, windows_of(description), round(256 * rate), system.prefetch)
    assert c_counts(description, events) == oracle.run(events)


@settings(max_examples=200, deadline=None)
@given(systems, events, st.integers(0, 6))
def test_wait_states_never_help(system: MemorySystem, events: list[Event], states: int) -> None:
    fewer, more = run(system, events, states), run(system, events, states + 1)
    assert fewer.stall <= more.stall
    assert (fewer.fetch_misses, fewer.read_misses, fewer.prefetched) == (
        more.fetch_misses,
        more.read_misses,
        more.prefetched,
    )


@settings(max_examples=100, deadline=None)
@given(systems, events)
def test_memories_that_answer_at_once_cost_nothing(system: MemorySystem, events: list[Event]) -> None:
    at_once = replace(
        system,
        flash=replace(system.flash, path_cycles=(0, 0, 0)),
        sram=None if system.sram is None else replace(system.sram, path_cycles=(0, 0, 0)),
    )
    assert run(at_once, events, 0).stall == 0


def test_random_replacement_keeps_a_part_of_a_cycle_that_does_not_fit() -> None:
    """Five lines round and round in four: LRU always drives out the one that comes next."""
    rounds = [load(line * 16) for _ in range(200) for line in range(5)]
    fully = replace(SMALL, data=Cache(4, 16, 16, 0, "lru"))
    assert run(fully, rounds).read_misses == 1000
    by_chance = run(replace(fully, data=replace(fully.data, replacement="random")), rounds).read_misses
    assert 200 < by_chance < 700


# -- board files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DESCRIBED)
def test_boards_agree_with_themselves(name: str) -> None:
    """The wait states that the table demands are those of the memory and of the port, and the simulator takes it."""
    board = load_board(name)
    system = board.memory.system
    assert system is not None and system.reference
    assert board.memory.flash.wait_states == system.wait_states(board.clock_hz)
    assert board.port.defines["FLASH_LATENCY"] == board.memory.flash.wait_states
    assert system.wait_states(1) == 0
    assert system.variants()[0] == LIKELY
    simulated = Simulated(board, 1.0, system.variants())
    for description in simulated.descriptions(board):
        assert (
            c_counts(description, [fetch(board.memory.flash.origin, board.memory.flash.origin + 3)]).stall > 0
        )


def test_wait_states_follow_the_clock() -> None:
    """RM0432: one more for every 20 MHz; the H7's flash runs at half the core's clock."""
    l4, h7 = load_board("nucleo-l4r5zi").memory.system, load_board("nucleo-h743zi2").memory.system
    assert l4 is not None and h7 is not None
    assert [l4.wait_states(mhz * 1_000_000) for mhz in (16, 20, 21, 60, 80, 120)] == [0, 0, 1, 2, 3, 5]
    assert (h7.wait_states(480_000_000), h7.wait_states(400_000_000)) == (4, 2)
    with pytest.raises(ConfigError, match="no number of wait states"):
        l4.wait_states(121_000_000)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("wait_states = 5", "wait_states = 4", "is 4, but 120000000 Hz need 5"),
        ("line_bytes = 32", "line_bytes = 24", "is 24"),
        ("fill_bytes = 8", "fill_bytes = 64", "is 64, lines have 32"),
        ("path_cycles = [0, 0, 0]", "path_cycles = [2, 1, 3]", "must be three that do not fall"),
        ("wait_state_hz = [20_000_000,", "wait_state_hz = [60_000_000,", "must be clocks that grow"),
        ('prefetch = ["eager", "none"]', 'prefetch = ["eagre"]', "has 'eagre'"),
        ('replacement = "lru"', 'replacement = "fifo"', "is 'fifo'"),
        ("tail_cycles = 1", "tails = 1", "is missing"),
    ],
)
def test_wrong_board_file(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = load_board("nucleo-l4r5zi").path
    assert path is not None
    text = path.read_text()
    assert old in text
    copy = tmp_path / "board.toml"
    copy.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=complaint):
        load_board(str(copy))


def test_variants_change_one_thing_each() -> None:
    board = load_board("nucleo-h743zi2")
    system = board.memory.system
    assert system is not None
    assert set(system.variants()) == {LIKELY, Variant(path=0), Variant(path=2), Variant(replacement="lru")}
    texts = Simulated(board, 1.0, system.variants()).descriptions(board)
    assert len(set(texts)) == 4


def test_boards_without_a_description_say_so() -> None:
    board = load_board("qemu-cortex-m4")
    with pytest.raises(ConfigError, match=r"has no \[memory.system\]"):
        Simulated(board, 1.0).descriptions(board)


def test_a_file_of_waits_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "waits.txt"
    with pytest.raises(LinkError, match="wrote no"):
        read_waits(path)
    path.write_text("256 0 1 1 0 0 0 0 0 0\n512 25")
    assert [waits.cycles for waits in read_waits(path)] == [1.0]
    path.write_text("256 0 1\n")
    with pytest.raises(LinkError, match="not a file of waits"):
        read_waits(path)
