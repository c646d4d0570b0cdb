"""How few measurements a latency table needs, and what a second target saves.

python benchmarks/profiling.py [--board qemu-cortex-m4]  > benchmarks/results/profiling.md
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.boards import load_board
from pipeline.fleet import Fleet, Targets
from pipeline.latency.interpolate import KernelModel
from pipeline.latency.lut import Lut
from pipeline.profiler import profile
from pipeline.profiler.bench import BenchSession
from pipeline.profiler.calibration import ANCHOR
from pipeline.profiler.campaign import Campaign
from pipeline.profiler.journal import Journal, Measurement
from pipeline.profiler.plan import Plan
from pipeline.progress import Reporter
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

SHAPES = ((28, 28, 1), (32, 32, 3))


def space_operators() -> list[OpSpec]:
    spaces = [SearchSpace.for_input(shape, 10) for shape in SHAPES]
    return sorted({op for space in spaces for op in space.operators() if op.kind != "reshape"})


def adaptive(truth: dict[OpSpec, float], bound: float) -> str:
    """One row: what the plan measured at `bound`, and how the rest was predicted."""
    plan = Plan(truth, bound=bound)
    measured: dict[str, dict[OpSpec, float]] = {}
    while (op := plan.next()) is not None:
        measured.setdefault(select(op).name, {})[op] = truth[op]
        plan.tell(op, truth[op])
    models = {kernel: KernelModel.fit(kernel, rows) for kernel, rows in measured.items()}
    left = plan.estimated()
    errors = np.array([abs(models[select(op).name].estimate(op).cycles / truth[op] - 1) for op in left])
    count = sum(map(len, measured.values()))
    return (
        f"| {100 * bound:g} % | {count} | {100 * count / len(truth):.0f} % | {100 * errors.mean():.3f} % | "
        f"{100 * np.quantile(errors, 0.95):.3f} % | {100 * errors.max():.2f} % |"
    )


def random_order(truth: dict[OpSpec, float], share: float, seed: int) -> str:
    """One row for comparison: a random share of the operators instead of the plan's choice."""
    rng = np.random.default_rng(seed)
    ops = sorted(truth)
    chosen = set(rng.choice(len(ops), round(share * len(ops)), replace=False).tolist())
    measured: dict[str, dict[OpSpec, float]] = {}
    for i in chosen:
        measured.setdefault(select(ops[i]).name, {})[ops[i]] = truth[ops[i]]
    models = {kernel: KernelModel.fit(kernel, rows) for kernel, rows in measured.items()}
    left = [op for i, op in enumerate(ops) if i not in chosen and select(op).name in models]
    errors = np.array([abs(models[select(op).name].estimate(op).cycles / truth[op] - 1) for op in left])
    return (
        f"| at random | {len(chosen)} | {100 * share:.0f} % | {100 * errors.mean():.3f} % | "
        f"{100 * np.quantile(errors, 0.95):.3f} % | {100 * errors.max():.2f} % |"
    )


class Paced(BenchSession):
    """A session that takes as long as the board would: the modelled time, 50 repetitions, 115,200 baud."""

    def measure(self, op: OpSpec) -> Measurement:
        started = time.monotonic()
        found = super().measure(op)
        wanted = 50 * found.cycles / 168e6 + 60 * 10 / 115_200
        time.sleep(max(0.0, wanted - (time.monotonic() - started)))
        return found


def seconds(session: type[BenchSession], board_name: str, ops: list[OpSpec], targets: Targets) -> float:
    """The campaign alone: firmware is built and targets are running before the clock starts."""
    board = load_board(board_name)
    with tempfile.TemporaryDirectory() as folder:

        def factory(index: int) -> Callable[[], BenchSession]:
            return partial(session, board, Path(folder) / str(index))

        with (
            Fleet(factory, len(targets.each), board=board.name, ray=targets.ray) as fleet,
            Journal(Path(folder) / "j.sqlite", "benchmark") as book,
        ):
            for future in [worker.submit("measure", ANCHOR) for worker in fleet.workers]:
                future.result()
            started = time.monotonic()
            Campaign(Plan(ops), fleet.workers, book, Reporter(quiet=True), ANCHOR, board.name).run()
            return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--board", default="qemu-cortex-m4")
    board = parser.parse_args().board
    ops = space_operators()
    with tempfile.TemporaryDirectory() as folder:
        lut: Lut = profile(
            load_board(board), ops, journal=Path(folder) / "j.sqlite", reporter=Reporter(quiet=True)
        )
    truth = {op: lut.rows[op.key].cycles for op in ops if not lut.rows[op.key].refused}
    print(f"`python benchmarks/profiling.py --board {board}`\n")
    print(
        f"**Adaptive plan**, over the {len(truth)} operators of the default space at {SHAPES[0]} and {SHAPES[1]}. "
        "The error is that of the kernels' models on the operators left out, against their measurement.\n"
    )
    print("| stop at | measured | of all | mean error | 95 % | worst |\n|---|--:|--:|--:|--:|--:|")
    for bound in (0.01, 0.001, 0.0002):
        print(adaptive(truth, bound))
    for seed in (0, 1, 2):
        print(random_order(truth, 0.2, seed))
    print(
        f"\n**Several targets**, {len(ops)} operators; builds and starts not counted. Paced targets take as long as a "
        "168 MHz board at 115,200 baud with 50 repetitions would; the others run as fast as the emulator does, on "
        "two cores that also run this script. Seconds depend on the machine; the ratio is to one target.\n"
    )
    print("| targets | seconds | operators a second | ratio |\n|---|--:|--:|--:|")
    for kind, session, some in (("", BenchSession, ops), (", paced", Paced, ops[::4])):
        alone = 0.0
        for name, targets in (
            ("1", Targets()), ("2, threads", Targets(count=2)), ("2, Ray", Targets(count=2, ray="local")),
            ("4, threads", Targets(count=4)),
        ):  # fmt: skip
            taken = seconds(session, board, some, targets)
            alone = alone or taken
            print(f"| {name}{kind} | {taken:.1f} | {len(some) / taken:.0f} | {alone / taken:.2f}x |")


if __name__ == "__main__":
    main()
