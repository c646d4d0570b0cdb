"""A table under another condition of the same board: a clock that was lowered."""

from __future__ import annotations

from dataclasses import replace

from pipeline.boards import Board
from pipeline.errors import ConfigError


def at_clock(board: Board, clock_hz: int, setting: str = "adapt.clock_hz") -> Board:
    """`board` at another clock, for which the cycles in its tables stay right. 0: as it is.

    `setting`: what a message calls the clock.

    Cycles do not depend on the clock where every memory keeps up with the core: no wait states, and a time base
    that counts the core's own work. Raises ConfigError where that is not so, or for a clock above the board's.
    """
    if clock_hz in (0, board.clock_hz):
        return board
    if clock_hz > board.clock_hz:
        raise ConfigError(
            f"{setting} = {clock_hz:,} is above the {board.clock_hz:,} Hz of {board.name}",
            hint="the board's file says what it can do",
        )
    why = ""
    waiting = [
        f"{region.wait_states} in {name}"
        for name, region in (("flash", board.memory.flash), ("SRAM", board.memory.sram))
        if region.wait_states
    ]
    if waiting:
        why = f"its cycles contain wait states ({', '.join(waiting)}), which change with the clock"
    elif board.counter.counts == "time":
        why = "its table holds times, and memory does not slow down with the core"
    elif board.emulator is None:
        why = "its clock is set up by the firmware, from the dividers in the board's file"
    if why:
        raise ConfigError(
            f"the table of {board.name} cannot be scaled to {clock_hz:,} Hz: {why}",
            hint="copy the board's file, set clock.hz (and its dividers) there, and measure: edgenas profile",
        )
    counter = board.counter
    if counter.counts == "cycles":
        counter = replace(counter, hz=round(counter.hz * clock_hz / board.clock_hz))
    return replace(board, clock_hz=clock_hz, counter=counter)
