"""TensorFlow Lite Micro's operators beside the generated engine's, on one emulated board.

    TFLM_ROOT=... python benchmarks/tflm.py [--board qemu-cortex-m4] [--per-kernel 4] [--out benchmarks/results/tflm.md]

Operators of the default search spaces, a few for each kernel, are measured as `edgenas profile` does it, on
every engine whose library is there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

from pipeline.boards import Board, load_board
from pipeline.errors import ToolError
from pipeline.profiler.engines import ENGINES, engine_named
from pipeline.profiler.journal import Measurement
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

EXTRA = (  # what the default spaces have not
    OpSpec("avg_pool", 14, 14, 16, 7, 7, 16, 2, 2, 2, 2),
    OpSpec("pad", 14, 14, 16, 16, 16, 16, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
    OpSpec("softmax", 1, 1, 10, 1, 1, 10),
)


def operators(per_kernel: int) -> list[OpSpec]:
    """The median-sized operators of each kernel, evenly spread over their sizes."""
    spaces = [SearchSpace.for_input(shape, 10) for shape in ((28, 28, 1), (32, 32, 3))]
    by_kernel: dict[str, list[OpSpec]] = defaultdict(list)
    for op in {*EXTRA, *(op for space in spaces for op in space.operators())}:
        if op.kind != "reshape":
            by_kernel[f"{select(op).name} {op.kind}"].append(op)
    chosen = []
    for ops in by_kernel.values():
        ops.sort(key=lambda op: (op.macs or op.out_bytes, op))
        count = min(per_kernel, len(ops))
        chosen += [ops[(2 * i + 1) * len(ops) // (2 * count)] for i in range(count)]
    return sorted(chosen, key=lambda op: (select(op).name, op.kind, op.macs or op.out_bytes))


def measure(board: Board, ops: list[OpSpec], folder: Path) -> dict[str, dict[OpSpec, Measurement]]:
    """By engine; engines that are not there are left out, and said so."""
    found = {}
    for name in ENGINES:
        try:
            session = engine_named(name).session(board, folder / name)
        except ToolError as error:
            print(f"{name}: {error.message}")
            continue
        try:
            found[name] = {op: session.measure(op) for op in ops}
        finally:
            session.close()
    return found


def short(op: OpSpec) -> str:
    text = f"{op.in_h}x{op.in_w}x{op.in_c} to {op.out_h}x{op.out_w}x{op.out_c}"
    if op.kernel_h * op.kernel_w > 1:
        text += f", {op.kernel_h}x{op.kernel_w} /{op.stride_h}"
    return f"{op.kind} {text}" + (f", {op.activation}" if op.activation != "none" else "")


def report(board: Board, found: dict[str, dict[OpSpec, Measurement]], ops: list[OpSpec]) -> str:
    names = list(found)
    lines = [
        f"| operator | {' | '.join(names)} | {' | '.join(f'{n} : {names[0]}' for n in names[1:])} |",
        f"|---|{'---:|' * (2 * len(names) - 1)}",
    ]
    for op in ops:
        runs = [found[name][op] for name in names]
        cells = [f"{run.instructions:,}" if not run.refused else f"refused ({run.refused})" for run in runs]
        for run in runs[1:]:
            cells.append(f"{run.instructions / runs[0].instructions:.2f}" if not run.refused else "")
        lines.append(f"| {short(op)} | {' | '.join(cells)} |")
    totals = [sum(found[name][op].instructions for op in ops) for name in names]
    cells = [f"{total:,}" for total in totals] + [f"{total / totals[0]:.2f}" for total in totals[1:]]
    lines.append(f"| **all of them** | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--board", default="qemu-cortex-m4")
    parser.add_argument("--per-kernel", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    board, ops = load_board(arguments.board), operators(arguments.per_kernel)
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        found = measure(board, ops, Path(folder))
    revisions = [
        f"- {name}: revision `{identity.engine_revision}`, {identity.compiler}"
        for name in found
        for identity in [engine_named(name).identity(board)]
    ]
    text = (
        f"# TensorFlow Lite Micro beside the generated engine: {board.name}\n\n"
        "Executed instructions of one operator alone, counted by the emulator (`benchmarks/tflm.py`). The\n"
        "interpreter's include its dispatch of one operator; the generated engine's include no call.\n\n"
        + "\n".join(revisions) + "\n\n" + report(board, found, ops)
    )  # fmt: skip
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
