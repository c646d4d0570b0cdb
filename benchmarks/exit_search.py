"""Early exits that are searched for against exits chosen afterwards, for goals of expected latency within one limit.

    python benchmarks/exit_search.py --seeds 0-4 --limit 12 --goals 6 --out F

For each seed and goal EdgeNAS looks for blocks and exits together (`[search.exits] search = true`), with each of
`--weights`; once a seed it looks for blocks alone, as ever, and its winner has all allowed exits. All searches have the
same settings and the same limit of the worst case; what they cost is counted in passes (`search/effort.py`). Each
winner is trained with its exits from scratch by one recipe (float, then quantization-aware); then exits and thresholds
are chosen by the rule that follows every export, on the INT8 logits of validation images: the most accurate within the
goal. Accuracy and expected latency are those of the rule on test images, which nothing saw before. With `--without`
also the winner of an ordinary search whose limit is the goal, with no exits at all. Fashion-MNIST, every second pixel,
the shipped table of `--board`. Searches and trainings are journalled under `--out`: the same command goes on where it
was interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from edge_stage import part
from rank_correlation import scaled
from real_data import real
from search_methods import SMALL

from pipeline.boards import load_board
from pipeline.data import DataSet
from pipeline.exitstage import choose_for, measure_exits, record
from pipeline.export import to_int8
from pipeline.export.exits import KeptExits
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.progress import Reporter
from pipeline.runstate import fingerprint
from pipeline.search import SearchConfig, SearchResult
from pipeline.search.effort import edgenas_passes
from pipeline.search.exitconfig import ExitConfig
from pipeline.search.hypervolume import interval
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.storage import write_text
from pipeline.sweep import Bench, Job, Sweep
from pipeline.sweep.bench import read
from pipeline.sweep.grid import seed_list
from pipeline.train import TrainConfig, train_qat

AFTERWARDS = "chosen afterwards"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to a network: a search under `limit_ms`, and the goals that its exits are chosen for."""

    name: str
    limit_ms: float
    goals_ms: tuple[float, ...]
    options: ExitConfig = field(default_factory=ExitConfig)  # of the search
    exits: bool = True


def arms(
    limit_ms: float, goals_ms: Sequence[float], weights: Sequence[tuple[float, float]], without: bool
) -> list[Arm]:
    """`weights`: (loss_weight, head_weight) of the searches for exits; each is an arm for every goal."""
    found = [Arm(AFTERWARDS, limit_ms, tuple(goals_ms))]
    for goal in goals_ms:
        for loss, head in weights:
            options = ExitConfig(expected_latency_ms=goal, search=True, loss_weight=loss, head_weight=head)
            name = f"searched for {goal:g} ms"
            if options != ExitConfig(expected_latency_ms=goal, search=True):
                name += f" with {loss:g}:{head:g}"
            found.append(Arm(name, limit_ms, (goal,), options))
        if without:
            found.append(Arm(f"no exits, {goal:g} ms", goal, (goal,), exits=False))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What all arms and seeds share. `images` are what the searches see, `data` what the trainings do."""

    space: SearchSpace
    images: DataSet
    data: DataSet
    cost: CostModel
    identity: str
    config: SearchConfig
    training: TrainConfig
    folder: Path

    def found(self, arm: Arm, seed: int) -> dict[str, Any]:
        """The journal's entry of the search, done where it is not there yet."""
        space = self.space if arm.exits else replace(self.space, exits=())
        config = replace(self.config, exits=arm.options)
        bench = Bench(space, self.images, self.cost, self.identity, Budgets(), config, judge_steps=0)
        job = Job("edgenas", seed, arm.limit_ms)
        sweep = Sweep(bench, [job], self._folder(arm), Reporter())
        sweep.run(1, 1)
        entry = sweep.entry(job)
        if entry is None:
            raise SystemExit(f"{arm.name}, seed {seed}: {sweep.failure(job)}")
        return entry

    def judged(self, arm: Arm, seed: int, entry: dict[str, Any]) -> dict[str, Any]:
        """What the winner does after its training, by goal (`exitstage.record`), or {"reason": why there is none}."""
        found = SearchResult.from_json(entry["result"])
        if found.architecture is None:
            return {"reason": found.reason}
        key = fingerprint(entry["key"], asdict(self.training), arm.goals_ms, self._sizes())
        file = self._folder(arm) / "trained" / f"seed{seed}.json"
        if (known := read(file)).get("key") == key:
            return dict(known["goals"])
        checkpoint = file.with_name(f"seed{seed}-{key}.pt")
        trained = train_qat(found.architecture, self.data, self.training, seed=seed, checkpoint=checkpoint)
        network, goals = trained.network, {}
        validation = network.int8_each(to_int8(self.data.x_val))
        for goal in arm.goals_ms:
            options = ExitConfig(expected_latency_ms=goal)
            choice = choose_for(
                found.architecture, validation, self.data.y_val, self.cost, Budgets(arm.limit_ms), options
            )
            kept = KeptExits(network, choice.kept).int8_each(to_int8(self.data.x_test))
            tested = measure_exits(kept, self.data.y_test, choice)
            goals[f"{goal:g}"] = record(found.architecture, choice, tested, options)
        write_text(file, json.dumps({"key": key, "goals": goals}, indent=1) + "\n")
        checkpoint.unlink(missing_ok=True)
        return goals

    def _folder(self, arm: Arm) -> Path:
        return self.folder / arm.name.replace(",", "").replace(" ", "-").replace(":", "-")

    def _sizes(self) -> list[int]:
        return [len(y) for y in (self.data.y_train, self.data.y_val, self.data.y_test)]


