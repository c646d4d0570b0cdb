"""How far S and the latency asked for control a cell space's hypernetwork, by the weights of its loss.

    python benchmarks/hyper_control_cells.py > benchmarks/results/hyper_control_cells.md

Trains one hypernetwork for two boards with their shipped tables for each setting of weights, on part of
Fashion-MNIST, then draws conditions (boards in turn, S uniform on the simplex, latencies from each board's range)
and compares what was asked with what the logits say. No architecture is trained alone and nothing is measured on a
device: latencies are expectations over the tables.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from hyper_control import rank_correlation, subset, target
from numpy.typing import NDArray

from pipeline.search import SearchConfig
from pipeline.search.cell_hypersearch import CellHyperSearch
from pipeline.search.conditions import Condition, draw_complexity
from pipeline.search.hyperconfig import HyperConfig
from pipeline.space.cells import CellSpace

BOARDS = ("qemu-cortex-m4", "qemu-rv32")
WEIGHTS: tuple[dict[str, float], ...] = (
    {},
    {"condition_weight": 10.0, "spend_weight": 3.0},
    {"simplex_weight": 1.0, "condition_weight": 4.0, "spend_weight": 1.2},
)
SMALL = CellSpace((28, 28, 1), 10, 8, 2, channels=(8, 16), strides=(1, 2), nodes=3)


def asked_and_found(search: CellHyperSearch, count: int, seed: int) -> NDArray[np.float64]:
    """Rows of board, latency asked for and expected (ms), S, shares of the operators."""
    rng, relaxation, rows = np.random.default_rng(seed), search.relaxation, []
    ops = len(search.space.ops)
    with torch.no_grad():
        for i in range(count):
            place = i % len(search.boards)
            budgets = search.boards[place].ranges.at((rng.random(), 1.0, 1.0))
            complexity = draw_complexity(ops, rng)
            relaxation.ask(Condition(complexity, budgets, place))
            expected = float(relaxation.expected().latency_ms)
            rows.append((place, budgets.latency_ms, expected, *complexity, *map(float, relaxation.shares())))
    return np.array(rows, dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", action="store_true", help="the published space, not a small one")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--warmup", type=int, default=40)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--conditions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    space = CellSpace((28, 28, 1), 10) if args.published else SMALL
    data, targets = subset("fashion_mnist", args.images), tuple(target(name, 1000.0) for name in BOARDS)
    ops = len(space.ops)
    print(
        f"{'Published space' if args.published else 'Two cells of three nodes, 8 and 16 channels'}, one run for "
        f"{', '.join(BOARDS)} each: {args.warmup} + {args.steps} steps of {args.batch} images,\n"
        f"seed {args.seed}; {args.conditions} random conditions. Spearman's rank correlations,\n"
        "latencies modelled; relative entropy over the last 20 steps.\n"
    )
    shares = " | ".join(f"S and share of `{op}`" for op in space.ops)
    limits = " | ".join(f"asked, expected: {name}" for name in BOARDS)
    print(f"| weights | {limits} | {shares} | entropy | CPU s |\n|---|{'---|' * (ops + len(BOARDS) + 2)}")
    for weights in WEIGHTS:
        hyper = replace(HyperConfig(boards=BOARDS[1:]), **weights)
        config = SearchConfig(
            method="hypernetwork", warmup_steps=args.warmup, steps=args.steps, batch_size=args.batch, threads=1,
            device="cpu", hyper=hyper,
        )  # fmt: skip
        search = CellHyperSearch(space, data, targets, config, args.seed, None, None)
        started = time.process_time()
        search.train()
        seconds = time.process_time() - started
        seen = asked_and_found(search, args.conditions, args.seed + 1)
        by_board = [seen[seen[:, 0] == place] for place in range(len(BOARDS))]
        figures = [rank_correlation(own[:, 1], own[:, 2]) for own in by_board]
        figures += [rank_correlation(seen[:, 3 + op], seen[:, 3 + ops + op]) for op in range(ops)]
        name = ", ".join(f"`{key}` {value:g}" for key, value in weights.items()) or "defaults"
        entropy = np.mean([record["entropy"] for record in search.history[-20:]])
        cells = " | ".join(f"{figure:+.2f}" for figure in figures)
        print(f"| {name} | {cells} | {entropy:.2f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
