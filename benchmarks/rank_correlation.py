"""How well cheap looks at an architecture predict its order after long training: Kendall's tau of every pair of stages.

    python benchmarks/rank_correlation.py --scale 0.3 --shrink 2 --folder /tmp/ranks

Random architectures of the default space pass through every stage: proxies at initialization, the accuracy with the
supernet's shared weights after the search's own training of them, the semifinal's and the final's short trainings from
those weights, a training from scratch as short as the final (what the baselines do), and a long one from scratch, the
reference. Supernet and trainings are the search's own code, so a change there shows here. `--draw budgets` takes only
architectures within the demo's budgets, `--draw space` any. Accuracies are on the validation split, measured.

Every score is kept in a file of its own under `--folder`; the same command goes on after an interruption. A new
supernet wants a new folder (long trainings may be taken from an older one with `--reuse-long OLD`).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from real_data import real

from pipeline.boards import load_board
from pipeline.latency.cost import CostModel
from pipeline.profiler.profile import obtain
from pipeline.progress import Reporter
from pipeline.search import SearchConfig
from pipeline.search.candidates import ExactPath, Judge
from pipeline.search.edgenas import EdgeNas
from pipeline.search.methods import Task
from pipeline.search.proxies import PROXIES, score
from pipeline.search.ranking import Agreement, agreements
from pipeline.search.selection import own_accuracy
from pipeline.search.supernet import Supernet
from pipeline.search.targets import one_board
from pipeline.search.trainer import Validation, draw_batch, train_path
from pipeline.space.architecture import Architecture
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.storage import write_text

# those of examples/fashion_mnist_cortex_m4.toml
DEMO = Budgets(latency_ms=50.0, sram_bytes=262_144, flash_bytes=524_288, parameters=38_000)
_DRAW, _PROXIES, _LONG, _SHORT, _SEMIFINAL = range(900, 905)


def subset(args: argparse.Namespace) -> SimpleNamespace:
    """The data set with every `shrink`-th pixel, at most `limit` training images."""
    full = real(args.data)
    cut = lambda x: np.ascontiguousarray(x[:, :: args.shrink, :: args.shrink])  # noqa: E731
    n, m = args.train_images or len(full.x_train), args.validation_images or len(full.x_val)
    return SimpleNamespace(
        x_train=cut(full.x_train[:n]), y_train=full.y_train[:n], x_val=cut(full.x_val[:m]), y_val=full.y_val[:m],
        classes=full.classes,
    )  # fmt: skip


def scaled(config: SearchConfig, scale: float) -> SearchConfig:
    steps = {
        name: max(1, round(getattr(config, name) * scale))
        for name in ("warmup_steps", "steps", "semifinal_steps", "proxy_steps")
    }
    return replace(config, threads=1, **steps)


def draw(space: SearchSpace, judge: Judge, count: int, seed: int, within: bool) -> list[ExactPath]:
    """Distinct architectures, uniform over the space or over what the budgets leave of it."""
    rng, found = np.random.default_rng([seed, _DRAW]), {}
    for _ in range(200_000):
        path = judge.path(space.random(rng))
        if not within or (judge.roughly_within(path, 1.0) and judge.feasible(path)):
            found[path] = None
        if len(found) == count:
            break
    return list(found)


def own_settings(args: argparse.Namespace) -> None:
    """Scores of other settings must not be taken for these; more architectures are welcome."""
    given = {k: v for k, v in vars(args).items() if k not in ("folder", "reuse_long", "architectures")}
    path = args.folder / "settings.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != given:
        raise SystemExit(
            f"{args.folder} belongs to other settings, see its settings.json: choose another --folder"
        )
    write_text(path, json.dumps(given, indent=1) + "\n")


class Journal:
    """One file a score: what is there is not computed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, stage: str, architecture: Architecture, work) -> dict:  # type: ignore[no-untyped-def]
        name = architecture.describe().replace(" | ", "_").replace("/", "s").replace(" ", "-")
        path = self.folder / stage.replace(" ", "-") / f"{name}.json"
        if not path.is_file():
            started = time.process_time()
            write_text(
                path, json.dumps({"scores": work(), "cpu_seconds": time.process_time() - started}) + "\n"
            )
        return json.loads(path.read_text(encoding="utf-8"))


def supernet(task: Task) -> EdgeNas:
    """The search's shared weights as they are before any candidate is drawn; resumes."""
    engine = EdgeNas(task)
    engine._restore()
    engine._train()
    return engine


