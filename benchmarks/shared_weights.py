"""Why do shared weights rank badly after a short training? One supernet, trained along freely drawn paths, looked at.

    python benchmarks/shared_weights.py --folder F --draw spread --steps 350 --identity 2
    python benchmarks/shared_weights.py --folder F --draw spread --steps 1200 --identity 2 --batch 48 --sandwich 2

Prints the accuracy of 30 architectures with the shared weights and Kendall's tau of it with their
multiply-accumulates, their number of skips, and their accuracy after trainings of their own from scratch
(`--reference` seeds, and their mean; kept in `--folder`: an interrupted run goes on, the next supernet is held against
the same ones). The agreement of two references says what noise allows. The supernet is kept as well: the same options
with another `--draw-seed` hold it against other architectures. `--centred` trains as the search does, around the
most probable path, with its architecture steps; `--tune N` adds the accuracy after N steps of each architecture's own
from the shared weights, and what `search.sharing.capacity` makes of it. Fashion-MNIST, every second pixel; nothing is
measured on a device.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from real_data import real
from search_methods import Linear

from pipeline.search import SearchConfig
from pipeline.search.candidates import ExactPath, Judge
from pipeline.search.costs import build_tables
from pipeline.search.edgenas import EdgeNas
from pipeline.search.methods import Task
from pipeline.search.ranking import agreement
from pipeline.search.sandwich import narrowest, widest
from pipeline.search.selection import capacity_bonus, own_accuracy
from pipeline.search.sharingconfig import SharingConfig
from pipeline.search.supernet import Supernet
from pipeline.search.targets import one_board
from pipeline.search.trainer import (
    GRADIENT_NORM,
    Validation,
    cosine,
    draw_batch,
    shared_step,
    train_path,
    weight_optimizer,
)
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.storage import write_text

BUDGETS = Budgets(parameters=38_000)  # the demo's; its others do not bind at 14x14
_UNIFORM, _SPREAD, _LONG, _FREE, _TUNE = 900, 901, 902, 7, 5
_BATCH, _SLACK = 96, 1.25


def uniform(judge: Judge, count: int, seed: int) -> list[ExactPath]:
    """Uniform over what the budget leaves: the draw of rank_correlation.py."""
    rng, found = np.random.default_rng([seed, _UNIFORM]), {}
    while len(found) < count:
        path = judge.path(judge.tables.space.random(rng))
        if judge.feasible(path):
            found[path] = None
    return list(found)


def varied(judge: Judge, rng: np.random.Generator, skips: float = 1.0) -> ExactPath:
    """A path with any share of skips (up to `skips`) and any greatest width: small networks come up, too."""
    space = judge.tables.space
    skip, share, widest = (
        space.ops.index("skip"),
        skips * rng.random(),
        int(rng.integers(1, len(space.channels) + 1)),
    )
    return judge.canonical(
        [
            (
                skip if rng.random() < share else int(rng.integers(len(space.ops) - 1)),
                int(rng.integers(widest)),
            )
            for _ in space.strides
        ]
    )


def spread(judge: Judge, count: int, seed: int) -> list[ExactPath]:
    """One in each of `count` geometric steps of multiply-accumulates, up to the most within the budget, from 1/20."""
    rng, found = np.random.default_rng([seed, _SPREAD]), []
    most = max(judge.macs(path) for path in uniform(judge, 100, seed))
    edges = np.geomspace(most / 20, most, count + 1)
    for low, high in pairwise(edges):
        while True:
            path = varied(judge, rng)
            if low < judge.macs(path) <= high and path not in found and judge.feasible(path):
                found.append(path)
                break
    return found


def reference(
    args: argparse.Namespace, space: SearchSpace, data: SimpleNamespace, paths: list[ExactPath], seed: int
) -> list[float]:
    """Accuracy of each path after a training from scratch; kept as it goes."""
    file = args.folder / f"truth-{args.draw}-{seed}-{args.reference_steps}.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    validation = Validation.of(data, len(data.x_val), 0)
    for path in paths:
        if (key := json.dumps(path)) not in known:
            net = Supernet(space, 1000 + seed)
            train_path(
                net, path, data, steps=args.reference_steps, batch_size=_BATCH, lr=SearchConfig().weight_lr,
                rng=np.random.default_rng([seed, _LONG]), on_step=lambda _: None,
            )  # fmt: skip
            known[key] = validation.accuracy(net, path)
            write_text(file, json.dumps(known) + "\n")
    return [known[json.dumps(path)] for path in paths]


def freely_trained(args: argparse.Namespace, judge: Judge, data: SimpleNamespace) -> Supernet:
    """Every step `paths` paths that depend on nothing, each on its part of the batch, or a sandwich on all of it."""
    space = judge.tables.space
    net, rng = Supernet(space, args.seed, args.identity), np.random.default_rng([args.seed, _FREE])
    optimizer = weight_optimizer(net, args.lr)

    def path() -> ExactPath:
        for _ in range(50):
            found = judge.path(space.random(rng)) if args.paths_from == "uniform" else varied(judge, rng, 0.9)
            if judge.roughly_within(list(found), _SLACK):
                break
        return found

    for step in range(args.steps):
        lr = cosine(args.lr, step, args.steps)
        x, y = draw_batch(data.x_train, data.y_train, args.batch, rng)
        if args.sandwich:
            inner = [path() for _ in range(args.sandwich)]
            ends = widest(judge, path(), _SLACK, rng), narrowest(judge, path())
            shared_step(net, optimizer, [ends[0], *inner, ends[1]], (x, y), lr, args.distill)
            continue
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        for images, labels in zip(x.chunk(args.paths), y.chunk(args.paths), strict=True):
            (F.cross_entropy(net(images, path()), labels) / args.paths).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
        optimizer.step()
    return net


def ceiling(references: Sequence[Sequence[float]]) -> float:
    """The tau with the mean of `references` that a score without error would have, if all were normal: their
    differences tell their noise."""
    values = np.array(references)
    noise = np.mean([np.var(a - b) / 2 for a, b in combinations(values, 2)]) / len(values)
    share = max(0.0, 1 - noise / np.var(values.mean(0)))
    return float(2 / np.pi * np.arcsin(np.sqrt(share)))


def shared(args: argparse.Namespace, judge: Judge, data: SimpleNamespace) -> Supernet:
    """The freely trained supernet of these options, from `--folder` where it was trained before."""
    names = ("steps", "paths", "paths_from", "lr", "identity", "batch", "sandwich", "distill", "seed")
    file = args.folder / ("net-" + "-".join(str(getattr(args, name)) for name in names) + ".pt")
    if file.is_file():
        net = Supernet(judge.tables.space, args.seed, args.identity)
        net.load_state_dict(torch.load(file, weights_only=True))
        return net
    started = time.process_time()
    net = freely_trained(args, judge, data)
    print(f"supernet: {time.process_time() - started:.0f} CPU seconds\n")
    torch.save(net.state_dict(), file)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--draw", choices=("uniform", "spread"), default="uniform")
    parser.add_argument("--architectures", type=int, default=30)
    parser.add_argument("--reference", type=int, nargs="*", default=[0])
    parser.add_argument("--reference-steps", type=int, default=450)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--centred", type=float, metavar="SCALE", help="factor on the search's own steps")
    parser.add_argument("--paths", type=int, default=1, help="of one step, without --centred")
    parser.add_argument("--batch", type=int, default=_BATCH)
    parser.add_argument("--sandwich", type=int, default=0, help="drawn paths between the ends; 0: none")
    parser.add_argument("--distill", type=float, default=SharingConfig().distill)
    parser.add_argument("--draw-seed", type=int, default=0)
    parser.add_argument("--paths-from", choices=("uniform", "varied"), default="varied")
    parser.add_argument("--lr", type=float, default=SearchConfig().weight_lr)
    parser.add_argument("--identity", type=float, default=SharingConfig().identity)
    parser.add_argument("--tune", type=int, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=2000, help="validation images for the shared weights")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    full = real("fashion_mnist")
    x_train, x_val = (np.ascontiguousarray(x[:, ::2, ::2]) for x in (full.x_train, full.x_val))
    data = SimpleNamespace(x_train=x_train, y_train=full.y_train, x_val=x_val, y_val=full.y_val, classes=10)
    space, cost = SearchSpace.for_input((14, 14, 1), 10), Linear()
    judge = Judge(build_tables(space, cost), cost, BUDGETS)
    paths = (uniform if args.draw == "uniform" else spread)(judge, args.architectures, args.draw_seed)

    config = SearchConfig(threads=1, weight_lr=args.lr, sharing=SharingConfig(args.identity))
    if args.centred:
        config = replace(
            config, warmup_steps=round(config.warmup_steps * args.centred), steps=round(config.steps * args.centred)
        )  # fmt: skip
        search = EdgeNas(Task.prepare(space, data, one_board(cost, BUDGETS), config, args.seed, None, None))
        search._train()
        net = search.net
    else:
        net = shared(args, judge, data)

    looked, everything = Validation.of(data, args.images, 0), Validation.of(data, 3000, 0)
    stages = {"shared weights": [looked.accuracy(net, path) for path in paths]}
    bonus = capacity_bonus(judge, config.sharing.capacity)
    for steps in args.tune:
        tuned = [
            own_accuracy(
                net, path, data, everything, config,
                steps=steps, rng=np.random.default_rng(_TUNE), on_step=lambda _: None,
            )
            for path in paths
        ]  # fmt: skip
        stages[f"own {steps} steps"] = tuned
        stages[f"own {steps} steps, with capacity"] = [
            a + bonus(p) for a, p in zip(tuned, paths, strict=True)
        ]
    others: dict[str, list[float]] = {
        "macs": [float(judge.macs(path)) for path in paths],
        "skips": [float(sum(space.ops[op] == "skip" for op, _ in path)) for path in paths],
    }
    truths = {f"reference {seed}": reference(args, space, data, paths, seed) for seed in args.reference}
    if len(truths) > 1:
        truths["mean reference"] = list(np.mean(list(truths.values()), axis=0))
    print(f"| {args.draw}, n = {len(paths)} | mean (min to max) | " + " | ".join([*others, *truths]) + " |")
    print("|---" * (2 + len(others) + len(truths)) + "|")
    for name, values in {**stages, "macs": others["macs"], **truths}.items():
        taus = [
            "" if name == other else f"{agreement(name, values, other, found).tau:+.2f}"
            for other, found in {**others, **truths}.items()
        ]
        shown = f"{np.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"
        print(f"| {name} | {shown} | " + " | ".join(taus) + " |")
    seeds = [f"reference {seed}" for seed in args.reference]
    for first, second in combinations(seeds, 2):
        print(f"\n{first} against {second}: {agreement(first, truths[first], second, truths[second])}")
    if len(seeds) > 1:
        print(
            f"a score without error and the mean reference: about {ceiling([truths[s] for s in seeds]):.2f}"
        )
    last = list(truths)[-1]
    for name, values in stages.items():
        print(f"\n{name} against {last}: {agreement(name, values, last, truths[last])}")


if __name__ == "__main__":
    main()
