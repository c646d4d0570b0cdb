"""INT8 accuracy of the best member within each parameter limit, all from one hypernetwork search.

    python benchmarks/family_accuracy.py examples/fashion_mnist_family.toml 5200 38400 144000

The search runs once (its folder keeps it). For each limit the member with the best outlook after its own short training
(validation accuracy, and a share of its size as EdgeNAS' contests have it) is trained in full (float, then
quantization-aware), exported and tested as INT8 on LiteRT's reference kernels over the whole test split. Interrupted,
the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from pipeline import stages
from pipeline.run import Run
from pipeline.search import Candidate
from pipeline.space import lower
from pipeline.storage import write_text


def best_within(
    candidates: list[Candidate], parameters: int, latency_ms: float, capacity: float
) -> Candidate | None:
    """By own training where there was one, and multiply-accumulates; else by shared weights."""

    def outlook(candidate: Candidate) -> tuple[float, float]:
        if candidate.proxy_accuracy is None:
            return 0.0, candidate.shared_accuracy or 0.0
        return candidate.proxy_accuracy + capacity * math.log2(lower(candidate.architecture).macs), 0.0

    fit = [c for c in candidates if c.cost.parameters <= parameters and c.cost.latency_ms <= latency_ms]
    return max(fit, key=outlook, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runfile", type=Path)
    parser.add_argument("limits", type=int, nargs="+", help="parameters")
    parser.add_argument("--latency-ms", type=float, default=math.inf, help="of each member, at most")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()

    run = Run.open(args.runfile, runs=args.runs)
    candidates = run.search().candidates
    print("| at most | parameters | modelled latency (ms) | SRAM (bytes) | float | INT8 | architecture |")
    print("|---|---|---|---|---|---|---|")
    for limit in args.limits:
        member = best_within(candidates, limit, args.latency_ms, run.settings.search.sharing.capacity)
        if member is None:
            print(f"| {limit:,} | no member of the family | | | | | |")
            continue
        folder = run.folder / f"member-{limit}"
        folder.mkdir(exist_ok=True)
        done = folder / "training.json"
        if not done.exists():
            trained = stages.train(
                run.settings, member.architecture, run.data, folder / "train.pt", run.reporter
            )
            outcome = stages.export(trained, run.data, folder / "model.tflite", run.reporter)
            write_text(done, json.dumps(outcome) + "\n")
        accuracy = json.loads(done.read_text(encoding="utf-8"))["accuracy"]
        print(
            f"| {limit:,} | {member.cost.parameters:,} | {member.cost.latency_ms:.2f} | {member.cost.sram_bytes:,} "
            f"| {accuracy['float']['value'] * 100:.2f} % | {accuracy['int8']['value'] * 100:.2f} % "
            f"| {member.architecture.describe()} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
