"""Whole models on open RTL cores, cycle by cycle, against the timing models: random architectures and MLPerf Tiny.

    python benchmarks/rtl_models.py --count 50 > benchmarks/results/rtl_models.md

Each model is built twice: for the RTL board, where `mcycle` counts one inference, and for `qemu-rv32`, whose executed
blocks the core's timing model turns into cycles. The MLPerf Tiny models are taken from ../shared/models; those that are
not there, or that fit no RTL board, are left out and named.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.boards import Board, load_board
from pipeline.check import drawn
from pipeline.engine import emit_c, load
from pipeline.errors import EdgeNasError
from pipeline.firmware import build, render_app
from pipeline.latency.emulated import emulated_inference
from pipeline.profiler.footprint import sample_network
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace

BOARDS = {"rtl-ibex": "ibex", "rtl-cv32e40p": "cv32e40p"}
MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"


def built(content: bytes, name: str, timing: str, folder: Path) -> tuple[tuple[Board, Path], ...]:
    """The RTL board and the emulated one, each with its program."""
    model = load(content)
    emulated = load_board("qemu-rv32")
    boards = (load_board(name), replace(emulated, core=replace(emulated.core, timing=timing)))
    return tuple(
        (board, build(render_app(emit_c(model), board, Budgets(), folder / board.name, 1.0), board).elf)
        for board in boards
    )


def inference(target: tuple[Board, Path], x: bytes) -> tuple[float, bytes]:
    """Cycles of all layers of one inference, and its output."""
    found = emulated_inference(*target, x)
    return sum(layer.cycles for layer in found.layers), found.output


def an_input(content: bytes, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(-128, 128, load(content).input_bytes, dtype=np.int8).tobytes()


def cycles(content: bytes, name: str, timing: str, folder: Path, seed: int) -> tuple[float, float]:
    """(counted by the RTL, modelled): cycles of all layers of one inference."""
    x = an_input(content, seed)
    found = [inference(target, x) for target in built(content, name, timing, folder)]
    assert found[0][1] == found[1][1]
    return found[0][0], found[1][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", type=int, default=14, help="height and width of the random models' images")
    parser.add_argument("--board", choices=BOARDS, action="append")
    args = parser.parse_args()
    space = SearchSpace.for_input((args.shape, args.shape, 1), 10, blocks=7)
    random = [
        (f"random {number}", sample_network(lower(architecture), seed=number))
        for number, architecture in enumerate(drawn(space, args.count, args.seed))
    ]
    tiny = [(path.stem, path.read_bytes()) for path in sorted(MODELS.glob("*.tflite"))]
    print(
        f"# Whole models: cycles of RTL cores against the timing models\n\n`python benchmarks/rtl_models.py --count "
        f"{args.count} --shape {args.shape}`. Counted: cycle-accurate (mcycle in simulated RTL, all layers of one "
        f"inference). Modelled: blocks that QEMU executed, costed by the core's timing model. Random architectures of "
        f"the default space ({args.shape}x{args.shape}x1, seed {args.seed}) with random weights.\n\n"
        "| core | models | million cycles | mean difference | worst | beyond 0.5 % |\n|---|--:|--:|--:|--:|--:|",
        flush=True,
    )
    left_out = []
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        for name in args.board or BOARDS:
            for what, models in (("random", random), ("MLPerf Tiny", tiny)):
                rows = []
                for seed, (label, content) in enumerate(models):
                    try:
                        rows.append(cycles(content, name, BOARDS[name], Path(folder) / name, seed))
                    except EdgeNasError as error:
                        left_out.append(f"{label} on {name}: {error.message.splitlines()[0]}")
                if not rows:
                    continue
                counted, modelled = np.array(rows).T
                errors = np.abs(modelled / counted - 1)
                print(
                    f"| {name} | {len(rows)} {what} | {counted.min() / 1e6:.1f} to {counted.max() / 1e6:.1f} "
                    f"| {100 * errors.mean():.4f} % | {100 * errors.max():.4f} % | {int((errors > 0.005).sum())} |",
                    flush=True,
                )
    if left_out:
        print("\nLeft out: " + "; ".join(left_out) + ".")


if __name__ == "__main__":
    main()