def table(found: list[Agreement], stages: list[str]) -> str:
    known = {(a.first, a.second): a for a in found}
    lines = ["| Kendall's tau-b | " + " | ".join(stages[1:]) + " |", "|---" * len(stages) + "|"]
    for row, first in enumerate(stages[:-1]):
        cells = []
        for column, second in enumerate(stages[1:], start=1):
            a = known.get((first, second)) if column > row else None
            cells.append("" if a is None else f"{a.tau:+.2f} [{a.low:+.2f}, {a.high:+.2f}]")
        lines.append(f"| {first} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--architectures", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", choices=("space", "budgets"), default="budgets")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every number of steps")
    parser.add_argument(
        "--long-steps", type=int, default=1500, help="of the reference training, before --scale"
    )
    parser.add_argument("--shrink", type=int, default=1, help="take every n-th pixel")
    parser.add_argument("--train-images", type=int, default=0, help="0: all")
    parser.add_argument("--validation-images", type=int, default=0, help="0: all")
    parser.add_argument("--latency-ms", type=float, help="the search's limit; default: the demo's")
    parser.add_argument("--parameters", type=int, help="the search's limit; default: the demo's")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--reuse-long", type=Path, help="folder of an earlier run with the same draw and scale"
    )
    args = parser.parse_args()

    torch.set_num_threads(1)
    own_settings(args)
    data = subset(args)
    space = SearchSpace.for_input(tuple(int(n) for n in data.x_train.shape[1:]), data.classes)  # type: ignore[arg-type]
    board = load_board("qemu-cortex-m4")
    lut = obtain(board, space.operators(), folder=args.folder / "lut", reporter=Reporter(quiet=True))
    config = scaled(SearchConfig(), args.scale)
    budgets = replace(
        DEMO, latency_ms=args.latency_ms or DEMO.latency_ms, parameters=args.parameters or DEMO.parameters
    )
    checkpoint = args.folder / "supernet.pt"
    task = Task.prepare(
        space, data, one_board(CostModel(board, lut), budgets), config, args.seed, checkpoint, None
    )
    judge = Judge(task.tables, task.cost, budgets)
    paths = draw(space, judge, args.architectures, args.seed, args.draw == "budgets")

    started = time.process_time()
    shared = supernet(task).net
    supernet_s = time.process_time() - started
    everything = Validation.of(data, len(data.x_val), args.seed)
    journal, older = Journal(args.folder), Journal(args.reuse_long or args.folder)
    long_steps = max(1, round(args.long_steps * args.scale))

    def scratch(path: ExactPath, steps: int, stream: int) -> float:
        net = Supernet(space, 1000 + args.seed)
        train_path(
            net, path, data, steps=steps, batch_size=config.batch_size, lr=config.weight_lr,
            rng=task.rng(stream), on_step=lambda _: None,
        )  # fmt: skip
        return everything.accuracy(net, path)

    def tuned(path: ExactPath, steps: int, stream: int) -> float:
        return own_accuracy(
            shared, path, data, everything, config, steps=steps, rng=task.rng(stream), on_step=lambda _: None
        )

    def proxies(path: ExactPath) -> dict[str, float]:
        rng = task.rng(_PROXIES)
        batch = draw_batch(data.x_train, data.y_train, config.batch_size, rng)
        return score(list(PROXIES), Supernet(space, args.seed), path, batch)

    semifinal, final = f"semifinal ({config.semifinal_steps})", f"final ({config.proxy_steps})"
    short, reference = f"scratch ({config.proxy_steps})", f"long ({long_steps})"
    stages: dict[str, list[float | None]] = {}
    seconds: dict[str, list[float]] = {}
    for number, path in enumerate(paths):
        architecture = judge.architecture(path)
        works = {
            "proxies": lambda path=path: proxies(path),
            "shared weights": lambda path=path: everything.accuracy(shared, path),
            semifinal: lambda path=path: tuned(path, config.semifinal_steps, _SEMIFINAL),
            final: lambda path=path: tuned(path, config.proxy_steps, _SEMIFINAL),
            short: lambda path=path: scratch(path, config.proxy_steps, _SHORT),
            reference: lambda path=path: scratch(path, long_steps, _LONG),
        }
        for stage, work in works.items():
            entry = (older if stage in (reference, short, "proxies") else journal).get(
                stage, architecture, work
            )
            scores = entry["scores"] if isinstance(entry["scores"], dict) else {stage: entry["scores"]}
            for name, value in scores.items():
                stages.setdefault(name, []).append(value)
            seconds.setdefault(stage, []).append(entry["cpu_seconds"])
        print(
            f"{number + 1}/{len(paths)} {architecture.describe()}: long {stages[reference][-1]:.4f}",
            flush=True,
        )

    names = list(stages)
    found = agreements(stages)
    long = np.array(stages[reference], float)
    start = f"{config.warmup_steps} + {config.steps} steps"
    noise = 100 * np.sqrt(long.mean() * (1 - long.mean()) / len(data.x_val))
    lines = [
        f"## {args.data}, {space.input_shape}, {len(paths)} architectures (`--draw {args.draw}`), "
        f"scale {args.scale}, seed {args.seed}",
        "",
        f"Numbers in brackets: weight steps of {config.batch_size} images. Supernet: {start} ({supernet_s:.0f} CPU",
        f"seconds, 0 where it was taken up from its checkpoint). n = {len(paths)} for every tau, 95 % bootstrap",
        f"intervals over architectures; {len(data.x_val):,} validation images.",
        "",
        table(found, names),
        "",
        f"Reference: {100 * long.min():.1f} to {100 * long.max():.1f} %, standard deviation {100 * long.std():.2f}",
        f"points (sampling error of one accuracy: {noise:.2f}).",
        "",
        "| stage | accuracy, mean (min to max), % | CPU seconds an architecture |",
        "|---|---|---|",
    ]
    for stage, spent in seconds.items():
        values = stages.get(stage)
        shown = (
            f"{100 * np.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"
            if values
            else ""
        )
        lines.append(f"| {stage} | {shown} | {np.mean(spent):.2f} |")
    text = "\n".join(lines) + "\n"
    write_text(args.folder / "result.md", text)
    rows = [a.to_json() for a in found]
    write_text(
        args.folder / "result.json", json.dumps({"stages": stages, "agreements": rows}, indent=1) + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
