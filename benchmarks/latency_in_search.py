"""How fast, and how good, is a search's idea of latency? Whole-model predictions, batched; what the differentiable
latency adds to a search step; and, with a journal of `edgenas lut check`, table against fitted predictors.

    python benchmarks/latency_in_search.py [--journal runs/check-qemu-cortex-m4/models-<hashes>-0.jsonl]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from pipeline.boards import load_board
from pipeline.check import drawn
from pipeline.fit import predictor_identity
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.latency.predictor import features
from pipeline.profiler import lut_path
from pipeline.search import SearchConfig
from pipeline.search.candidates import Judge
from pipeline.search.costs import build_tables
from pipeline.search.hwdarts import HwDarts
from pipeline.search.methods import Task
from pipeline.search.predictor import fit_predictor
from pipeline.search.predictorconfig import PredictorConfig
from pipeline.search.relaxation import Relaxation
from pipeline.search.targets import one_board
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace


def best_of(work: Callable[[], object], repeats: int = 15) -> float:
    """Processor seconds of the fastest of several calls: other programs' share of the processor is left out."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", default="qemu-cortex-m4")
    parser.add_argument("--journal", type=Path, help="models-<hashes>-0.jsonl of `edgenas lut check`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    board = load_board(options.board)
    lut = Lut.load(lut_path(board))
    cost, space = CostModel(board, lut), SearchSpace.for_input((28, 28, 1), 10)
    tables = build_tables(space, cost)
    judge = Judge(tables, cost, Budgets())
    print(f"{board.name}; one thread of {platform.machine()}, Python {platform.python_version()}, "
          f"torch {torch.__version__}\n")  # fmt: skip

    paths = np.array([judge.path(a) for a in drawn(space, 1000, 0)])
    observed, provenance = tables.latency_many(paths), "estimated"
    if options.journal:
        rows = sorted(
            map(json.loads, options.journal.read_text().splitlines()), key=lambda row: row["number"]
        )
        chosen = drawn(space, len(rows), 0)
        if [a.describe() for a in chosen] != [row["architecture"] for row in rows]:
            raise SystemExit("the journal is of other architectures")
        observed = np.array([row["observed"] for row in rows]) / board.clock_hz * 1e3
        provenance = board.latency_provenance
    seen = paths[: len(observed)]
    fits = {}
    for residual in (True, False):
        fits[residual] = fit_predictor(
            tables, seen, observed, predictor_identity(space, cost), PredictorConfig(residual=residual),
            provenance=provenance,
        )  # fmt: skip
    if options.journal:
        stated = fits[True].errors
        print(f"Fitted to {stated['fitted']} models, errors on {stated['held_out']} others ({provenance}):\n")
        print("| prediction by | MAE, ms | MAPE | worst | Spearman | Kendall |\n|---|---|---|---|---|---|")
        for name, e in (
            ("table", stated["table"]),
            ("table and network (residual)", stated["predictor"]),
            ("network alone", fits[False].errors["predictor"]),
        ):
            print(f"| {name} | {e['mae_ms']:.3f} | {100 * e['mape']:.3f} % | {100 * e['worst']:.2f} % "
                  f"| {e['spearman']:.4f} | {e['kendall']:.4f} |")  # fmt: skip
        print()

    print("Microseconds an architecture, batches of 1000 (measured):\n\n| | us |\n|---|---|")
    table_ms = tables.latency_many(paths)
    x = features(space, paths)
    for name, work in (
        ("table, one by one", lambda: [tables.path_latency_ms(p) for p in paths]),
        ("table, batched", lambda: tables.latency_many(paths)),
        ("predictor, from features", lambda: fits[True].latency_many(x, table_ms)),
        ("all of it: table, features, predictor",
         lambda: fits[True].latency_many(features(space, paths), tables.latency_many(paths))),
    ):  # fmt: skip
        print(f"| {name} | {best_of(work) * 1e3:.2f} |")

    rng = np.random.default_rng(0)
    images = SimpleNamespace(
        x_train=rng.integers(0, 256, (2000, 28, 28, 1), np.uint8), y_train=rng.integers(10, size=2000),
        x_val=rng.integers(0, 256, (1000, 28, 28, 1), np.uint8), y_val=rng.integers(10, size=1000),
    )  # fmt: skip
    config = SearchConfig(method="hwdarts", device="cpu", threads=1)
    task = Task.prepare(space, images, one_board(cost, Budgets(latency_ms=50.0)), config, 0, None, None)
    search = HwDarts(task)
    weight = best_of(lambda: search._weight_step(1.0, 0.1), 5)
    search.step = search.weight_steps
    architecture = best_of(lambda: search._lambda_step(0.0, 0), 5)
    print("\nMilliseconds of a search step with the default settings, one thread (measured):\n")
    print("| | ms | share of both steps |\n|---|---|---|")
    both = weight + architecture
    print(f"| weight step (96 images) | {weight * 1e3:.1f} | {100 * weight / both:.1f} % |")
    print(
        f"| architecture step (4 paths x 128 images) | {architecture * 1e3:.1f} | {100 * architecture / both:.1f} % |"
    )
    for name, used in (("table", tables), ("table and predictor", replace(tables, predictor=fits[True]))):
        relaxation = Relaxation(used)
        spent = best_of(lambda r=relaxation: r.expected(0.7).latency_ms.backward(), 40)
        print(f"| differentiable latency: {name} | {spent * 1e3:.2f} | {100 * spent / both:.2f} % |")


if __name__ == "__main__":
    main()
