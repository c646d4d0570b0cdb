"""How few measurements a latency table needs, and what a second target saves.

    python benchmarks/profiling.py [--board qemu-cortex-m4] [--plan-only] > benchmarks/results/profiling.md

The table that ships is used where it is of these sources and this compiler, else it is measured. 200 whole models take
some minutes; `--journal runs/check` uses those of `edgenas lut check --count 200 --seed 1 --out runs/check`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import Board, load_board
from pipeline.check.models import check_table, drawn, spearman
from pipeline.errors import LutError
from pipeline.fleet import Fleet, Targets
from pipeline.latency.cost import CostModel
from pipeline.latency.interpolate import KernelModel
from pipeline.latency.lut import Lut
from pipeline.profiler import obtain
from pipeline.profiler.bench import BenchSession
from pipeline.profiler.calibration import ANCHOR, calibration_operators
from pipeline.profiler.campaign import Campaign
from pipeline.profiler.journal import Journal, Measurement
from pipeline.profiler.plan import Plan
from pipeline.progress import Reporter
from pipeline.space.architecture import lower
from pipeline.space.graph import OpGraph
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

SHAPES = ((28, 28, 1), (32, 32, 3))


def space_operators() -> list[OpSpec]:
    spaces = [SearchSpace.for_input(shape, 10) for shape in SHAPES]
    return sorted({op for space in spaces for op in space.operators() if op.kind != "reshape"})


@dataclass(frozen=True)
class Models:
    """Whole models that ran on the board, and the table that the measurements are part of."""

    board: Board
    lut: Lut
    graphs: list[OpGraph]
    observed: NDArray[np.float64]  # cycles

    @classmethod
    def run(cls, board: Board, lut: Lut, count: int, seed: int, folder: Path) -> Models:
        """Those of `edgenas lut check` with the same seed; what its journal in `folder` has is not run again."""
        found = check_table(board, lut, count, folder, Reporter(quiet=True), seed=seed)
        drawn_ones = drawn(SearchSpace.for_input(SHAPES[0], 10), count, seed)
        graphs = [lower(drawn_ones[model.number]) for model in found]
        return cls(board, lut, graphs, np.array([model.observed for model in found]))

    def errors(self, measured: set[OpSpec]) -> str:
        """MAPE, worst and Spearman of the table that has these rows only; the overheads stay."""
        rows = {key: row for key, row in self.lut.rows.items() if row.op in measured}
        cost = CostModel(self.board, replace(self.lut, rows=rows, calibration=None))
        try:
            predicted = np.array([cost.predict(graph).total_cycles for graph in self.graphs])
        except LutError:
            return "a kernel has none | | "
        off = np.abs(predicted / self.observed - 1)
        return (
            f"{100 * off.mean():.4f} % | {100 * off.max():.3f} % | {spearman(predicted, self.observed):.5f}"
        )


def plan_order(truth: dict[OpSpec, float], bound: float, most: int | None = None) -> list[OpSpec]:
    """What the plan measures, in its order, until its kernels are done at `bound` or there are `most`."""
    plan, order = Plan(truth, bound=bound), list[OpSpec]()
    while len(order) != most and (op := plan.next()) is not None:
        plan.tell(op, truth[op])
        order.append(op)
    return order


def row(name: str, truth: dict[OpSpec, float], measured: list[OpSpec], models: Models) -> str:
    """One row: how the operators left out are predicted from those measured, and whole models."""
    by_kernel: dict[str, dict[OpSpec, float]] = {}
    for op in measured:
        by_kernel.setdefault(select(op).name, {})[op] = truth[op]
    fits = {kernel: KernelModel.fit(kernel, rows) for kernel, rows in by_kernel.items()}
    left = [op for op in sorted(truth.keys() - set(measured)) if select(op).name in fits]
    errors = np.array([abs(fits[select(op).name].estimate(op).cycles / truth[op] - 1) for op in left])
    return (
        f"| {name} | {len(measured)} | {100 * len(measured) / len(truth):.1f} % | {100 * errors.mean():.3f} % | "
        f"{100 * np.quantile(errors, 0.95):.3f} % | {100 * errors.max():.2f} % | {models.errors(set(measured))} |"
    )


def show_plan(truth: dict[OpSpec, float], models: Models) -> None:
    """Error against number of measurements: shares of the grid, the plan's own ends, and random choices."""
    print(
        f"**Adaptive plan**, over the {len(truth)} operators of the default space at {SHAPES[0]} and {SHAPES[1]}. "
        "Operators: error of the kernels' models on those left out, against their measurement. Whole models: a table "
        f"of the measured operators alone, against {len(models.graphs)} random architectures ({SHAPES[0]}, as "
        "`edgenas lut check --seed 1` draws them), built and run.\n"
    )
    print(
        "| stop at | measured | of all | operators, mean | 95 % | worst | models, MAPE | worst | Spearman |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    endless = plan_order(truth, 1e-9)
    for share in (0.05, 0.1, 0.15, 0.2):
        print(row(f"{100 * share:g} % of the grid", truth, endless[: int(share * len(truth))], models))
    for bound in (0.01, 0.001, 0.0002):
        print(row(f"predictions within {100 * bound:g} %", truth, plan_order(truth, bound), models))
    ops = sorted(truth)
    for seed in (0, 1, 2):
        chosen = np.random.default_rng(seed).choice(len(ops), round(0.15 * len(ops)), replace=False)
        print(row("15 % at random", truth, [ops[i] for i in sorted(chosen)], models))
    small = {
        op: models.lut.rows[op.key].cycles for op in calibration_operators() if op.key in models.lut.rows
    }
    both = plan_order(small | truth, 0.01)
    print(
        f"\n`edgenas profile --error 0.01` also covers operators outside the space, from {len(small)} small ones: "
        f"{len(both)} of {len(small | truth)} are measured then, {len(set(both) & truth.keys())} of them of the grid."
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
    parser.add_argument("--models", type=int, default=200, help="whole models that are built and run")
    parser.add_argument(
        "--journal", type=Path, help="folder of `edgenas lut check --seed 1 --out`, used and extended"
    )
    parser.add_argument("--plan-only", action="store_true")
    args = parser.parse_args()
    board, ops = load_board(args.board), space_operators()
    print(f"`python benchmarks/profiling.py --board {board.name}`\n")
    with tempfile.TemporaryDirectory() as folder:
        lut = obtain(board, ops, folder=Path(folder), reporter=Reporter(quiet=True))
        models = Models.run(board, lut, args.models, 1, args.journal or Path(folder) / "check")
        truth = {op: lut.rows[op.key].cycles for op in ops if not lut.rows[op.key].refused}
        show_plan(truth, models)
    if not args.plan_only:
        show_targets(board.name, ops)


def show_targets(board: str, ops: list[OpSpec]) -> None:
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
