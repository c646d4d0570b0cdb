"""Predicted against emulated latency, SRAM and flash of random architectures, and MACs as a proxy.

    python benchmarks/prediction.py --count 20 --seed 0 > benchmarks/results/prediction.md

Each architecture gets random weights, is built for the board, started in the emulator and counted. Latencies are
modelled on both sides: the figure says how well the LUT adds up, not how true the timing model is.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from pipeline import stages
from pipeline.boards import load_board
from pipeline.profiler.footprint import sample_network
from pipeline.progress import Reporter
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.validate import random_inputs


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="qemu-cortex-m4")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    board = load_board(args.board)
    rng = np.random.default_rng(args.seed)
    space = SearchSpace.for_input((28, 28, 1), 10)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.count):
            graph = lower(space.random(rng))
            path = Path(folder) / f"{number}.tflite"
            path.write_bytes(sample_network(graph, seed=number))
            out = Path(folder) / str(number)
            deployed = stages.deploy(path, board, Budgets(), out, Reporter(quiet=True))
            x = random_inputs(deployed.model, 1, number).x
            seen = stages.validate_on_target(deployed, board, x, None, Reporter(quiet=True))
            assert seen.mismatches == 0 and seen.emulated_cycles is not None
            rows.append(
                (
                    deployed.prediction.total_cycles, seen.emulated_cycles, graph.macs,
                    deployed.cost.expected_flash_bytes(graph) / seen.flash_bytes - 1,
                    deployed.predicted.sram_bytes - seen.sram_bytes,
                )
            )  # fmt: skip
    predicted, emulated, macs, flash, sram = np.array(rows).T
    slope, offset = np.polyfit(macs, emulated, 1)
    proxy = slope * macs + offset
    error = np.abs(predicted / emulated - 1)
    print(f"# Prediction on {board.name}: {args.count} random architectures, seed {args.seed}\n")
    print(f"Emulated latencies (modelled): {emulated.min() / board.clock_hz * 1e3:.1f} to "
          f"{emulated.max() / board.clock_hz * 1e3:.1f} ms. Every output byte agreed with TFLite Micro.\n")  # fmt: skip
    print("| | MAPE | worst | Spearman |\n|---|---|---|---|")
    print(
        f"| LUT | {100 * error.mean():.3f} % | {100 * error.max():.3f} % | {spearman(predicted, emulated):.4f} |"
    )
    off = np.abs(proxy / emulated - 1)
    print(
        f"| MACs, best linear fit | {100 * off.mean():.1f} % | {100 * off.max():.1f} % "
        f"| {spearman(macs, emulated):.4f} |"
    )
    print(f"\nFlash: worst difference {100 * np.abs(flash).max():.3f} %. "
          f"SRAM: worst difference {int(np.abs(sram).max())} bytes.")  # fmt: skip


if __name__ == "__main__":
    main()
