"""Kendall's tau between accuracies with a supernet's weights and after trainings of their own, in the space of cells.

    python benchmarks/cell_ranking.py --folder F --draw-seed 2 --steps 40000 --reference 0 1

The published space (three cells of four nodes, 30 edges); Fashion-MNIST, every second pixel, or with `--data cifar10`
CIFAR-10, brought to 16x16. An architecture is drawn as the hypernetwork's conditions are: shares S of the operators
uniformly from the simplex, then an operator for every edge by S; so are the paths of the supernet's steps. Accuracies
are kept in `--folder`: an interrupted run goes on. `--part` splits the work. `--searched N` adds the weights that a
hypernetwork's search of the default length leaves, and N steps of each architecture's own from them and from scratch.
No budgets, nothing on a device.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from edge_stage import OF_CELLS, Linear
from supernet_ranking import images, reference, show

from pipeline.search import SearchConfig, search
from pipeline.search.cell_costs import EdgePath
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.sharingconfig import SharingConfig
from pipeline.search.trainer import Validation, cosine, draw_batch, train_path, weight_optimizer, weight_step
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.storage import write_text

_DRAW, _FREE, _OWN = 911, 913, 77
_LOOKS = 5  # at the shared weights while they learn


def draw(space: CellSpace, rng: np.random.Generator) -> EdgePath:
    shares = rng.dirichlet(np.ones(len(space.ops)))
    return tuple(int(op) for op in rng.choice(len(space.ops), size=space.positions, p=shares))


def shared(
    args: argparse.Namespace, space: CellSpace, data: SimpleNamespace, paths: list[EdgePath]
) -> dict[str, list[float]]:
    """Accuracies with the shared weights after each fifth of the steps, and CPU seconds in the name."""
    options = (args.data, args.draw_seed, args.architectures, args.steps, args.batch, args.lr, args.seed)
    file = args.folder / f"shared-{'-'.join(map(str, options))}.json"
    if file.is_file():
        found: dict[str, list[float]] = json.loads(file.read_text(encoding="utf-8"))
        return found
    net, validation = CellSupernet(space, args.seed), Validation.of(data, args.images, 0)
    optimizer, rng = weight_optimizer(net, args.lr), np.random.default_rng([args.seed, _FREE])
    found, spent = {}, 0.0
    for step in range(args.steps):
        started = time.process_time()
        batch = draw_batch(data.x_train, data.y_train, args.batch, rng)
        weight_step(net, optimizer, draw(space, rng), batch, cosine(args.lr, step, args.steps))
        spent += time.process_time() - started
        if (step + 1) % max(1, args.steps // _LOOKS) == 0:
            name = f"shared weights, {step + 1:,} steps, {spent:.0f} CPU s"
            found[name] = [validation.accuracy(net, path) for path in paths]
            print(f"{name}: {np.mean(found[name]):.4f}", flush=True)
    write_text(file, json.dumps(found) + "\n")
    torch.save(net.state_dict(), file.with_suffix(".pt"))
    return found


def searched(
    args: argparse.Namespace, space: CellSpace, data: SimpleNamespace, paths: list[EdgePath]
) -> dict[str, list[float]]:
    """With the weights of a hypernetwork's search, and after `--searched` steps from them or from scratch."""
    seed, steps = args.search_seed, args.searched
    config = SearchConfig(
        method="hypernetwork",
        hyper=OF_CELLS,
        candidates=4,
        semifinalists=1,
        proxy_steps=1,
        threads=1,
        device="cpu",
    )
    name = f"searched-{args.data}-{args.draw_seed}-{args.architectures}-{seed}"
    checkpoint, file = args.folder / f"{name}.pt", args.folder / f"{name}-{steps}.json"
    search(space, data, Linear(), Budgets(latency_ms=100.0), config, seed=seed, checkpoint=checkpoint)
    weights = torch.load(checkpoint, weights_only=True)["state"]["net"]
    validation = Validation.of(data, len(data.x_val), 0)
    names = ("the search's weights", f"{steps} steps from them", f"{steps} steps from scratch")
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for path in paths:
        if (key := json.dumps(path)) in known:
            continue
        trained, fresh = CellSupernet(space, seed), CellSupernet(space, 1000 + seed)
        trained.load_state_dict(weights)
        found = [validation.accuracy(trained, path)]
        for net in (trained, fresh):
            train_path(
                net, path, data, steps=steps, batch_size=config.batch_size, lr=config.weight_lr,
                rng=np.random.default_rng([seed, _OWN]), on_step=lambda _: None,
            )  # fmt: skip
            found.append(validation.accuracy(net, path))
        known[key] = found
        write_text(file, json.dumps(known) + "\n")
    return {name: [known[json.dumps(path)][i] for path in paths] for i, name in enumerate(names)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", choices=("fashion_mnist", "cifar10"), default="fashion_mnist")
    parser.add_argument("--architectures", type=int, default=30)
    parser.add_argument("--draw-seed", type=int, default=0)
    parser.add_argument("--reference", type=int, nargs="*", default=[0], help="seeds")
    parser.add_argument("--reference-steps", type=int, default=1000)
    parser.add_argument("--reference-batch", type=int, default=96)
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0, help="of the supernet")
    parser.add_argument("--images", type=int, default=6000, help="validation images for the shared weights")
    parser.add_argument("--searched", type=int, default=0, help="steps after a search; 0: no search")
    parser.add_argument("--search-seed", type=int, default=3)
    parser.add_argument("--part", choices=("reference", "supernet", "both"), default="both")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(1)
    data = images(args.data)
    height, width, channels = map(int, data.x_train.shape[1:])
    space, rng = CellSpace((height, width, channels), 10), np.random.default_rng([args.draw_seed, _DRAW])
    paths = [draw(space, rng) for _ in range(args.architectures)]
    fresh = partial(CellSupernet, space)
    truths = {f"reference {seed}": reference(args, data, paths, seed, fresh) for seed in args.reference}
    scores = shared(args, space, data, paths) if args.part != "reference" else {}
    if args.part != "both":
        return

    size = np.log2([space.build(path).lower().macs for path in paths])
    last = list(scores)[-1]
    scores["the last, with capacity"] = [
        a + SharingConfig().capacity * s for a, s in zip(scores[last], size, strict=True)
    ]
    if args.searched:
        scores |= searched(args, space, data, paths)
    scores["macs"] = size.tolist()
    for i, op in enumerate(space.ops):
        scores[op] = [float(path.count(i)) for path in paths]
    values = {name: [float(v) for v in found if v is not None] for name, found in truths.items()}
    if len(values) > 1:
        values["mean"] = list(np.mean(list(values.values()), axis=0))
    rows = scores | values
    columns = ["macs", "pool", *values]
    show(rows, columns, list(truths))


if __name__ == "__main__":
    main()
