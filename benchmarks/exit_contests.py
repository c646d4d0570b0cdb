"""What candidates with early exits have learnt by the end of a contest, by the weights of the exits' losses.

    python benchmarks/exit_contests.py --architectures 4 --steps 50 250 --out F

Random architectures within the limit, grown into it as the search's candidates are, train alone from scratch as in its
contests (`exitsearch.train_alone`, default settings), once with each of `--weights` on the same batches: accuracies of
every output and of the best rule within the goal. Fashion-MNIST, every second pixel, the shipped table of `--board`.
Accuracies are on validation images, measured. Trainings are journalled under `--out`: the same command goes on where it
was interrupted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edge_stage import part
from exit_search import weight_pair
from real_data import real

from pipeline.boards import load_board
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.search import SearchConfig
from pipeline.search.candidates import Judge, grow
from pipeline.search.costs import build_tables
from pipeline.search.exitnet import ExitNet, on_int8_grid
from pipeline.search.exitsearch import best_exits
from pipeline.search.selection import uniform_paths
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, train_path
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace

_DRAW, _BATCHES = 2026, 5


def table(rows: list[dict[str, Any]]) -> str:
    """Means by steps and weights, as Markdown; all percent."""
    heads = ("steps", "weights, blocks:head", "n", "by the rule", "each", "exits", "last output")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for steps, weights in dict.fromkeys((row["steps"], row["weights"]) for row in rows):
        here = [row for row in rows if (row["steps"], row["weights"]) == (steps, weights)]
        rule = [100 * row["rule"] for row in here]
        *exits, last = 100 * np.mean([row["outputs"] for row in here], axis=0)
        cells = [
            str(steps), weights, str(len(here)), f"{np.mean(rule):.1f}", " ".join(f"{r:.1f}" for r in rule),
            " ".join(f"{e:.1f}" for e in exits), f"{last:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="qemu-cortex-m4", help="whose shipped table to use")
    parser.add_argument("--architectures", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--exits", type=int, nargs="+", default=[0, 1, 2, 3], help="after these blocks")
    parser.add_argument("--limit", type=float, default=12.0, help="of the worst case, ms")
    parser.add_argument("--goal", type=float, default=6.0, help="of the expected latency, ms")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 250])
    parser.add_argument(
        "--weights", nargs="+", default=["0.3:0.3", "0.3:1", "0:1"], help="loss_weight:head_weight"
    )
    parser.add_argument("--train-images", type=int, default=8000)
    parser.add_argument("--validation-images", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    torch.set_num_threads(1)
    config = SearchConfig()
    data = part(real("fashion_mnist"), args.train_images, args.validation_images, 1000)
    space = SearchSpace.for_input(data.input_shape, data.classes, blocks=args.blocks, exits=tuple(args.exits))
    cost = CostModel(load_board(args.board), Lut.load(Path("luts") / args.board / "edgenas"))
    judge = Judge(build_tables(space, cost), cost, Budgets(args.limit), expected_ms=args.goal)
    rng = np.random.default_rng(_DRAW)
    drawn = uniform_paths(judge, 3 * args.architectures, rng)
    paths = judge.distinct(grow(judge, path, rng) for path in drawn)[: args.architectures]
    validation = Validation.of(data, args.validation_images, 0)
    args.out.mkdir(parents=True, exist_ok=True)
    journal = args.out / "contests.jsonl"
    known = [json.loads(line) for line in journal.read_text().splitlines()] if journal.is_file() else []
    rows: list[dict[str, Any]] = []
    for steps in args.steps:
        for weights in args.weights:
            for path in paths:
                key = {
                    "architecture": judge.architecture(path).describe(), "weights": weights, "steps": steps,
                    "sizes": [args.train_images, args.validation_images], "limits": [args.limit, args.goal],
                }  # fmt: skip
                if done := [row for row in known if key.items() <= row.items()]:
                    rows.append(done[0])
                    continue
                net = ExitNet(Supernet(space, 0), 0, *weight_pair(weights))
                train_path(
                    net, path, data, steps=steps, batch_size=config.batch_size, lr=config.weight_lr,
                    rng=np.random.default_rng([_BATCHES, steps]), on_step=lambda _: None,
                )  # fmt: skip
                logits, labels = validation.outputs(net, path)
                choice = best_exits(judge, path, [on_int8_grid(y) for y in logits], labels)
                outputs = [float((y.argmax(1) == labels).mean()) for y in logits]
                rows.append({**key, "rule": choice.accuracy, "outputs": outputs, "kept": list(choice.kept)})
                with journal.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(f"{len(paths)} of {space.count():,} architectures:\n")
    print("\n".join(f"- {judge.architecture(path).describe()}" for path in paths) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
