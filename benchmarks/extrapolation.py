"""How often operators that were not measured lie in their estimates' intervals, within the measured range and outside.

    python benchmarks/extrapolation.py > benchmarks/results/extrapolation.md

Kernels' models are fitted to a part of each shipped table's rows; the other rows are the truth. Nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pipeline.latency.interpolate import KernelModel
from pipeline.latency.lut import Lut
from pipeline.latency.rows import Row
from pipeline.profiler.calibration import calibration_operators

BOARDS = ("qemu-cortex-m4", "qemu-rv32", "qemu-cortex-m7", "qemu-cortex-a53")
SEEDS = range(5)


def judged(rows: Iterable[Row], chosen: Callable[[Row], bool]) -> dict[str, list[bool]]:
    """Whether rows that are not `chosen` lie inside, by where their estimate is; `refused`: no estimate is given."""
    found: dict[str, list[bool]] = {"within": [], "outside": [], "refused": []}
    by_kernel: dict[str, list[Row]] = {}
    for row in rows:
        by_kernel.setdefault(row.kernel, []).append(row)
    for kernel, own in by_kernel.items():
        known = {row.op: row.cycles for row in own if chosen(row)}
        model = KernelModel.fit(kernel, known) if known else None
        for row in own:
            if row.op in known:
                continue
            if model is None or not model.covers(row.op):
                found["refused"].append(False)
                continue
            estimate = model.estimate(row.op)
            where = "outside" if estimate.outside else "within"
            found[where].append(estimate.low <= row.cycles <= estimate.high)
    return found


def main() -> None:
    small = set(calibration_operators())

    draws: dict[str, list[Callable[[Row], bool]]] = {"the calibration set": [lambda row: row.op in small]}
    for name, part in (("a random half", 0.5), ("a random fifth", 0.2), ("a random tenth", 0.1)):
        draws[name] = []
        for seed in SEEDS:
            rng = np.random.default_rng(seed)
            draws[name].append(lambda row, rng=rng, part=part: rng.random() < part)

    tables = [Lut.load(Path("luts") / board / "edgenas", calibration=False) for board in BOARDS]
    print("# Operators that were not measured\n")
    print(
        "`python benchmarks/extrapolation.py`: rows of the four shipped tables, modelled; random parts drawn"
    )
    print(f"{len(SEEDS)} times a board.\n")
    print("| fitted to | within the range | inside their interval | outside of it | inside | refused |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, choices in draws.items():
        total: dict[str, list[bool]] = {"within": [], "outside": [], "refused": []}
        for table in tables:
            rows = [row for _, row in sorted(table.rows.items()) if not row.refused]
            for chosen in choices:
                for where, inside in judged(rows, chosen).items():
                    total[where] += inside
        share = {where: f"{100 * np.mean(found):.1f} %" if found else "" for where, found in total.items()}
        print(
            f"| {name} | {len(total['within']):,} | {share['within']} | {len(total['outside']):,} "
            f"| {share['outside']} | {len(total['refused']):,} |"
        )


if __name__ == "__main__":
    main()
