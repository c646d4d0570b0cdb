"""EdgeNAS guided by a board's table, and by multiply-accumulates (`[search.ablation] guide = "macs"`).

    python benchmarks/mac_proxy.py --board qemu-cortex-m7 --limits 1.5 3 --out runs/mac_proxy.jsonl

The proxy is a line through multiply-accumulates fitted to random architectures of that board; what guides the search
never sees the table itself. Stated for both: by how much the distribution's most probable architecture, before any
repair, misses the limit by the table; how many candidates broke it; and the hypervolume of the winners, which meet it
in any case, after one and the same training from scratch. A line of `--out` is one search; known ones are not repeated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from search_methods import subset

from pipeline.boards import load_board
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.search import SearchConfig, search
from pipeline.search.ablation import AblationConfig
from pipeline.search.hypervolume import hypervolume, interval
from pipeline.search.retrain import held_out_accuracy
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.sweep.grid import seed_list

GUIDES = ("table", "macs")


def one(
    space: SearchSpace, data: Any, cost: CostModel, limit: float, seed: int, guide: str, steps: int
) -> dict[str, Any]:
    """A whole search, its relaxed answer and its winner's accuracy on the test split."""
    config = SearchConfig(
        warmup_steps=20, steps=100, batch_size=32, validation_batch_size=64, candidates=12, ranking_images=200,
        semifinalists=3, semifinal_steps=10, finalists=2, proxy_steps=20, threads=1,
        ablation=AblationConfig(guide=guide),
    )  # fmt: skip
    found = search(space, data, cost, Budgets(latency_ms=limit), config, seed=seed)
    assert found.relaxed is not None
    row: dict[str, Any] = {
        "relaxed_ms": found.relaxed.cost.latency_ms,
        "notes": found.notes,
        "latency_ms": None,
    }
    if found.architecture is not None and found.cost is not None:
        row["latency_ms"] = found.cost.latency_ms
        row["accuracy"] = held_out_accuracy(
            space, data, found.architecture, steps=steps, seed=seed, threads=1
        )
    return row


def summary(rows: list[dict[str, Any]], limits: list[float], seeds: list[int]) -> str:
    """Markdown: one row a guide."""
    lines = [
        "| guide | relaxed answer beyond the limit, each search | mean, 95 % interval | in magnitude "
        "| hypervolume (ms), 95 % interval | each seed |",
        "|---|---|---|---|---|---|",
    ]
    for guide in GUIDES:
        own = [r for r in rows if r["guide"] == guide]
        beyond = [100 * (r["relaxed_ms"] / r["limit"] - 1) for r in own]
        volumes = [
            hypervolume(
                [(r["latency_ms"], r["accuracy"]) for r in own if r["seed"] == s and r["latency_ms"]],
                (1.1 * max(limits), 0.1),
            )
            for s in seeds
        ]
        each, size = interval(beyond), interval([abs(b) for b in beyond])
        lines.append(
            f"| `{guide}` | {', '.join(f'{b:+.1f}' for b in beyond)} % "
            f"| {each.mean:+.1f} [{each.low:+.1f}, {each.high:+.1f}] % "
            f"| {size.mean:.1f} [{size.low:.1f}, {size.high:.1f}] % "
            f"| {interval(volumes)} | {', '.join(f'{v:.3f}' for v in volumes)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="qemu-cortex-m7")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--limits", type=float, nargs="+", default=[1.5, 3.0])
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--judge-steps", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    data = subset("fashion_mnist", 4000, 1000, 5000, 2)
    space = SearchSpace.for_input(data.x_train.shape[1:], 10, blocks=args.blocks)
    cost = CostModel(load_board(args.board), Lut.load(Path("luts") / args.board / "edgenas"))
    known = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    rows, seeds = [], seed_list(args.seeds)
    for seed in seeds:
        for limit in args.limits:
            for guide in GUIDES:
                key = {
                    "board": args.board,
                    "blocks": args.blocks,
                    "seed": seed,
                    "limit": limit,
                    "guide": guide,
                }
                row = next((r for r in known if key.items() <= r.items()), None)
                if row is None:
                    row = key | one(space, data, cost, limit, seed, guide, args.judge_steps)
                    with args.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                rows.append(row)
    ratios = [r["latency_ms"] for r in rows if r["latency_ms"]]
    print(
        f"{args.board}, {args.blocks} blocks ({space.count():,} architectures), limits {args.limits} ms, "
        f"seeds {args.seeds},"
    )
    print(f"{len(ratios)} of {len(rows)} searches found an architecture; mean unused latency: ", end="")
    for guide in GUIDES:
        unused = [
            100 * (1 - r["latency_ms"] / r["limit"]) for r in rows if r["guide"] == guide and r["latency_ms"]
        ]
        print(f"{guide} {np.mean(unused):.1f} %", end=" ")
    print("\n\n" + summary(rows, args.limits, seeds))


if __name__ == "__main__":
    main()