@dataclass(frozen=True, slots=True)
class Row:
    """One winner at one goal."""

    arm: Arm
    goal_ms: float
    seed: int
    entry: dict[str, Any]
    seen: dict[str, Any]  # `exitstage.record`

    @property
    def accuracy(self) -> float:
        """Of the rule, test images, percent."""
        return 100 * float(self.seen["test"]["accuracy"])

    @property
    def expected_ms(self) -> float:
        """Mean over test images."""
        return float(self.seen["test"]["expected_ms"])

    def cells(self) -> list[str]:
        chosen, tested = self.seen["validation"], self.seen["test"]
        kept = ", ".join(map(str, self.seen["kept"])) or "none"
        shares = " ".join(f"{100 * c / sum(tested['counts']):.0f}" for c in tested["counts"])
        architecture = SearchResult.from_json(self.entry["result"]).architecture
        blocks = " ".join(f"{b.op}-{b.channels}" if b.op != "skip" else "skip" for b in architecture.blocks)
        met = "" if chosen["met"] else " (goal missed)"
        return [
            str(self.seed), self.arm.name, f"{self.accuracy:.2f}", f"{self.expected_ms:.2f}{met}",
            f"{chosen['worst_case_ms']:.2f}", f"{100 * tested['final_accuracy']:.2f}", kept, shares, blocks,
        ]  # fmt: skip


def weight_pair(text: str) -> tuple[float, float]:
    """Of `loss_weight:head_weight`."""
    loss, head = map(float, text.split(":"))
    return loss, head


def each_seed(rows: list[Row], goal: float) -> str:
    heads = (
        "seed", "exits", "accuracy, %", "expected ms", "worst case, ms", "last output alone, %", "kept after block",
        "share of images by output, %", "blocks",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows if row.goal_ms == goal]
    return "\n".join(lines)


def differences(rows: list[Row], goal: float) -> list[str]:
    """Each arm less the one whose exits were chosen afterwards, seed by seed, where both have a network."""
    here = {(row.arm.name, row.seed): row for row in rows if row.goal_ms == goal}
    lines = []
    for name in dict.fromkeys(name for name, _ in here if name != AFTERWARDS):
        pairs = [
            (row, here[AFTERWARDS, seed])
            for (arm, seed), row in here.items()
            if arm == name and (AFTERWARDS, seed) in here
        ]
        if not pairs:
            continue
        points = [a.accuracy - b.accuracy for a, b in pairs]
        saved = [a.expected_ms - b.expected_ms for a, b in pairs]
        lines.append(
            f"{name} less {AFTERWARDS}, n = {len(pairs)}: accuracy {interval(points)} points "
            f"({', '.join(f'{p:+.2f}' for p in points)}); expected latency {interval(saved)} ms "
            f"({', '.join(f'{ms:+.2f}' for ms in saved)})"
        )
    return lines


def efforts(rows: list[Row], planned: int) -> list[str]:
    """What the searches of each arm cost."""
    entries = {row.arm.name: {r.seed: r.entry for r in rows if r.arm.name == row.arm.name} for row in rows}
    return [
        f"{name}: {sum(e['passes'] for e in each.values()) / len(each) / planned:.1%} of the planned passes, "
        f"{sum(e['cpu_seconds'] for e in each.values()) / len(each):.1f} CPU s a search"
        for name, each in entries.items()
    ]


