"""How far the hypernetwork's inputs control its output: S the operators, budgets the latency, board the choice.

    python benchmarks/hyper_control.py > benchmarks/results/hyper_control.md

Trains one hypernetwork for several boards with their shipped tables on part of Fashion-MNIST, then draws conditions
(boards in turn, S uniform on the simplex, latencies from each board's range) and compares what was asked with what
the logits say. No architecture is trained alone and nothing is measured on a device: latencies are expectations
over the tables.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from real_data import real

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.search import SearchConfig, Target
from pipeline.search.conditions import Condition, draw_complexity, leaning
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.hypersearch import HyperSearch
from pipeline.search.methods import Task
from pipeline.search.ranking import spearman
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace

BOARDS = ("qemu-cortex-m4", "qemu-cortex-m7", "qemu-rv32", "qemu-cortex-a53")


def target(name: str, latency_ms: float) -> Target:
    board = load_board(name)
    cost = CostModel(board, Lut.load(asset_dir("luts") / name / "edgenas.csv"))
    memory = board.memory
    return Target(name, cost, Budgets(latency_ms, memory.sram.bytes, memory.flash.bytes), board.clock_hz)


def subset(name: str, images: int) -> SimpleNamespace:
    full = real(name)
    return SimpleNamespace(
        **{f"{a}_{split}": getattr(full, f"{a}_{split}")[:images] for a in "xy" for split in ("train", "val")}
    )


def sweep(search: HyperSearch, count: int, tightest: float, seed: int) -> SimpleNamespace:
    """`count` random conditions: S, shares and latencies (of the range's end) by operator, asked and expected."""
    rng, relaxation = np.random.default_rng(seed), search.relaxation
    rows = []
    with torch.no_grad():
        for i in range(count):
            place = i % len(search.boards)
            ranges = search.boards[place].ranges
            budgets = ranges.at((tightest + (1 - tightest) * rng.random(), 1.0, 1.0))
            complexity = draw_complexity(len(search.task.space.ops), rng)
            relaxation.ask(Condition(complexity, budgets, place))
            chances = relaxation.probabilities(1.0)
            by_operator = relaxation.latency_by_operator(*chances).numpy() / ranges.high[0]
            expected = float(relaxation.expected_from(*chances).latency_ms)
            shares = relaxation.shares().numpy()
            rows.append((place, complexity, shares, by_operator, budgets.latency_ms, expected))
    place, complexity, shares, latency, asked, expected = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return SimpleNamespace(
        place=place, complexity=complexity, shares=shares, latency=latency, asked=asked, expected=expected
    )  # fmt: skip


def rank_correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's; 0 where one of both does not vary."""
    return spearman(list(x), list(y)) if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0


def lean(search: HyperSearch, op: int) -> tuple[float, float]:
    """Share of `op` on the first board at its full budget: with S uniform, and leaning half way to `op`."""
    out = []
    budgets, ops = search.boards[0].ranges.at((1.0, 1.0, 1.0)), len(search.task.space.ops)
    with torch.no_grad():
        for to in (None, op):
            search.relaxation.ask(Condition(leaning(ops, to), budgets))
            out.append(float(search.relaxation.shares()[op]))
    return out[0], out[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", nargs="+", default=list(BOARDS))
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--warmup", type=int, default=150)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--conditions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of [search.hyper]")
    args = parser.parse_args()

    torch.set_num_threads(1)
    chosen = {key: float(value) for key, value in (pair.split("=") for pair in args.set)}
    targets = [target(name, args.latency_ms) for name in args.boards]
    config = SearchConfig(
        method="hypernetwork", warmup_steps=args.warmup, steps=args.steps, batch_size=args.batch,
        validation_batch_size=args.batch, threads=1, device="cpu",
        hyper=replace(HyperConfig(boards=tuple(args.boards)), **chosen),
    )  # fmt: skip
    space, data = SearchSpace.for_input((28, 28, 1), 10), subset("fashion_mnist", args.images)
    search = HyperSearch(Task.prepare(space, data, targets, config, args.seed, None, None))
    started = time.monotonic()
    search._train()
    seconds = time.monotonic() - started
    tail = search.history[-20:]
    print(
        f"One run for {', '.join(args.boards)}: {args.warmup} + {args.steps} steps of {args.batch} images, seed"
    )
    print(
        f"{args.seed}, {seconds:.0f} s on one thread of a busy machine; {args.conditions} random conditions."
    )
    print(
        f"Relative entropy at the end {np.mean([r['entropy'] for r in tail]):.2f}, accuracy of sampled paths"
    )
    print(
        f"{np.mean([r['path_accuracy'] for r in tail]):.2f}. "
        + (f"Set: {' '.join(args.set)}." if args.set else "")
    )
    for title, tightest in (("Whole range of latencies", 0.0), ("Upper third of the range", 0.67)):
        seen = sweep(search, args.conditions, tightest, args.seed + 1)
        print(
            f"\n### {title}\n\n| operator | mean share | S_m and share | S_m and latency in m |\n|---|---|---|---|"
        )
        totals = []
        for op, name in enumerate(space.ops):
            pair = [
                rank_correlation(seen.complexity[:, op], column[:, op])
                for column in (seen.shares, seen.latency)
            ]
            totals.append(pair)
            print(f"| `{name}` | {seen.shares[:, op].mean():.3f} | {pair[0]:+.2f} | {pair[1]:+.2f} |")
        mean = np.mean(totals, 0)
        print(f"| mean | | {mean[0]:+.2f} | {mean[1]:+.2f} |")
        print(
            "\n| board | range, ms | asked, expected: rank | logarithms | expected, ms |\n|---|---|---|---|---|"
        )
        for place, board in enumerate(search.boards):
            own = seen.place == place
            asked, expected = seen.asked[own], seen.expected[own]
            linear = float(np.corrcoef(np.log(asked), np.log(expected))[0, 1])
            print(
                f"| {board.target.name} | {board.ranges.low[0]:.2f}..{board.ranges.high[0]:.2f} "
                f"| {rank_correlation(asked, expected):+.2f} | {linear:+.2f} "
                f"| {expected.min():.2f}..{expected.max():.2f} |"
            )
    print("\n### Leaning half way to one corner (first board, full budget)\n")
    print("| operator | share, S uniform | share, S leaning to it |\n|---|---|---|")
    for op, name in enumerate(space.ops):
        plain, pushed = lean(search, op)
        print(f"| `{name}` | {plain:.3f} | {pushed:.3f} |")


if __name__ == "__main__":
    main()
