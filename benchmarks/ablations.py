"""EdgeNAS without one of its parts, as the run files in `examples/ablations/` have it, at small cost.

    python benchmarks/ablations.py --board qemu-cortex-m7 --limits 1.5 3 --out runs/ablations.jsonl

`macs` is guided by a line through multiply-accumulates that is fitted to random architectures of the board; what guides
the search then never sees the table itself. Stated: by how much the distribution's most probable architecture, before
any repair, misses the limit by the table, and the accuracy of the winners, which meet it in any case, after one and the
same training from scratch. A line of `--out` is one search; known ones are not repeated.
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
from pipeline.search.hypervolume import interval
from pipeline.search.retrain import held_out_accuracy
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.sweep.grid import seed_list

# what is taken away, and the number of blocks where it differs
VARIANTS: dict[str, tuple[AblationConfig, int | None]] = {
    "reference": (AblationConfig(), None),
    "no penalty": (AblationConfig(latency_penalty=False), None),
    "fixed penalty": (AblationConfig(adaptive=False), None),
    "macs": (AblationConfig(guide="macs"), None),
    "3 blocks": (AblationConfig(), 3),
}


def one(
    space: SearchSpace,
    data: Any,
    cost: CostModel,
    limit: float,
    seed: int,
    ablation: AblationConfig,
    steps: int,
    judge_steps: int,
) -> dict[str, Any]:
    """A whole search of `steps` alternations, its relaxed answer and its winner's accuracy on the test split."""
    config = SearchConfig(
        warmup_steps=20, steps=steps, batch_size=32, validation_batch_size=64, candidates=12, ranking_images=200,
        semifinalists=3, semifinal_steps=10, finalists=2, proxy_steps=20, threads=1, ablation=ablation,
    )  # fmt: skip
    found = search(space, data, cost, Budgets(latency_ms=limit), config, seed=seed)
    assert found.relaxed is not None
    row: dict[str, Any] = {
        "relaxed_ms": found.relaxed.cost.latency_ms,
        "notes": found.notes,
        "latency_ms": None,
        "accuracy": None,
    }
    if found.architecture is not None and found.cost is not None:
        row["latency_ms"] = found.cost.latency_ms
        row["accuracy"] = held_out_accuracy(
            space, data, found.architecture, steps=judge_steps, seed=seed, threads=1
        )
    return row


def summary(rows: list[dict[str, Any]], limits: list[float]) -> str:
    """Markdown: one row a limit and variant."""
    lines = [
        "| limit | variant | relaxed answer against the limit, each seed | mean, 95 % interval "
        "| test accuracy, each seed | mean, 95 % interval | mean latency |",
        "|---|---|---|---|---|---|---|",
    ]
    for limit in limits:
        for variant in dict.fromkeys(row["variant"] for row in rows):
            own = [r for r in rows if (r["variant"], r["limit"]) == (variant, limit)]
            found = [r for r in own if r["latency_ms"]]
            beyond = [100 * (r["relaxed_ms"] / limit - 1) for r in own]
            accuracies = [100 * r["accuracy"] for r in found]
            off, right = interval(beyond), interval(accuracies) if found else None
            taken = np.mean([r["latency_ms"] for r in found]) if found else np.nan
            lines.append(
                f"| {limit:g} ms | {variant} | {', '.join(f'{b:+.1f}' for b in beyond)} % "
                f"| {off.mean:+.1f} [{off.low:+.1f}, {off.high:+.1f}] % "
                f"| {', '.join(f'{a:.1f}' for a in accuracies)} % "
                f"| {f'{right.mean:.1f} [{right.low:.1f}, {right.high:.1f}] %' if right else 'none'} "
                f"| {f'{taken:.2f} ms' if found else 'none'} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="qemu-cortex-m7")
    parser.add_argument("--blocks", type=int, default=5, help="of the reference (default: 5)")
    parser.add_argument("--limits", type=float, nargs="+", default=[1.5, 3.0], help="ms")
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=100, help="alternations of a search")
    parser.add_argument("--judge-steps", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    data = subset("fashion_mnist", 4000, 1000, 5000, 2)
    cost = CostModel(load_board(args.board), Lut.load(Path("luts") / args.board / "edgenas"))
    known = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    rows = []
    for seed in seed_list(args.seeds):
        for limit in args.limits:
            for variant in args.variants:
                ablation, blocks = VARIANTS[variant]
                blocks = blocks or args.blocks
                key = {
                    "board": args.board, "blocks": blocks, "seed": seed, "limit": limit, "variant": variant,
                    "judge_steps": args.judge_steps, "steps": args.steps,
                }  # fmt: skip
                row = next((r for r in known if key.items() <= r.items()), None)
                if row is None:
                    space = SearchSpace.for_input(data.x_train.shape[1:], 10, blocks=blocks)
                    searched = one(space, data, cost, limit, seed, ablation, args.steps, args.judge_steps)
                    row = key | searched
                    with args.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                rows.append(row)
    found = sum(bool(row["latency_ms"]) for row in rows)
    print(f"{args.board}, {args.blocks} blocks, limits {args.limits} ms, seeds {args.seeds}: ", end="")
    print(f"{found} of {len(rows)} searches found an architecture\n\n" + summary(rows, args.limits))


if __name__ == "__main__":
    main()
