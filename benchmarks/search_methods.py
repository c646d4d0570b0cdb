"""Fronts of the search methods at equal cost, on a small part of a data set and a stand-in for the board's table.

    python benchmarks/search_methods.py --seeds 3 > benchmarks/results/search_methods.md

Every method gets the same settings, hence the cost of one EdgeNAS search (search/effort.py), once per latency limit;
the hypernetwork runs once, with the steps of all those runs together. The winner of each limit is
then trained from scratch by one and the same recipe and tested on images that no search saw. Latency comes from
multiply-accumulates and bytes moved (`Linear`), not from a device.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch

from pipeline.data import load
from pipeline.search import Candidate, SearchConfig, names, search
from pipeline.search.candidates import Judge
from pipeline.search.costs import build_tables, working_set_bytes
from pipeline.search.hypervolume import accuracy, hypervolume, interval
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, train_path
from pipeline.space import Architecture, Budgets, Cost, OpGraph, OpSpec
from pipeline.space.search_space import SearchSpace


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


def test_accuracy(
    space: SearchSpace, data: SimpleNamespace, architecture: Architecture, steps: int, seed: int
) -> float:
    """After training from scratch: the same batches and initial weights for every architecture of a seed."""
    judge = Judge(build_tables(space, Linear()), Linear(), Budgets())
    net, path = Supernet(space, 1000 + seed), judge.path(architecture)
    rng = np.random.default_rng([seed, 77])
    train_path(net, path, data, steps=steps, batch_size=64, lr=0.2, rng=rng, on_step=lambda _: None)
    held_out = SimpleNamespace(x_val=data.x_test, y_val=data.y_test)
    return Validation.of(held_out, len(data.x_test), seed).accuracy(net, path)


def within(candidates: list[Candidate], latency_ms: float) -> Candidate | None:
    """The most accurate of those trained alone that are fast enough."""
    fit = [c for c in candidates if c.proxy_accuracy is not None and c.cost.latency_ms <= latency_ms]
    return max(fit, key=accuracy, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limits", type=float, nargs="+", default=[2.5, 6.0])
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every number of steps")
    parser.add_argument("--shrink", type=int, default=2, help="take every n-th pixel")
    parser.add_argument("--methods", nargs="+", default=names())
    args = parser.parse_args()

    torch.set_num_threads(1)
    data = subset(args.data, 4000, 1000, 2000, args.shrink)
    shape = tuple(int(n) for n in data.x_train.shape[1:])
    space = SearchSpace(shape, 10, strides=(2, 1, 1), channels=(16, 24, 32))  # type: ignore[arg-type]
    steps = lambda n: max(1, round(n * args.scale))  # noqa: E731
    config = SearchConfig(
        warmup_steps=steps(40), steps=steps(60), batch_size=64, validation_batch_size=64, candidates=16,
        ranking_images=200, semifinalists=5, semifinal_steps=steps(10), finalists=2, proxy_steps=steps(40),
        threads=1,
    )  # fmt: skip
    reference = (max(args.limits) * 1.1, 0.1)
    print(f"{args.data}, {shape}, 3 blocks ({space.count():,} architectures), limits {args.limits} ms,")
    print(f"{args.seeds} seeds, reference {reference}; 95 % bootstrap intervals of the mean over seeds.\n")
    print("| method | hypervolume | test accuracy at each limit | CPU seconds of all searches of a seed |")
    print("|---|---|---|---|")
    for method in args.methods:
        volumes, seconds, reached = [], [], []
        settings = replace(config, method=method)
        if method == "hypernetwork":
            # One run for all limits gets what the others get for all of them together.
            runs = len(args.limits)
            settings = replace(
                settings, warmup_steps=runs * config.warmup_steps, steps=runs * config.steps,
                semifinal_steps=runs * config.semifinal_steps, finalists=runs * config.finalists,
                candidates=runs * config.candidates, temperature_end=0.2,
            )  # fmt: skip
        for seed in range(args.seeds):
            started, winners = time.process_time(), []
            once = method == "hypernetwork"
            if once:
                whole = search(space, data, Linear(), Budgets(max(args.limits)), settings, seed=seed)
                winners = [within(whole.candidates, limit) for limit in args.limits]
            else:
                for limit in args.limits:
                    found = search(space, data, Linear(), Budgets(limit), settings, seed=seed)
                    winners.append(found.candidates[0] if found.feasible else None)
            seconds.append(time.process_time() - started)
            points = [
                (c.cost.latency_ms, test_accuracy(space, data, c.architecture, steps(120), seed))
                for c in winners
                if c is not None
            ]
            volumes.append(hypervolume(points, reference))
            reached.append([max((a for t, a in points if t <= limit), default=0.0) for limit in args.limits])
        shown = ", ".join(f"{value * 100:.1f} %" for value in np.mean(reached, 0))
        print(f"| `{method}` | {interval(volumes)} | {shown} | {np.mean(seconds):.1f} |", flush=True)


if __name__ == "__main__":
    main()
