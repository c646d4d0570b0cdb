"""The front end on a target: its features against NumPy's, and what it took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import Board
from pipeline.frontend import FrontEnd, features
from pipeline.latency.emulated import emulated_features
from pipeline.wire.client import FeaturesResult


@dataclass(frozen=True, slots=True)
class SoundRun:
    """Clips that the device made features of. `mismatches`: clips with any byte that is not NumPy's.

    `ticks_*` are the device counter's. Where the device counts instructions, `cycles` are modelled from the
    executed blocks of the slowest clip; else None.
    """

    clips: int
    mismatches: int
    worst_difference: int
    ticks_min: int
    ticks_median: float
    ticks_max: int
    cycles: float | None
    instructions: int
    source: str

    def cycles_on(self, board: Board) -> float:
        """Of the slowest clip."""
        return self.cycles if self.cycles is not None else self.ticks_max * board.clock_hz / board.counter.hz


def sound_bytes(clip: NDArray[np.int16]) -> bytes:
    """As it goes over the wire."""
    return clip.astype("<i2").tobytes()


def sound_run(
    front_end: FrontEnd,
    board: Board,
    elf: Path,
    clips: NDArray[np.int16],
    made: Sequence[FeaturesResult],
    source: str,
    port: str | None,
) -> SoundRun:
    """Hold what a target made of `clips` against NumPy, and count the slowest. Raises as `emulated_features`."""
    wanted = features(front_end, clips).reshape(len(clips), -1).astype(int)
    found = np.stack([np.frombuffer(one.features, np.int8) for one in made]).astype(int)
    ticks = [one.ticks for one in made]
    cycles, instructions = None, 0
    if board.counts_instructions:
        seen = emulated_features(board, elf, sound_bytes(clips[int(np.argmax(ticks))]), port=port)
        cycles, instructions = seen.cycles, seen.instructions
    return SoundRun(
        clips=len(clips),
        mismatches=int((wanted != found).any(axis=1).sum()),
        worst_difference=int(np.abs(wanted - found).max()),
        ticks_min=min(ticks),
        ticks_median=float(statistics.median(ticks)),
        ticks_max=max(ticks),
        cycles=cycles,
        instructions=instructions,
        source=source,
    )