def contests(rows: list[Row]) -> list[str]:
    """Trainings alone of the same blocks and as many steps in searches with different weights, seed by seed."""
    trained: dict[Arm, dict[tuple[Any, ...], tuple[float, float]]] = {}
    for row in rows:
        if not row.arm.options.search:
            continue
        for candidate in SearchResult.from_json(row.entry["result"]).candidates:
            if candidate.exits:
                key = (row.goal_ms, row.seed, candidate.architecture.blocks, candidate.proxy_steps)
                own = (100 * (candidate.proxy_accuracy or 0.0), 100 * candidate.exits["final_accuracy"])
                trained.setdefault(row.arm, {})[key] = own
    lines = []
    for a, b in itertools.combinations(trained, 2):
        for steps in sorted({key[-1] for key in trained[a]}):
            both = [key for key in trained[a] if key in trained[b] and key[-1] == steps]
            if both:
                means = [np.mean([trained[arm][key] for key in both], axis=0) for arm in (a, b)]
                (first, first_last), (second, second_last) = means
                ahead = sum(trained[b][key][0] > trained[a][key][0] for key in both)
                lines.append(
                    f"contests of {steps} steps in both, n = {len(both)}: {a.name} {first:.1f} % by the rule and "
                    f"{first_last:.1f} % at the last output, {b.name} {second:.1f} and {second_last:.1f} %; its "
                    f"rule is ahead in {ahead}"
                )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="qemu-cortex-m4", help="whose shipped table to use")
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument(
        "--exits", type=int, nargs="+", default=[0, 1, 2, 3], help="allowed after these blocks"
    )
    parser.add_argument("--limit", type=float, default=12.0, help="of the worst case, ms")
    parser.add_argument("--goals", type=float, nargs="+", default=[6.0], help="of the expected latency, ms")
    parser.add_argument(
        "--weights", type=weight_pair, nargs="+", default=[(ExitConfig().loss_weight, ExitConfig().head_weight)],
        metavar="LOSS:HEAD", help="of exits in the contests: search.exits.loss_weight and head_weight",
    )  # fmt: skip
    parser.add_argument("--without", action="store_true", help="also networks without exits, at the goals")
    parser.add_argument("--settings", default="small", choices=("small", "default"), help="of the searches")
    parser.add_argument("--scale", type=float, default=0.5, help="factor on their numbers of steps")
    parser.add_argument(
        "--supernet-scale", type=float, default=1.0, help="factor on warm-up and alternations, beside --scale"
    )
    parser.add_argument("--search-images", type=int, default=4000, help="training images that searches see")
    parser.add_argument("--search-validation", type=int, default=1000, help="validation images they see")
    parser.add_argument("--train-images", type=int, default=8000, help="of the winners' training")
    parser.add_argument("--validation-images", type=int, default=2000, help="that choose the thresholds")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=5, help="of the winners' training, one more quantized")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    full = real("fashion_mnist")
    data = part(full, args.train_images, args.validation_images, args.test_images)
    images = part(full, args.search_images, args.search_validation, args.test_images)
    space = SearchSpace.for_input(data.input_shape, data.classes, blocks=args.blocks, exits=tuple(args.exits))
    table = Lut.load(Path("luts") / args.board / "edgenas")
    config = scaled(
        replace(SearchConfig() if args.settings == "default" else SMALL, device="cpu"), args.scale
    )
    config = replace(
        config, warmup_steps=round(config.warmup_steps * args.supernet_scale),
        steps=max(1, round(config.steps * args.supernet_scale)),
    )  # fmt: skip
    compared = Comparison(
        space, images, data, CostModel(load_board(args.board), table), f"{args.board}, table {table.key}",
        config, TrainConfig(float_epochs=args.epochs, qat_epochs=1, threads=1, device="cpu"), args.out,
    )  # fmt: skip
    rows: list[Row] = []
    for seed in seed_list(args.seeds):
        for arm in arms(args.limit, args.goals, args.weights, args.without):
            entry = compared.found(arm, seed)
            seen = compared.judged(arm, seed, entry)
            if "reason" in seen:
                print(f"seed {seed}, {arm.name}: {seen['reason']}")
                continue
            rows += [Row(arm, goal, seed, entry, seen[f"{goal:g}"]) for goal in arm.goals_ms]
    print(
        f"Fashion-MNIST, {data.input_shape}, {space.count():,} architectures, exits after blocks {args.exits}, at most "
        f"{args.limit:g} ms by the shipped table of {args.board} (modelled); accuracies measured on "
        f"{len(data.y_test):,} test images, INT8.\n"
    )
    for goal in args.goals:
        print(f"Goal {goal:g} ms:\n\n{each_seed(rows, goal)}\n")
        print("\n".join(f"- {line}" for line in differences(rows, goal)) + "\n")
    print("\n".join(f"- {line}" for line in contests(rows)))
    planned = edgenas_passes(compared.config, len(images.y_val))
    print("\n".join(f"- {line}" for line in efforts(rows, planned)))


if __name__ == "__main__":
    main()
