"""RISC-V cores behind memories with wait states, against cycles traced by hand through fetch unit and stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.boards import Board, load_board
from pipeline.errors import ConfigError, LinkError
from pipeline.latency.modelled import ModelledRegions, check_no_waits
from pipeline.latency.timing import WaitStates, timing_model, waiting_model
from pipeline.links.accesses import Accesses, read_accesses
from pipeline.links.blockcount import BlockCount, Region
from pipeline.profiler.identity import timing_name

IBEX = waiting_model("ibex")
CV32E40P = waiting_model("cv32e40p")
PLAIN = timing_model("ibex")
NO_WAITS = WaitStates(0, 0)

ADDI = bytes.fromhex("13051500")  # addi a0,a0,1
C_ADDI = bytes.fromhex("0505")  # the same in 16 bits
LW = bytes.fromhex("03a60500")  # lw a2,0(a1)
SW = bytes.fromhex("23a0d500")  # sw a3,0(a1)
USE = bytes.fromhex("93061600")  # addi a3,a2,1
RET = bytes.fromhex("67800000")


def bnez(offset: int) -> bytes:
    """bne a0,zero,offset"""
    bits = offset & 0x1FFF
    word = 0x63 | 1 << 12 | 10 << 15
    word |= (bits >> 12 & 1) << 31 | (bits >> 5 & 0x3F) << 25 | (bits >> 1 & 0xF) << 8 | (bits >> 11 & 1) << 7
    return word.to_bytes(4, "little")


def once(code: bytes, instructions: int) -> Region:
    """A block that was jumped to, and fell through its end."""
    return Region((BlockCount(0x100, code, instructions, 1, 0),))


def loop(body: bytes, instructions: int, times: int = 10_000) -> Region:
    code = body + bnez(-len(body))
    return Region((BlockCount(0x100, code, instructions + 1, times, times - 1),))


def cycles(region: Region, waits: WaitStates, accesses: dict[int, Accesses] | None = None) -> float:
    return IBEX.region_cycles(region, accesses or {}, waits)


@pytest.mark.parametrize("waits", [0, 1, 2, 5])
def test_straight_code_takes_as_long_as_its_words(waits: int) -> None:
    # the jump's fetch is granted in cycle 0 and in the ID stage in cycle 2 + waits; then a word every 1 + waits cycles
    flash = WaitStates(waits, 0)
    assert cycles(once(ADDI * 20, 20), flash) == 2 + waits + 19 * (1 + waits)
    # two in a word: those of the last word are in the ID stage one after the other
    assert cycles(once(C_ADDI * 40, 40), flash) == 2 + waits + 19 * max(1 + waits, 2) + 1


@pytest.mark.parametrize("waits", [0, 1, 4])
def test_an_access_keeps_the_next_instruction_waiting(waits: int) -> None:
    sram = WaitStates(0, waits)
    assert cycles(once((LW + SW) * 5 + ADDI, 11), sram) == 2 + 10 * (1 + waits)
    assert (
        cycles(once(LW + USE + ADDI, 3), sram) == 2 + (1 + waits) + 1 + 1
    )  # a cycle more for the loaded value
    assert cycles(once(LW + ADDI + USE, 3), sram) == 2 + (1 + waits) + 1


def test_loops() -> None:
    # load 1 + 3, addi 1, branch 1, and the fetch of its target 1
    assert cycles(loop(LW + ADDI, 2), WaitStates(0, 3)) / 10_000 == pytest.approx(4 + 1 + 1 + 1, rel=1e-3)
    # a branch behind an access fetches its target while the access is waited for
    assert cycles(loop(ADDI + LW, 2), WaitStates(0, 3)) / 10_000 == pytest.approx(1 + 1 + 4, rel=1e-3)
    # two words, and the one behind the branch, which is under way when the branch is taken
    for waits in (1, 2, 3):
        assert cycles(loop(ADDI, 1), WaitStates(waits, 0)) / 10_000 == pytest.approx(
            3 * (1 + waits), rel=1e-3
        )


@pytest.mark.parametrize("waits", [0, 1, 2, 5])
def test_cv32e40p_in_straight_code(waits: int) -> None:
    flash, sram = WaitStates(waits, 0), WaitStates(0, waits)
    words, halves = once(ADDI * 20, 20), once(C_ADDI * 40, 40)
    # the last one leaves the ID stage two cycles after its word was granted, and the waits
    assert CV32E40P.region_cycles(words, {}, flash) == 2 + waits + 19 * (1 + waits)
    # the second half of a word is handed on only when the next word is there
    last = 20 * (1 + waits) if waits else 2 * 19 + 1
    assert CV32E40P.region_cycles(halves, {}, flash) == 2 + waits + last
    # an access is in WB while the next instruction waits in EX, and the one after it in ID
    accesses = once((LW + SW) * 5 + ADDI * 2, 12)
    assert CV32E40P.region_cycles(accesses, {}, sram) == 2 + 11 + 10 * waits


def test_cv32e40p_in_loops() -> None:
    def period(body: bytes, instructions: int, waits: WaitStates) -> float:
        return CV32E40P.region_cycles(loop(body, instructions), {}, waits) / 10_000

    for waits in (0, 3):
        # load 1 + waits, addi 1, and the branch's three cycles
        assert period(LW + ADDI, 2, WaitStates(0, waits)) == pytest.approx(1 + waits + 1 + 3, rel=1e-3)
    # load in EX in cycle 0; the branch is there in 1 and fetches its target; nothing is handed on to ID before the
    # answer in 4, for ID is not ready while EX is not: the target is in EX in 6, the load in 7
    assert period(ADDI + LW, 2, WaitStates(0, 3)) == pytest.approx(7, rel=1e-3)


def test_a_waiting_access_hides_fetches() -> None:
    # while the load waits 5 cycles, the buffer of 3 words fills; apart, both would add up
    together = cycles(loop(LW + ADDI * 3, 4), WaitStates(1, 5))
    fetches = cycles(loop(LW + ADDI * 3, 4), WaitStates(1, 0))
    accesses = cycles(loop(LW + ADDI * 3, 4), WaitStates(0, 5))
    nothing = cycles(loop(LW + ADDI * 3, 4), NO_WAITS)
    assert max(fetches, accesses) < together < fetches + accesses - nothing


def test_each_instruction_waits_for_the_memory_that_it_reached() -> None:
    region, runs = once(LW + ADDI + SW + ADDI, 4), 1
    waits = WaitStates(0, 4)
    in_sram = cycles(region, waits)
    assert cycles(region, waits, {0x100: Accesses(runs, runs)}) == in_sram - 4
    # now and then elsewhere: so many times the difference
    seldom = loop(LW + ADDI, 2, 100)
    assert cycles(seldom, waits, {0x100: Accesses(10, 100)}) == pytest.approx(cycles(seldom, waits) - 10 * 4)
    assert cycles(seldom, waits, {0x100: Accesses(90, 100)}) == pytest.approx(
        cycles(seldom, waits, {0x100: Accesses(100, 100)}) + 10 * 4
    )


@pytest.mark.parametrize("core", ["ibex", "cv32e40p"])
def test_without_wait_states_it_is_the_static_model(core: str) -> None:
    waits, static = waiting_model(core), timing_model(core)
    for body, count in ((ADDI, 1), (LW + USE, 2), (C_ADDI * 3 + LW + ADDI, 5), (SW + LW + ADDI, 3)):
        region = loop(body, count)
        found = waits.region_cycles(region, {}, NO_WAITS)
        assert found == pytest.approx(static.region_cycles(region), abs=4), body
    # a function that is called: its RET leads anywhere
    caller = BlockCount(0x200, ADDI * 3 + RET, 4, 1000, 1000)
    callee = BlockCount(0x300, ADDI * 2 + RET, 3, 1000, 1000)
    region = Region((caller, callee))
    assert waits.region_cycles(region, {}, NO_WAITS) == pytest.approx(static.region_cycles(region), abs=4)


def test_more_wait_states_never_help() -> None:
    region = loop(LW + C_ADDI * 3 + SW + ADDI, 6)
    found = [
        cycles(region, WaitStates(flash, sram)) for flash, sram in ((0, 0), (1, 0), (1, 1), (2, 1), (2, 3))
    ]
    assert found == sorted(found)
    assert found[0] < found[1] < found[3]


# -- boards ------------------------------------------------------------------------------------------------


def waiting(name: str, timing: str = "") -> Board:
    board = load_board(name)
    core = dataclasses.replace(board.core, timing=timing or board.core.timing)
    flash = dataclasses.replace(board.memory.flash, wait_states=2)
    return dataclasses.replace(board, core=core, memory=dataclasses.replace(board.memory, flash=flash))


def test_wait_states_that_are_not_modelled_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cortex_m4: wait states are not modelled"):
        ModelledRegions(waiting("qemu-cortex-m4"), tmp_path)
    with pytest.raises(ConfigError, match="qemu-rv32 has wait states"):
        check_no_waits(waiting("qemu-rv32"))
    check_no_waits(load_board("qemu-rv32"))
    check_no_waits(waiting("rtl-ibex"))  # counts cycles itself


def test_a_table_names_the_model_of_waits() -> None:
    assert timing_name(load_board("qemu-rv32")) == f"ibex {PLAIN.VERSION}"
    assert timing_name(waiting("qemu-rv32")) == f"ibex {PLAIN.VERSION}, waits {IBEX.VERSION}"


def test_accesses_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("80000010:0:5 80000014:3:a \n\n80000010:1")
    assert read_accesses(path) == [{0x80000010: Accesses(0, 5), 0x80000014: Accesses(3, 10)}, {}]
    path.write_text("80000010:0\n")
    with pytest.raises(LinkError, match="not a file of accesses"):
        read_accesses(path)
    with pytest.raises(LinkError, match="wrote no b"):
        read_accesses(tmp_path / "b")
