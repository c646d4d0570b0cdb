"""How far off are predictions of models unlike those that calibrated a table: other inputs, other spaces, cells, and
an audio front end? Operators that the table lacks are measured first, as a run does.

    python benchmarks/other_spaces.py [--board qemu-cortex-m4] [--count 16] [--out FOLDER] [--sound fsdd.npz]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.boards import Board, load_board
from pipeline.check import check_table, drawn, summarize
from pipeline.fleet import Targets
from pipeline.frontend import FrontEnd
from pipeline.latency.emulated import emulated_features
from pipeline.latency.lut import Lut
from pipeline.memory.planner import plan
from pipeline.profiler import obtain
from pipeline.profiler.sound import measure_sound_cost
from pipeline.progress import Reporter
from pipeline.space.architecture import lower
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

SEED = 3


def spaces() -> dict[str, Any]:
    """Name: space; the default one at other inputs (CIFAR-10's, a spoken digit's features), fewer blocks, cells."""
    return {
        "32x32x3": SearchSpace.for_input((32, 32, 3), 10),
        "49x32x1": SearchSpace.for_input((49, 32, 1), 10),
        "28x28x1, 3 blocks": SearchSpace.for_input((28, 28, 1), 10, blocks=3),
        "28x28x1, cells": CellSpace((28, 28, 1), 10),
    }


@dataclass(frozen=True)
class Fitting:
    """Draws architectures of `space` until one's arena fits."""

    space: Any
    arena_bytes: int

    def random(self, rng: np.random.Generator) -> Any:
        while True:
            found = self.space.random(rng)
            if plan(lower(found)).arena_bytes <= self.arena_bytes:
                return found


def check(board: Board, name: str, space: Any, count: int, folder: Path, targets: Targets) -> dict[str, Any]:
    reporter = Reporter(quiet=True)
    space = Fitting(space, board.memory.sram.bytes * 3 // 4)
    ops = {node.op for architecture in drawn(space, count, SEED) for node in lower(architecture).nodes}
    lut: Lut = obtain(board, sorted(ops), folder=folder / "tables", reporter=reporter)
    where = folder / name.replace(", ", "-").replace(" ", "-")
    models = check_table(board, lut, count, where, reporter, seed=SEED, targets=targets, space=space)
    errors = np.array([m.observed / m.predicted - 1 for m in models])
    summary = summarize(models, board.clock_hz, lut.interval)
    return {
        "models": name, "count": count, "least": float(errors.min()), "largest": float(errors.max()),
        "inside": summary["coverage"], "above": summary["above"],
    }  # fmt: skip


def check_sound(board: Board, path: Path, folder: Path, count: int) -> dict[str, Any]:
    """Recordings (`pcm`, `offset` as in the spoken digits' file) through the default front end, against the range
    that made-up clips give."""
    front_end = FrontEnd()
    cost = measure_sound_cost(board, front_end, folder / "front-end")
    elf = next((folder / "front-end" / "with").glob("**/*.elf"))
    cycles = []
    with np.load(path) as recorded:
        pcm, offset = recorded["pcm"], recorded["offset"]
    for i in np.random.default_rng(SEED).integers(len(offset) - 1, size=count):
        clip = np.zeros(front_end.samples, "<i2")
        part = pcm[offset[i] : offset[i + 1]][: front_end.samples]
        clip[: len(part)] = part
        cycles.append(emulated_features(board, elf, clip.tobytes()).cycles)
    return {
        "models": "front end", "count": count, "least": min(cycles) / cost.cycles - 1,
        "largest": max(cycles) / cost.cycles - 1,
        "range": [cost.low / cost.cycles - 1, cost.high / cost.cycles - 1],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", default="qemu-cortex-m4")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/other-spaces"))
    parser.add_argument("--sound", type=Path, help="recordings (.npz) for the front end")
    options = parser.parse_args()
    board = load_board(options.board)
    folder = options.out / board.name
    for name, space in spaces().items():
        found = check(board, name, space, options.count, folder, Targets(count=options.workers))
        print(json.dumps(found), flush=True)
    if options.sound:
        print(json.dumps(check_sound(board, options.sound, folder, options.count)), flush=True)


if __name__ == "__main__":
    main()
