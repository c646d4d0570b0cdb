"""Fronts of the search methods at equal cost, on a small part of a data set.

    python benchmarks/search_methods.py --board qemu-cortex-m4 --blocks 5 --limits 6 12 24 --out sweeps/methods

A sweep (docs/search.md) without a run file: every method gets the same settings, hence the cost of one EdgeNAS search,
once per latency limit. The winner of each search is then trained from scratch by one and the same recipe and tested on
images that no search saw. Latency comes from the shipped table of `--board`, without one from multiply-accumulates and
bytes moved (`Linear`) and a space of 3 blocks. It goes on where it was interrupted; the page is in the `--out` folder.
`--guide macs` searches by multiply-accumulates instead of the table (the ablation) and says by how much what the
distribution alone chose breaks the limits. For searches of useful length: `edgenas sweep`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from real_data import real

from pipeline.boards import load_board
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.progress import Reporter
from pipeline.report import write_sweep
from pipeline.search import SearchConfig, names
from pipeline.search.ablation import AblationConfig
from pipeline.search.costs import working_set_bytes
from pipeline.search.hypervolume import hypervolume, interval
from pipeline.search.selectionconfig import SelectionConfig
from pipeline.search.sharingconfig import SharingConfig
from pipeline.space import Budgets, Cost, OpGraph, OpSpec
from pipeline.space.search_space import SearchSpace
from pipeline.sweep import Bench, Sweep, grid, summarize
from pipeline.sweep.grid import seed_list

_SEARCHED = 4000  # training images that searches see, unless --search-images says otherwise


# A search of seconds; `--settings default` takes those of `[search]`, minutes at 14x14 pixels.
SMALL = SearchConfig(
    warmup_steps=20, steps=40, batch_size=64, validation_batch_size=64, candidates=16, ranking_images=200,
    semifinalists=6, semifinal_steps=20, finalists=4, proxy_steps=40,
)  # fmt: skip

# The default's cost (0.1 % more), most of it in contests: a third of the supernet's steps, the first cut drawn, and
# most of the semifinal in the final.
CONTESTS = SearchConfig(
    warmup_steps=100, steps=150, semifinalists=10, finalists=7,
    selection=SelectionConfig(proxies=(), rounds=2),
)  # fmt: skip
SETTINGS = {"small": SMALL, "default": SearchConfig(), "contests": CONTESTS}


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
    full = real(name)
    out = {}
    for split, count in (("train", train), ("val", validation), ("test", test)):
        out[f"x_{split}"] = np.ascontiguousarray(getattr(full, f"x_{split}")[:count, ::shrink, ::shrink])
        out[f"y_{split}"] = getattr(full, f"y_{split}")[:count]
    return SimpleNamespace(**out)


def nadir(document: dict[str, Any]) -> tuple[float, float]:
    """A reference just beyond the worst of all winners, a tenth of their range: what the fronts differ in decides.

    The sweep's own is chance, from which most of the area is what every front has in common, and most of the rest the
    latency that the fastest winner happens to leave unused.
    """
    latencies = [p["latency_ms"] for p in document["points"]]
    accuracies = [p["accuracy"] for p in document["points"] if p["accuracy"] is not None]
    return (
        max(latencies) + 0.1 * (max(latencies) - min(latencies)),
        min(accuracies) - 0.1 * (max(accuracies) - min(accuracies)),
    )


def volumes(document: dict[str, Any], method: str, reference: tuple[float, float]) -> dict[int, float]:
    """Hypervolume of each seed whose searches all ended."""
    return {
        int(seed): hypervolume(
            [
                (p["latency_ms"], p["accuracy"])
                for p in document["points"]
                if p["method"] == method and p["seed"] == int(seed) and p["accuracy"] is not None
            ],
            reference,
        )
        for seed in document["hypervolume"]["methods"][method]["seeds"]
    }


def references(document: dict[str, Any]) -> str:
    """Hypervolumes with both references, and EdgeNAS' lead seed by seed, as Markdown."""
    both = document["hypervolume"]["reference"], nadir(document)
    heads = [
        f"from {ms:.3g} ms and {100 * floor:.1f} % | each seed | lead of the first" for ms, floor in both
    ]
    lines = [f"| hypervolume (ms), 95 % intervals | {' | '.join(heads)} |", "|---|" + "---|" * 6]
    first = document["methods"][0]
    for method in document["methods"]:
        cells = []
        for reference in both:
            own, base = volumes(document, method, reference), volumes(document, first, reference)
            if not own:
                cells += ["none"] * 3
                continue
            cells += [str(interval(list(own.values()))), ", ".join(f"{v:.3f}" for v in own.values())]
            lead = [base[seed] - own[seed] for seed in own if seed in base]
            cells.append(str(interval(lead)) if method != first else "")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def beyond(sweep: Sweep) -> str:
    """By how much the distribution's most probable architectures, before any repair, miss their limits."""
    lines = []
    for limit in dict.fromkeys(job.latency_ms for job in sweep.jobs):
        found = []
        for job in sweep.jobs:
            entry = sweep.entry(job)
            relaxed = entry["result"].get("relaxed") if entry and job.method == "edgenas" else None
            if relaxed and job.latency_ms == limit:
                found.append(100 * (relaxed["cost"]["latency_ms"] / limit - 1))
        if found:
            each = ", ".join(f"{v:+.1f}" for v in found)
            lines.append(f"{limit:g} ms: {each} % (mean {np.mean(found):+.1f} %)")
    return "; ".join(lines)


