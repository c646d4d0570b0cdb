"""The edge stage against a full new search: accuracy and CPU time, for shifted data and for changed limits.

    python benchmarks/edge_stage.py --seeds 2 --journal edge.jsonl > edge_stage.txt
    python benchmarks/edge_stage.py --seeds 2 --journal edge.jsonl --cells 8 16 32

One cloud search on a small part of Fashion-MNIST, then, for every change, the edge stage (`search/edge.py`) and a
whole new search on the changed data or limits, both on one thread. The architectures that come out are trained by the
same recipe (float, then quantization-aware), the adapted one from the weights it inherits, the new one from scratch,
and the quantized networks are tested on the whole test split, which no search saw. With `--cells` the searches are the
hypernetwork's in cells of that many channels each, otherwise EdgeNAS' in blocks. "Unadapted" is the cloud's
architecture, trained on the cloud's data. Latency and memory come from multiply-accumulates and live bytes (`Linear`),
not from a device. Each comparison is a line of the journal and is not done again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_data import real

from pipeline.data import DataSet
from pipeline.data.shift import ShiftConfig, shifted
from pipeline.export import to_int8
from pipeline.search import SearchConfig, search
from pipeline.search.adaptation import adapt
from pipeline.search.adaptconfig import AdaptConfig
from pipeline.search.cloud import Cloud
from pipeline.search.costs import working_set_bytes
from pipeline.search.effort import search_passes
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.result import SearchResult
from pipeline.space import Budgets, Cost, OpGraph, OpSpec
from pipeline.space.architecture import lower
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.train import QatResult, TrainConfig, train_qat

BATCH = 64
KB64 = 65_536
# with three operators S would decide alone: the weights of examples/fashion_mnist_cells.toml
OF_CELLS = HyperConfig(condition_weight=10.0, spend_weight=3.0)
CHANGES = (
    "64 KiB less SRAM", "half the clock", "5 of 10 classes", "rotated by 30 degrees", "noise of 0.2",
)  # fmt: skip


@dataclass
class Linear:
    """5 cycles a multiply-accumulate and 6 a byte written; live tensors and 4 KiB of SRAM."""

    clock_hz: float = 168e6
    layer_overhead_ms: float = 0.003
    overhead_ms: float = 0.01

    def op_latency_ms(self, op: OpSpec) -> float:
        return (5 * op.macs + 6 * op.out_bytes) / self.clock_hz * 1e3

    def exit_ms(self, logits: int) -> float:
        return 0.0  # these spaces have no exits

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        latency = sum(self.op_latency_ms(n.op) + self.layer_overhead_ms for n in graph.nodes)
        live = working_set_bytes(graph.nodes, graph.tensor_bytes[0])
        return Cost(latency + self.overhead_ms, live + 4096, 12_000 + parameters, parameters)


def part(full: DataSet, train: int, validation: int, test: int) -> DataSet:
    """The first images of each split, every second pixel."""
    arrays: dict[str, Any] = {}
    for split, count in (("train", train), ("val", validation), ("test", test)):
        arrays[f"x_{split}"] = np.ascontiguousarray(getattr(full, f"x_{split}")[:count, ::2, ::2])
        arrays[f"y_{split}"] = getattr(full, f"y_{split}")[:count]
    return replace(full, **arrays)


def read_journal(path: Path, settings: str) -> dict[tuple[int, str], list[float]]:
    """The rows of `path` under these settings, by (seed, change).

    A row: accuracy adapted, new, unadapted; CPU s adapted, new; part of the images; whether unadapted fits.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    return {(r["seed"], r["change"]): r["row"] for r in records if r["settings"] == settings}


def smallest_sram(space: SearchSpace | CellSpace) -> int:
    """Of the narrowest architectures with one operator throughout, which have the smallest tensors."""
    if isinstance(space, CellSpace):
        uniform = [space.build((op,) * space.positions) for op in range(len(space.ops))]
    else:
        uniform = [space.build([(op, space.channels[0])] * len(space.strides)) for op in space.ops]
    return min(Linear().evaluate(lower(each), 0).sram_bytes for each in uniform)


def tested(trained: QatResult, data: DataSet) -> float:
    """Accuracy of the quantized network on the test split of `data`."""
    outputs = trained.network.int8_outputs(to_int8(data.x_test))
    return float((outputs.argmax(1) == data.y_test).mean())


