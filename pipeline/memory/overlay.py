"""Where a clip of sound and the front end's working memory lie: in the arena, which is idle until the inference.

Only the model's input, which the front end writes, must not lie under them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.frontend import FrontEnd
from pipeline.memory.planner import ArenaPlan
from pipeline.space.graph import OpGraph

_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Overlay:
    """Offsets in the arena, and what the arena must have with them; all in bytes."""

    sound_offset: int
    work_offset: int
    arena_bytes: int


def overlay(plan: ArenaPlan, graph: OpGraph, front_end: FrontEnd) -> Overlay:
    """The clip and the working memory before the input where both fit there, else behind it."""
    sound = _aligned(front_end.sound_bytes)
    needed = sound + _aligned(front_end.work_bytes)
    first = plan.offsets[graph.input]
    start = 0 if needed <= first else _aligned(first + graph.tensor_bytes[graph.input])
    return Overlay(start, start + sound, max(plan.arena_bytes, start + needed))


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
