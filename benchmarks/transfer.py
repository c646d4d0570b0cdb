"""Error of transferred tables, where the truth is known, against the number of measurements.

    python benchmarks/transfer.py > benchmarks/results/transfer.md

One board's table stands for the emulator, another's for the real board: only the chosen operators' rows of the second
are given to the fit, all others are held out. Whole models are random architectures, whose cycles by the complete
table of the target are the truth. No board and no emulator is run, unless `--rtl` asks for a simulated core:
there, some other operators are run and held out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.latency.lut import Lut
from pipeline.latency.transfer import transferred, usable, worth_measuring
from pipeline.profiler.profile import measure
from pipeline.progress import Reporter
from pipeline.space.architecture import lower
from pipeline.space.search_space import SearchSpace

PAIRS = (("qemu-cortex-m4", "qemu-cortex-m7"), ("qemu-cortex-m4", "qemu-rv32"), ("qemu-rv32", "qemu-cortex-a53"),
         ("qemu-cortex-m4", "qemu-cortex-a53"))  # fmt: skip
COUNTS = (5, 10, 20, 40)
LARGEST = 300_000  # cycles of an operator on a simulated core


def pick(base: Lut, truth: Lut, count: int, seed: int | None) -> dict:
    """The plan's operators, or (with a seed) random ones."""
    rows = usable(base.rows)
    if seed is None:
        chosen = worth_measuring(base.rows, count, {})
    else:
        order = np.random.default_rng(seed).permutation(len(rows))[:count]
        chosen = [rows[i] for i in order]
    return {row.op.key: truth.rows[row.op.key] for row in chosen}


def assess(base: Lut, truth: Lut, measured: dict, graphs: list) -> dict:
    rows, about, _ = transferred(base.rows, measured, base.identity.board, base.identity.hash)
    guess = Lut(truth.identity, rows, truth.overhead, truth.flash, transfer=about)
    held = [row for key, row in rows.items() if row.transferred and key in truth.rows]
    real = np.array([truth.rows[row.op.key].cycles for row in held])
    error = np.array([row.cycles for row in held]) / real - 1
    inside = np.array([row.low for row in held]) <= real
    inside &= real <= np.array([row.p95 for row in held])
    width = np.array([row.p95 / row.cycles - 1 for row in held])
    ours = [guess.predict(graph) for graph in graphs]
    true = np.array([truth.predict(graph).total_cycles for graph in graphs])
    whole = np.array([p.total_cycles for p in ours]) / true - 1
    low, high = np.array([p.sums for p in ours]).T
    return {
        "stated": about.mape,
        "mape": np.abs(error).mean(),
        "p90": np.quantile(np.abs(error), 0.9),
        "worst": np.abs(error).max(),
        "coverage": inside.mean(),
        "width": np.median(width),
        "whole": np.abs(whole).mean(),
        "whole worst": np.abs(whole).max(),
        "whole inside": np.mean((low <= true) & (true <= high)),
        "how": about.correction,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--random", type=int, default=5, help="random choices to compare the plan's with")
    parser.add_argument("--rtl", action="append", default=[], help="RTL board to hold qemu-rv32 against")
    parser.add_argument("--held-out", type=int, default=40, help="operators to run on it besides")
    parser.add_argument("--luts", type=Path, default=asset_dir("luts"))
    args = parser.parse_args()
    print("# Error of transferred tables\n")
    print(f"`python benchmarks/{' '.join([Path(__file__).name, *sys.argv[1:]])}`\n")
    print(__doc__.split("\n\n", 2)[2].strip())
    print("\nAll in percent. `stated`: error of measurements left out of the fit; MAPE, p90, worst: on those not "
          "measured; "
          "inside: of their 90 % intervals; models: whole ones, MAPE, worst, inside (before the table's factors for "
          f"whole models). `chance`: the mean over {args.random} random choices. s: seconds to fit.")  # fmt: skip
    rng = np.random.default_rng(0)
    space = SearchSpace.for_input((28, 28, 1), 10)
    graphs = [lower(space.random(rng)) for _ in range(args.models)]
    for name, target in PAIRS:
        base, truth = (Lut.load(args.luts / board / "edgenas.csv") for board in (name, target))
        plain = np.array([truth.predict(g).total_cycles / base.predict(g).total_cycles for g in graphs])
        print(
            f"\n## {name} to {target}\n\nWhole models take {plain.min():.2f} to {plain.max():.2f} times the cycles.\n"
        )
        print(
            "| n | chosen by | stated | MAPE | p90 | worst | inside | half width | models | worst | inside | s |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        for count in COUNTS:
            for label, seeds in (("plan", [None]), ("chance", list(range(args.random)))):
                started = time.perf_counter()
                found = [assess(base, truth, pick(base, truth, count, seed), graphs) for seed in seeds]
                mean = {k: float(np.mean([f[k] for f in found])) for k in found[0] if k != "how"}
                p = {k: f"{100 * v:.1f}" for k, v in mean.items()}
                seconds = (time.perf_counter() - started) / max(1, len(seeds))
                print(
                    f"| {count} | {label} | {p['stated']} | {p['mape']} | {p['p90']} | {p['worst']} | {p['coverage']} "
                    f"| {p['width']} | {p['whole']} | {p['whole worst']} | {p['whole inside']} | {seconds:.1f} |",
                    flush=True,
                )
    for board in args.rtl:
        on_rtl(board, args.held_out, args.luts)


def on_rtl(name: str, held_out: int, luts: Path) -> None:
    """Chosen and held-out operators, run on a simulated core; the largest are left out for its speed's sake."""
    base = Lut.load(luts / "qemu-rv32" / "edgenas.csv")
    small = {key: row for key, row in base.rows.items() if not row.refused and row.cycles < LARGEST}
    others = np.random.default_rng(0).permutation(sorted(small))[:held_out]
    ops = {row.op.key: row.op for count in COUNTS for row in worth_measuring(small, count, {})}
    ops |= {key: small[key].op for key in others}
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal.sqlite"
        seen = measure(load_board(name), list(ops.values()), journal=journal, reporter=Reporter(quiet=True))
    print(f"\n## qemu-rv32 to {name}: {len(seen)} operators below {LARGEST:,} cycles were run\n")
    print(
        "| n | stated | MAPE | worst | inside | half width | uncorrected MAPE | worst |\n" + "|---" * 8 + "|"
    )
    for count in COUNTS:
        known = {row.op.key: seen[row.op.key] for row in worth_measuring(small, count, {})}
        rows, about, _ = transferred(base.rows, known, "qemu-rv32", base.identity.hash)
        held = [key for key in others if key not in known]
        real = np.array([seen[key].cycles for key in held])
        error = np.abs(np.array([rows[key].cycles for key in held]) / real - 1)
        plain = np.abs(np.array([base.rows[key].cycles for key in held]) / real - 1)
        inside = np.mean([rows[key].low <= r <= rows[key].p95 for key, r in zip(held, real, strict=True)])
        width = np.median([rows[key].p95 / rows[key].cycles - 1 for key in held])
        figures = (about.mape, error.mean(), error.max(), inside, width, plain.mean(), plain.max())
        print(f"| {count} | " + " | ".join(f"{100 * f:.2f}" for f in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