def table(document: dict[str, Any]) -> str:
    """One row a method, as Markdown."""
    limits = ", ".join(f"{limit:g} ms" for limit in document["latency_ms"])
    lines = [
        f"| method | seeds | test accuracy at {limits}, 95 % intervals | mean latency of the winners | passes of those "
        "planned | CPU seconds a search |",
        "|---|---|---|---|---|---|",
    ]
    for method in document["methods"]:
        volume, effort = document["hypervolume"]["methods"][method], document["effort"]["methods"].get(method)
        rows = [row["methods"][method] for row in document["best"]]
        reached = ", ".join(
            f"{100 * r['mean']:.1f} [{100 * r['low']:.1f}, {100 * r['high']:.1f}] %" if r["n"] else "none"
            for r in rows
        )
        spent = []
        for limit in document["latency_ms"]:
            own = [
                p["latency_ms"]
                for p in document["points"]
                if p["method"] == method and p["limit_ms"] == limit
            ]
            spent.append(f"{np.mean(own):.2f}" if own else "none")
        cost = (
            f"{100 * effort['share_of_planned']:.0f} % | {effort['cpu_seconds']:.1f}"
            if effort
            else "none | none"
        )
        lines.append(f"| `{method}` | {volume['n']} | {reached} | {', '.join(spent)} ms | {cost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--board", default="", help="whose shipped table to use")
    parser.add_argument("--blocks", type=int, default=7, help="of the space, with --board")
    parser.add_argument("--guide", default="table", choices=("table", "macs"))
    parser.add_argument("--settings", default="small", choices=tuple(SETTINGS), help="of the searches")
    parser.add_argument(
        "--search-images", type=int, default=_SEARCHED, help="training images that searches see"
    )
    parser.add_argument("--judge-seeds", type=int, default=1, help="trainings of each winner")
    parser.add_argument("--judge-images", type=int, default=4000, help="of the winners' training")
    parser.add_argument("--validation-images", type=int, default=1000, help="that searches see")
    parser.add_argument("--test-images", type=int, default=2000)
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

    train = max(args.search_images, args.judge_images)
    data = subset(args.data, train, args.validation_images, args.test_images, args.shrink)
    height, width, channels = map(int, data.x_train.shape[1:])
    shape = (height, width, channels)
    cost: Linear | CostModel
    if args.board:
        space = SearchSpace.for_input(shape, 10, blocks=args.blocks)
        table_of = Lut.load(Path("luts") / args.board / "edgenas")
        cost, identity = CostModel(load_board(args.board), table_of), f"{args.board}, table {table_of.key}"
    else:
        space = SearchSpace(shape, 10, strides=(2, 1, 1), channels=(16, 24, 32))
        cost, identity = Linear(), "5 cycles a MAC, 6 a byte"
    steps = lambda n: max(1, round(n * args.scale))  # noqa: E731
    config = SETTINGS[args.settings]
    config = replace(
        config, warmup_steps=steps(config.warmup_steps), steps=steps(config.steps),
        semifinal_steps=steps(config.semifinal_steps), proxy_steps=steps(config.proxy_steps),
        sharing=SharingConfig(args.identity, args.capacity), ablation=AblationConfig(guide=args.guide),
    )  # fmt: skip
    bench = Bench(
        space,
        data,
        cost,
        identity,
        Budgets(),
        config,
        judge_steps=steps(args.judge_steps),
        judge_seeds=args.judge_seeds,
        search_images=args.search_images,
    )
    sweep = Sweep(bench, grid(args.methods, seed_list(args.seeds), args.limits), args.out, Reporter())
    sweep.run(args.workers, 1)
    document = summarize(sweep, f"{args.data}, {shape}", args.board or "stand-in at 168 MHz")
    write_sweep(args.out, document)
    print(
        f"{args.data}, {shape}, searches on {args.search_images:,} training images, {len(space.strides)} blocks"
        f" ({space.count():,}"
    )
    print(f"architectures), latency by {identity}; {document['accuracy']['what']},")
    print(
        f"{document['accuracy']['images']:,} test images; accuracies measured, latencies modelled. Intervals: bootstrap"
    )
    print("over seeds. Passes: counted while searching, of what one EdgeNAS search plans.\n")
    print(table(document) + "\n")
    print(references(document))
    if missed := beyond(sweep):
        print(f"\nEdgeNAS' most probable architecture before repair, latency beyond the limit: {missed}")
    reasons = Counter((f["method"], f["latency_ms"], f["reason"]) for f in document["failures"])
    for (method, limit, reason), times in reasons.items():
        print(f"\n`{method}`, {limit:g} ms, {times} times: {reason}")


if __name__ == "__main__":
    main()