@dataclass
class Setting:
    """What every comparison has in common."""

    space: SearchSpace | CellSpace
    public: DataSet
    config: SearchConfig
    options: AdaptConfig
    training: TrainConfig
    deadline_ms: float

    def key(self, test: int) -> str:
        parts = (self.space, self.config, self.options, self.training, len(self.public.x_train), test)
        return repr((*parts, self.deadline_ms))


@dataclass
class Found:
    """One cloud search: what the edge stage starts from, and its architecture trained on the cloud's data."""

    setting: Setting
    seed: int
    result: SearchResult
    cloud: Cloud

    @classmethod
    def search(cls, setting: Setting, seed: int) -> Found:
        config, public = setting.config, setting.public
        with tempfile.TemporaryDirectory() as folder:
            file, budgets = Path(folder) / "cloud.pt", Budgets(setting.deadline_ms, 2 * KB64)
            started = time.process_time()
            result = search(setting.space, public, Linear(), budgets, config, seed=seed, checkpoint=file)
            cloud_s = time.process_time() - started
            total = config.warmup_steps + config.steps
            cloud = Cloud.load(file, f"seed {seed}", config.temperature_end, total, len(public.x_val))
        assert result.architecture is not None
        print(
            f"seed {seed}: cloud {cloud_s:.1f} s, {result.architecture.describe()}, {result.cost}",
            file=sys.stderr,
        )
        return cls(setting, seed, result, cloud)

    @functools.cached_property
    def unadapted(self) -> QatResult:
        assert self.result.architecture is not None
        return train_qat(self.result.architecture, self.setting.public, self.setting.training, seed=self.seed)

    def cases(self) -> dict[str, tuple[ShiftConfig, Budgets, Linear]]:
        """The changes: of the data, of the budgets, of the device."""
        assert self.result.cost is not None
        # After 64 KiB are taken away 1 KiB less is left than the cloud's choice needs, where the space has that.
        left = max(self.result.cost.sram_bytes - 1024, smallest_sram(self.setting.space))
        deadline = self.setting.deadline_ms
        plain = Budgets(deadline, left + KB64)
        return {
            "64 KiB less SRAM": (ShiftConfig(), Budgets(deadline, left), Linear()),
            "half the clock": (ShiftConfig(), plain, Linear(clock_hz=84e6)),
            "5 of 10 classes": (ShiftConfig(keep_classes=(0, 2, 4, 6, 8)), plain, Linear()),
            "rotated by 30 degrees": (ShiftConfig(rotate_degrees=30), plain, Linear()),
            "noise of 0.2": (ShiftConfig(noise=0.2), plain, Linear()),
        }

    def compare(self, shift: ShiftConfig, budgets: Budgets, cost: Linear) -> dict[str, Any]:
        """A line of the journal, less what it is about."""
        setting, seed = self.setting, self.seed
        config, training = setting.config, setting.training
        local = shifted(setting.public, shift, seed=seed)
        started = time.process_time()
        outcome = adapt(setting.space, local, cost, budgets, config, setting.options, self.cloud, seed=seed)
        edge_s = time.process_time() - started
        started = time.process_time()
        anew = search(setting.space, local, cost, budgets, config, seed=seed)
        full_s = time.process_time() - started
        first, ours, theirs = self.result.architecture, outcome.result.architecture, anew.architecture
        assert first is not None and self.result.cost is not None
        if ours is None or theirs is None:
            raise SystemExit(f"nothing found: {outcome.result.reason or anew.reason}")
        fits = not budgets.violations(cost.evaluate(lower(first), self.result.cost.parameters))
        adapted = tested(train_qat(ours, local, training, seed=seed, start=outcome.weights), local)
        new = tested(train_qat(theirs, local, training, seed=seed), local)
        passes = outcome.spending.passes / search_passes(config, setting.space, len(local.x_val))
        return {
            "row": [adapted, new, tested(self.unadapted, local), edge_s, full_s, passes, float(fits)],
            "architectures": [ours.describe(), theirs.describe(), first.describe()],
            "of_deadline": [
                r.cost.latency_ms / setting.deadline_ms for r in (outcome.result, anew) if r.cost
            ],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--scale", type=float, default=2.0, help="factor on every number of steps of the search"
    )
    parser.add_argument("--epochs", type=int, default=5, help="of the final training, one more quantized")
    parser.add_argument("--share", type=float, default=AdaptConfig().share)
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=CHANGES)
    parser.add_argument("--stem", type=int, default=8, help="channels of the stem")
    parser.add_argument("--strides", type=int, nargs="+", default=(1, 2, 1), help="of the blocks")
    parser.add_argument("--cells", type=int, nargs="+", help="channels of each cell, instead of blocks")
    parser.add_argument("--nodes", type=int, default=3, help="of a cell")
    parser.add_argument("--deadline-ms", type=float, default=8.0)
    parser.add_argument("--journal", type=Path, default=Path(os.devnull))
    args = parser.parse_args()

    torch.set_num_threads(1)
    steps = lambda n: max(1, round(n * args.scale))  # noqa: E731
    config = SearchConfig(
        warmup_steps=steps(40), steps=steps(60), batch_size=BATCH, validation_batch_size=64, candidates=16,
        ranking_images=200, semifinalists=5, semifinal_steps=steps(10), finalists=2, proxy_steps=steps(40),
        threads=1, device="cpu",
    )  # fmt: skip
    public = part(real("fashion_mnist"), 4000, 1000, 10_000)
    shape, classes = public.input_shape, public.classes
    common = {"stem_channels": args.stem, "strides": tuple(args.strides)}
    if args.cells:
        config = replace(config, method="hypernetwork", hyper=OF_CELLS)
    setting = Setting(
        CellSpace(shape, classes, **common, channels=tuple(args.cells), nodes=args.nodes)
        if args.cells
        else SearchSpace(shape, classes, **common, channels=(16, 24, 32)),
        public,
        config,
        AdaptConfig(share=args.share, candidates=8, contestants=2),
        TrainConfig(float_epochs=args.epochs, qat_epochs=1, batch_size=BATCH, threads=1),
        args.deadline_ms,
    )
    key = setting.key(len(public.x_test))
    done = read_journal(args.journal, key)
    for seed in range(args.seeds):
        if all((seed, change) in done for change in args.changes):
            continue
        found = Found.search(setting, seed)
        for change, (shift, budgets, cost) in found.cases().items():
            if change not in args.changes or (seed, change) in done:
                continue
            record = found.compare(shift, budgets, cost)
            done[seed, change] = record["row"]
            print(f"seed {seed} {change}: {record}", file=sys.stderr)
            with args.journal.open("a") as journal:
                journal.write(json.dumps({"settings": key, "seed": seed, "change": change} | record) + "\n")
    rows: dict[str, list[list[float]]] = {}
    for (seed, change), row in sorted(done.items(), key=lambda item: item[0][0]):
        if seed < args.seeds:
            rows.setdefault(change, []).append(row)
    report(rows, args, setting.space)


