"""The winners of an earlier comparison of search methods, trained for longer: does their order last?

    python benchmarks/judge_again.py --sweep sweeps/methods --steps 3000 --images 54000 --out F

Reads the `sweep.json` that search_methods.py left in `--sweep`, trains each winner from scratch by the recipe that
judged it there, for `--steps` steps of 96 on the first `--images` training images, and prints the same tables with the
new accuracies. No search is repeated. Every training is kept in `--out` (JSON lines), so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search_methods import references, subset, table

from pipeline.search.hypervolume import hypervolume, interval
from pipeline.search.retrain import held_out_accuracy
from pipeline.space.architecture import Architecture
from pipeline.space.search_space import SearchSpace


def judged(document: dict[str, Any], args: argparse.Namespace) -> dict[str, float]:
    """Test accuracy by (architecture, seed), from `--out` or trained now."""
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.is_file() else []
    known = dict(map(json.loads, lines))
    data = subset(args.data, args.images, 1, 10000, args.shrink)
    height, width, channels = map(int, data.x_train.shape[1:])
    for point in sorted(document["points"], key=lambda p: (p["seed"], p["latency_ms"])):
        if (key := key_of(point, args)) in known:
            continue
        architecture = Architecture.from_json(point["architecture"])
        strides = tuple(block.stride for block in architecture.blocks)
        space = SearchSpace((height, width, channels), architecture.classes, strides=strides)
        known[key] = held_out_accuracy(
            space, data, architecture, steps=args.steps, seed=point["seed"], threads=args.threads
        )
        with args.out.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps([key, known[key]]) + "\n")
        print(f"{100 * known[key]:.2f} %, seed {point['seed']}, {architecture.describe()}", flush=True)
    return known


def key_of(point: dict[str, Any], args: argparse.Namespace) -> str:
    return f"{args.data}/{args.shrink} {args.images} {args.steps} {point['seed']} {json.dumps(point['architecture'])}"


def renewed(
    document: dict[str, Any], accuracies: dict[str, float], args: argparse.Namespace
) -> dict[str, Any]:
    """`document` with these accuracies and all that tables take from them."""
    points = [{**p, "accuracy": accuracies[key_of(p, args)]} for p in document["points"]]
    reference = tuple(document["hypervolume"]["reference"])
    best, volumes = [], {}
    for method in document["methods"]:
        own = [p for p in points if p["method"] == method]
        seeds = document["hypervolume"]["methods"][method]["seeds"]  # those whose searches all ended
        found = {
            seed: hypervolume(
                [(p["latency_ms"], p["accuracy"]) for p in own if p["seed"] == int(seed)], reference
            )
            for seed in seeds
        }
        volumes[method] = {"seeds": found, "n": len(found)}
    for limit in document["latency_ms"]:
        rows = {}
        for method in document["methods"]:
            there = [p["accuracy"] for p in points if (p["method"], p["limit_ms"]) == (method, limit)]
            rows[method] = {"n": len(there), **(asdict(interval(there)) if there else {})}
        best.append({"limit_ms": limit, "methods": rows})
    hypervolumes = {**document["hypervolume"], "methods": volumes}
    return {**document, "points": points, "best": best, "hypervolume": hypervolumes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", type=Path, required=True, help="folder with sweep.json")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--shrink", type=int, default=2, help="as the sweep had it")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--images", type=int, default=54000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    args = parser.parse_args()

    document = json.loads((args.sweep / "sweep.json").read_text(encoding="utf-8"))
    document = renewed(document, judged(document, args), args)
    print("\n" + table(document) + "\n")
    print(references(document))


if __name__ == "__main__":
    main()
