"""Kendall's tau between accuracies with a supernet's weights and after trainings of their own: 30 architectures.

    python benchmarks/supernet_ranking.py --folder F --draw-seed 2 --steps 5000 --identity 2 --tune 30

Architectures are spread over sizes in equal ratios, from the largest of 100 drawn uniformly down to 1/40 of its
multiply-accumulates, without budgets. Space: the demo's blocks and strides; images: Fashion-MNIST, every second pixel,
or with `--data cifar10` CIFAR-10, brought to 16x16.
Trainings of their own (`--reference` seeds) and supernets are kept in `--folder`: an interrupted run goes on, and the
next supernet is held against the same ones. `--tune N` adds the accuracy after N steps of an architecture's own from
the shared weights, `--part` splits the work. Nothing is measured on a device.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fair_paths import fair_path
from real_data import real
from search_methods import Linear
from shared_weights import ceiling, varied
from torch import Tensor, nn

from pipeline.data.options import SizeOptions
from pipeline.search import SearchConfig
from pipeline.search.candidates import ExactPath, Judge
from pipeline.search.costs import build_tables
from pipeline.search.ranking import agreement
from pipeline.search.selection import own_accuracy
from pipeline.search.sharingconfig import SharingConfig
from pipeline.search.supernet import SuperBlock, Supernet
from pipeline.search.trainer import (
    Net,
    Validation,
    cosine,
    draw_batch,
    train_path,
    weight_optimizer,
    weight_step,
)
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.storage import write_text

_DRAW, _LONG, _FREE, _TUNE, _FAIR = 911, 912, 913, 914, 915
_KINDS = ("skip", "dw", "se", "ir")  # beginnings of operators' names: whose number is compared as well
_RANGE = 40  # largest over smallest number of multiply-accumulates


class Apart(nn.Module):
    """A block whose operators share no kernels: each has a super-block of which it is the only choice."""

    def __init__(self, space: SearchSpace, stride: int, identity: float) -> None:
        super().__init__()
        self.choices = nn.ModuleDict({op: SuperBlock(replace(space, ops=(op,)), stride) for op in space.ops})
        for block in self.choices.values():
            block.add_identity(identity)

    def forward(self, x: Tensor, op: str, channels: int) -> Tensor:
        y: Tensor = self.choices[op](x, op, channels)
        return y


def untrained(args: argparse.Namespace, space: SearchSpace) -> Supernet:
    net = Supernet(space, args.seed, args.identity)
    if args.kernels == "own":
        torch.manual_seed(args.seed)
        net.blocks = nn.ModuleList(Apart(space, stride, args.identity) for stride in space.strides)
    return net


def drawn(judge: Judge, count: int, seed: int) -> list[ExactPath]:
    """One in each of `count` equal ratios of multiply-accumulates."""
    rng, found = np.random.default_rng([seed, _DRAW]), []
    space = judge.tables.space
    most = max(judge.macs(judge.path(space.random(rng))) for _ in range(100))
    for low, high in pairwise(np.geomspace(most / _RANGE, most, count + 1)):
        while True:
            path = varied(judge, rng)
            if low < judge.macs(path) <= high:
                found.append(path)
                break
    return found


def reference(
    args: argparse.Namespace,
    data: SimpleNamespace,
    paths: Sequence[Any],
    seed: int,
    fresh: Callable[[int], Net],
) -> list[float | None]:
    """Accuracy of each path after a training from scratch in a net that `fresh` makes, in `--folder`; None where
    `--part` leaves it out."""
    options = (
        args.data,
        args.draw_seed,
        args.architectures,
        seed,
        args.reference_steps,
        args.reference_batch,
    )
    file = args.folder / f"own-{'-'.join(map(str, options))}.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    validation = Validation.of(data, len(data.x_val), 0)
    for path in [*paths[::2], *paths[1::2]]:  # of all sizes, should it be ended early
        if (key := json.dumps(path)) not in known and args.part != "supernet":
            started, net = time.process_time(), fresh(1000 + seed)
            train_path(
                net, path, data, steps=args.reference_steps, batch_size=args.reference_batch, lr=args.lr,
                rng=np.random.default_rng([seed, _LONG]), on_step=lambda _: None,
            )  # fmt: skip
            known[key] = validation.accuracy(net, path)
            print(f"{known[key]:.4f} {time.process_time() - started:.1f} s {path}", flush=True)
            write_text(file, json.dumps(known) + "\n")
    return [known.get(json.dumps(path)) for path in paths]


def show(rows: dict[str, list[float]], columns: Sequence[str], truths: Sequence[str]) -> None:
    """Means, ranges and taus with `columns` of all rows, as Markdown; below, what the noise of `truths` allows."""
    print(f"\n| n = {len(rows[columns[0]])} | mean (min to max) | tau with " + " | ".join(columns) + " |")
    print("|---" * (2 + len(columns)) + "|")
    for name, found in rows.items():
        taus = ["" if name == other else str(agreement(name, found, other, rows[other])) for other in columns]
        shown = f"{np.mean(found):.4g} ({min(found):.4g} to {max(found):.4g})"
        print(f"| {name} | {shown} | " + " | ".join(taus) + " |")
    if len(truths) > 1:
        print(f"\na score without error and the mean: about {ceiling([rows[s] for s in truths]):.2f}")
        for a, b in combinations(truths, 2):
            print(f"{a} with {b}: {agreement(a, rows[a], b, rows[b])}")


def shared(args: argparse.Namespace, judge: Judge, data: SimpleNamespace) -> Supernet:
    """The supernet of these options, trained or from `--folder`."""
    names = ("data", "kernels", "paths_from", "steps", "batch", "lr", "identity", "seed")
    file = args.folder / ("net-" + "-".join(str(getattr(args, name)) for name in names) + ".pt")
    net = untrained(args, judge.tables.space)
    if file.is_file():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net
    optimizer, rng = weight_optimizer(net, args.lr), np.random.default_rng([args.seed, _FREE])
    started = time.process_time()
    for step in range(args.steps):
        if args.paths_from == "fair":
            path = fair_path(judge, lambda n: np.random.default_rng([args.seed, _FAIR, n]), step, 1.0)
        else:
            path = judge.path(judge.tables.space.random(rng))
        batch = draw_batch(data.x_train, data.y_train, args.batch, rng)
        weight_step(net, optimizer, path, batch, cosine(args.lr, step, args.steps))
        if step % 500 == 499:
            print(f"step {step + 1}, {time.process_time() - started:.0f} CPU seconds", flush=True)
    torch.save(net.state_dict(), file)
    return net


def images(name: str) -> SimpleNamespace:
    """Training and validation images, a quarter of the pixels."""
    if name == "cifar10":
        full = real(name, options=SizeOptions((16, 16)))
        return SimpleNamespace(
            x_train=full.x_train, y_train=full.y_train, x_val=full.x_val, y_val=full.y_val, classes=10
        )
    full = real(name)
    x_train, x_val = (np.ascontiguousarray(x[:, ::2, ::2]) for x in (full.x_train, full.x_val))
    return SimpleNamespace(x_train=x_train, y_train=full.y_train, x_val=x_val, y_val=full.y_val, classes=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", choices=("fashion_mnist", "cifar10"), default="fashion_mnist")
    parser.add_argument("--architectures", type=int, default=30)
    parser.add_argument("--draw-seed", type=int, default=0)
    parser.add_argument("--reference", type=int, nargs="*", default=[0])
    parser.add_argument("--reference-steps", type=int, default=400)
    parser.add_argument("--reference-batch", type=int, default=32)
    parser.add_argument("--kernels", choices=("shared", "own"), default="shared")
    parser.add_argument("--paths-from", choices=("fair", "uniform"), default="fair")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--identity", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0, help="of the supernet")
    parser.add_argument("--tune", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=3000, help="validation images for the shared weights")
    parser.add_argument("--part", choices=("reference", "supernet", "both"), default="both")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(1)
    data = images(args.data)
    height, width, channels = map(int, data.x_train.shape[1:])
    space, cost = SearchSpace((height, width, channels), 10), Linear()
    judge = Judge(build_tables(space, cost), cost, Budgets())
    paths = drawn(judge, args.architectures, args.draw_seed)
    fresh = partial(Supernet, space)
    truths = {f"reference {seed}": reference(args, data, paths, seed, fresh) for seed in args.reference}
    if args.part == "reference":
        return

    net, everything = shared(args, judge, data), Validation.of(data, args.images, 0)
    config = SearchConfig(threads=1, weight_lr=args.lr, batch_size=args.batch)
    size = np.log2([judge.macs(path) for path in paths])
    scores = {"shared weights": np.array([everything.accuracy(net, path) for path in paths])}
    for steps in args.tune:
        scores[f"own {steps} steps"] = np.array([
            own_accuracy(net, path, data, everything, config, steps=steps,
                         rng=np.random.default_rng(_TUNE), on_step=lambda _: None)
            for path in paths
        ])  # fmt: skip
    scores |= {
        f"{name}, with capacity": values + SharingConfig().capacity * size for name, values in scores.items()
    }
    scores["macs"] = size
    for kind in _KINDS:
        scores[kind] = np.array([sum(space.ops[op].startswith(kind) for op, _ in p) for p in paths], float)
    kept = {name: list(found) for name, found in {**scores, **truths}.items()}
    options = (args.data, args.draw_seed, args.kernels, args.paths_from, args.steps, args.identity, args.seed)
    write_text(args.folder / f"scores-{'-'.join(map(str, options))}.json", json.dumps(kept) + "\n")
    known = list(range(len(paths)))
    if args.part != "supernet":
        known = [i for i in known if all(found[i] is not None for found in truths.values())]
    values = {name: [float(found[i] or 0) for i in known] for name, found in truths.items()}
    if args.part == "supernet":
        values = {}
    elif len(values) > 1:
        values["mean"] = list(np.mean(list(values.values()), axis=0))
    rows = {name: [float(found[i]) for i in known] for name, found in scores.items()} | values
    columns = ["macs", *(kind for kind in _KINDS), *values]
    show(rows, columns, list(truths) if args.part != "supernet" else [])


if __name__ == "__main__":
    main()
