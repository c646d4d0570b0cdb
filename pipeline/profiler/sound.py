"""The front end's cost on a board: two small applications are built, one of them with it, and clips are run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.boards import Board
from pipeline.engine import Model, emit_c, load
from pipeline.errors import LinkError, LutError
from pipeline.figures import Provenance
from pipeline.firmware.app import render_app
from pipeline.firmware.build import Build, build
from pipeline.frontend import FrontEnd, features
from pipeline.frontend.probes import probing_clips
from pipeline.latency.emulated import emulated_features
from pipeline.latency.sound import SoundCost, sound_cost_path
from pipeline.profiler.footprint import sample_network
from pipeline.profiler.identity import current_identity
from pipeline.profiler.standin import HIGH, LOW, same_core
from pipeline.progress import Reporter
from pipeline.space.budgets import Budgets
from pipeline.space.graph import Node, OpGraph
from pipeline.space.opspec import OpSpec

# By how much other clips may take less or more than those that were measured, relative. Chosen: those of
# benchmarks/results/other_spaces.md stay within what was measured.
_MARGIN = 0.0025
# Flash that a budget must have room for: the small network has functions of the compiler's library already that another
# network gets with the front end, and the compiler inlines differently (up to 288 bytes seen, on RV32).
_MARGIN_BYTES = 320


def obtain_sound_cost(board: Board, front_end: FrontEnd, *, folder: Path, reporter: Reporter) -> SoundCost:
    """What is kept beside the board's table in `folder`, else measured now and kept there.

    A real board is not measured in passing: the cycles of an emulated board with the same core stand in for it,
    with that stand-in's wide interval; flash and RAM are of the board's own build. Raises LutError where there
    is no such board, or the file is damaged; ToolError (compiler or emulator missing) and LinkError.
    """
    path, identity = sound_cost_path(folder, board.name, front_end), current_identity(board)
    if path.is_file():
        try:
            return SoundCost.load(path, front_end, identity)
        except LutError as error:
            reporter.say(f"  {error.message}; measuring anew")
    reporter.say(f"  front end on {board.name}: building two applications")
    work = folder / f"front-end-{board.name}"
    if board.emulator is not None:
        cost = measure_sound_cost(board, front_end, work)
    else:
        cost = _of_real_board(board, front_end, work)
        reporter.warn(f"front end on {board.name}: {cost.note}")
    cost.save(path, identity)
    return cost


def measure_sound_cost(board: Board, front_end: FrontEnd, folder: Path) -> SoundCost:
    """Build in `folder`, run `probing_clips` on the target. Raises ToolError, LinkError (also where the device's
    features are not NumPy's)."""
    flash, ram, built = _footprint(board, front_end, folder)
    clips = probing_clips(front_end)
    wanted = features(front_end, clips)
    counts = []
    for clip, feature in zip(clips, wanted, strict=True):
        seen = emulated_features(board, built.elf, clip.astype("<i2").tobytes())
        if seen.features != feature.tobytes():
            raise LinkError(
                f"the front end on {board.name} computes other features than this machine",
                hint="a compiler or emulator fault: run tests/emulated/test_sound_on_target.py",
            )
        counts.append(seen)
    cycles = [seen.cycles for seen in counts]
    note = (
        "executed blocks times the core's timing model"
        if board.counts_instructions
        else "the device's counter"
    )
    return SoundCost(
        front_end, float(np.median(cycles)), (1 - _MARGIN) * min(cycles), (1 + _MARGIN) * max(cycles),
        float(np.median([seen.instructions for seen in counts])), len(clips), flash, ram,
        board.latency_provenance, note,
    )  # fmt: skip


def _of_real_board(board: Board, front_end: FrontEnd, folder: Path) -> SoundCost:
    found = same_core(board)
    if found is None:
        raise LutError(
            f"the front end of this data was never measured on {board.name}, and no emulated board has its core "
            f"({board.core.name}, {board.core.isa})",
            hint="add an emulated board with this core (docs/add-a-board.md), or choose a board whose core has one",
        )
    other, _ = found
    seen = measure_sound_cost(other, front_end, folder / other.name)
    flash, ram, _ = _footprint(board, front_end, folder)
    modelled: Provenance = "modelled"
    return replace(
        seen, assumed_low=LOW, assumed_high=HIGH, flash_bytes=flash, ram_bytes=ram, provenance=modelled,
        note=f"cycles of {other.name}, whose memory never waits, {LOW:.2f} to {HIGH:.2f} of them assumed",
    )  # fmt: skip


def _footprint(board: Board, front_end: FrontEnd, folder: Path) -> tuple[int, int, Build]:
    """Flash and static RAM (the arena left out) that the front end adds, and the application that has it."""
    graph = _smallest(front_end)
    plain, with_sound = (load(sample_network(graph, front_end=one)) for one in (None, front_end))

    def built(model: Model, name: str, ratio: float | None) -> Build:
        sources = render_app(emit_c(model), board, Budgets(), folder / name, 1.0, ratio)
        return build(sources, board)

    without, wanted = built(plain, "without", None), built(with_sound, "with", 1.0)
    word = board.core.array_alignment
    arena = -(-with_sound.arena_bytes // word) * word - -(-plain.arena_bytes // word) * word
    ram = wanted.static_ram_bytes - without.static_ram_bytes - arena
    return wanted.flash_bytes - without.flash_bytes + _MARGIN_BYTES, max(0, ram), wanted


def _smallest(front_end: FrontEnd) -> OpGraph:
    """A network over the features: their mean, and two classes of it."""
    height, width, _ = front_end.shape
    mean = OpSpec("mean", in_h=height, in_w=width, in_c=1, out_h=1, out_w=1, out_c=1)
    dense = OpSpec("fully_connected", in_h=1, in_w=1, in_c=1, out_h=1, out_w=1, out_c=2)
    nodes = (Node(mean, (0,), 1, "mean"), Node(dense, (1,), 2, "dense"))
    return OpGraph((height * width, 1, 2), nodes, 0, 2)