def report(
    rows: dict[str, list[list[float]]], args: argparse.Namespace, space: SearchSpace | CellSpace
) -> None:
    parts = f"cells of {args.nodes} nodes" if args.cells else "blocks"
    print(f"Fashion-MNIST, 14x14, {len(space.strides)} {parts} ({space.count():,} architectures),")
    print(f"{args.seeds} seeds, share {args.share:g}, {args.epochs} + 1 epochs of final training; means.\n")
    print(
        "| change | adapted | full new search | difference, points: mean, SD (each seed) | unadapted | fits | ",
        end="",
    )
    print("CPU s | ratio | images | aim |\n|---|---|---|---|---|---|---|---|---|---|")
    everything = []
    for name, each in rows.items():
        ours, theirs, before, edge_s, full_s, passes, fits = np.mean(each, axis=0)
        points = [100 * (row[0] - row[1]) for row in each]
        everything += points
        met = edge_s <= 0.1 * full_s and ours >= theirs - 0.01
        print(
            f"| {name} | {ours:.2%} | {theirs:.2%} | {spread(points)} ({', '.join(f'{p:+.2f}' for p in points)}) | "
            f"{before:.1%} | {fits * len(each):.0f} of {len(each)} | {edge_s:.1f} of {full_s:.1f} | "
            f"{edge_s / full_s:.1%} | {passes:.1%} | {'met' if met else 'missed'} |"
        )
    print(f"\nAll {len(everything)} comparisons: {spread(everything)} points.")


def spread(points: Sequence[float]) -> str:
    """Mean and, of several, their standard deviation."""
    deviation = f", {np.std(points, ddof=1):.2f}" if len(points) > 1 else ""
    return f"{np.mean(points):+.2f}{deviation}"


if __name__ == "__main__":
    main()
