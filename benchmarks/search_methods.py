"""Fronts of the search methods at equal cost, on a small part of a data set and a stand-in for the board's table.

    python benchmarks/search_methods.py --seeds 5 --scale 0.5 --out sweeps/methods

A sweep (docs/search.md) without a run file: every method gets the same settings, hence the cost of one EdgeNAS search,
once per latency limit. The winner of each search is then trained from scratch by one and the same recipe and tested on
images that no search saw. Latency comes from multiply-accumulates and bytes moved (`Linear`), not from a device. It
goes on where it was interrupted; the page is in the `--out` folder. For searches of useful length: `edgenas sweep`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.data import load
from pipeline.progress import Reporter
from pipeline.report import write_sweep
from pipeline.search import SearchConfig, names
from pipeline.search.costs import working_set_bytes
from pipeline.search.sharingconfig import SharingConfig
from pipeline.space import Budgets, Cost, OpGraph, OpSpec
from pipeline.space.search_space import SearchSpace
from pipeline.sweep import Bench, Sweep, grid, summarize


@dataclass
class Linear:
    """5 cycles a multiply-accumulate and 6 a byte written, at 168 MHz."""

    layer_overhead_ms: float = 0.003
    overhead_ms: float = 0.01

    def op_latency_ms(self, op: OpSpec) -> float:
        return (5 * op.macs + 6 * op.out_bytes) / 168e3

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        latency = sum(self.op_latency_ms(n.op) + self.layer_overhead_ms for n in graph.nodes)
        live = working_set_bytes(graph.nodes, graph.tensor_bytes[0])
        return Cost(latency + self.overhead_ms, live + 4096, 12_000 + parameters, parameters)


def subset(name: str, train: int, validation: int, test: int, shrink: int) -> SimpleNamespace:
    """The first images of each split, every `shrink`-th pixel."""
    full = load(name)
    out = {}
    for split, count in (("train", train), ("val", validation), ("test", test)):
        out[f"x_{split}"] = np.ascontiguousarray(getattr(full, f"x_{split}")[:count, ::shrink, ::shrink])
        out[f"y_{split}"] = getattr(full, f"y_{split}")[:count]
    return SimpleNamespace(**out)


def table(document: dict[str, Any]) -> str:
    """One row a method, as Markdown."""
    limits = " and ".join(f"{limit:g} ms" for limit in document["latency_ms"])
    lines = [
        f"| method | hypervolume (ms), 95 % interval | seeds | test accuracy at {limits} | passes of those planned "
        "| CPU seconds a search |",
        "|---|---|---|---|---|---|",
    ]
    for method in document["methods"]:
        volume, effort = document["hypervolume"]["methods"][method], document["effort"]["methods"].get(method)
        area = f"{volume['mean']:.3f} [{volume['low']:.3f}, {volume['high']:.3f}]" if volume["n"] else "none"
        rows = [row["methods"][method] for row in document["best"]]
        reached = ", ".join(
            f"{100 * row['mean']:.1f} % (n = {row['n']})" if row["n"] else "none" for row in rows
        )
        cost = (
            f"{100 * effort['share_of_planned']:.0f} % | {effort['cpu_seconds']:.1f}"
            if effort
            else "none | none"
        )
        lines.append(f"| `{method}` | {area} | {volume['n']} | {reached} | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limits", type=float, nargs="+", default=[2.5, 6.0])
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every number of steps")
    parser.add_argument("--shrink", type=int, default=2, help="take every n-th pixel")
    parser.add_argument(
        "--judge-steps", type=int, default=120, help="of the winners' training, before --scale"
    )
    parser.add_argument(
        "--identity", type=float, default=SharingConfig().identity, help="search.sharing.identity"
    )
    parser.add_argument(
        "--capacity", type=float, default=SharingConfig().capacity, help="search.sharing.capacity"
    )
    parser.add_argument("--methods", nargs="+", default=names())
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    data = subset(args.data, 4000, 1000, 2000, args.shrink)
    shape = tuple(int(n) for n in data.x_train.shape[1:])
    space = SearchSpace(shape, 10, strides=(2, 1, 1), channels=(16, 24, 32))  # type: ignore[arg-type]
    steps = lambda n: max(1, round(n * args.scale))  # noqa: E731
    config = SearchConfig(
        warmup_steps=steps(40), steps=steps(60), batch_size=64, validation_batch_size=64, candidates=16,
        ranking_images=200, semifinalists=5, semifinal_steps=steps(10), finalists=2, proxy_steps=steps(40),
        sharing=SharingConfig(args.identity, args.capacity),
    )  # fmt: skip
    bench = Bench(
        space,
        data,
        Linear(),
        "5 cycles a MAC, 6 a byte",
        Budgets(),
        config,
        judge_steps=steps(args.judge_steps),
    )
    sweep = Sweep(bench, grid(args.methods, range(args.seeds), args.limits), args.out, Reporter())
    sweep.run(args.workers, 1)
    document = summarize(sweep, f"{args.data}, {shape}", "stand-in at 168 MHz")
    write_sweep(args.out, document)
    settings = f"--seeds {args.seeds} --scale {args.scale} --judge-steps {args.judge_steps}"
    settings += f" --identity {args.identity:g} --capacity {args.capacity:g}"
    print(
        f"`python benchmarks/search_methods.py {settings}`: {args.data}, {shape}, {len(data.x_train):,} training"
    )
    print(f"images, 3 blocks ({space.count():,} architectures), {document['accuracy']['what']},")
    print(
        f"{document['accuracy']['images']:,} test images; accuracies measured, latencies modelled. Intervals: bootstrap"
    )
    print("over seeds. Passes: counted while searching, of what one EdgeNAS search plans.\n")
    print(table(document))
    reasons = Counter((f["method"], f["latency_ms"], f["reason"]) for f in document["failures"])
    for (method, limit, reason), times in reasons.items():
        print(f"\n`{method}`, {limit:g} ms, {times} times: {reason}")


if __name__ == "__main__":
    main()
