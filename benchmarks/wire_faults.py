"""The same table over bad lines as over a good one: thousands of measurements with 1 % of all bytes damaged.

    python benchmarks/wire_faults.py --count 10000 > benchmarks/results/wire_faults.md

Operators of the default search space are measured in turn, over and over, on the board's emulator: first over a clean
link, then over some that drop, flip, duplicate or delay bytes in both directions. Every measurement goes through the
journal, and the tables made from the journals are compared.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline.boards import Board, load_board
from pipeline.latency.lut import Row
from pipeline.links import Link, open_link
from pipeline.links.lossy import Faults, LossyLink
from pipeline.profiler import bench
from pipeline.profiler.bench import BenchSession
from pipeline.profiler.journal import Journal
from pipeline.progress import Reporter
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace


def measure(
    board: Board, folder: Path, journal: Path, ops: list[OpSpec], count: int, reporter: Reporter
) -> tuple[dict[str, Row | None], int, int, float]:
    """Rows, measurements in the journal, starts of the emulator, seconds."""
    with (
        BenchSession(board, folder) as session,
        Journal(journal, "wire_faults") as book,
        reporter.bar("measure", count) as bar,
    ):
        started = time.monotonic()
        for number, op in enumerate(itertools.islice(itertools.cycle(ops), count)):
            book.add(session.measure(op))
            bar.update(number + 1, op.kind)
        seconds = time.monotonic() - started
        kept = sum(len(book.of(op)) for op in ops)
        return {op.key: book.row(op) for op in ops}, kept, session.starts, seconds


LINES = {
    "clean": Faults(),
    "1 % dropped": Faults(drop=0.01),
    "1 % damaged, a quarter each": Faults(0.0025, 0.0025, 0.0025, 0.0025, delay_s=0.005),
    "1 % of each": Faults(0.01, 0.01, 0.01, 0.01, delay_s=0.005),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="qemu-cortex-m4")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    board, reporter = load_board(args.board), Reporter()
    space = SearchSpace.for_input((28, 28, 1), 10)
    ops = sorted({op for op in space.operators() if op.kind != "reshape"})
    print("# The same table over a bad line\n")
    print(
        f"`benchmarks/wire_faults.py --count {args.count}`: {args.board}, {len(ops)} operators in turn. ",
        end="",
    )
    print("Bytes are dropped, flipped (one bit), duplicated or delayed (5 ms), in both directions.\n")
    print(
        "| line | measurements in the journal | seconds | a second | starts | bytes carried | dropped | flipped ",
        end="",
    )
    print("| duplicated | delayed | rows that differ |")
    print("|---" * 11 + "|")
    expected: dict[str, Row | None] = {}
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for line, faults in LINES.items():
            links: list[LossyLink] = []

            def open_lossy(
                *arguments: object, faults: Faults = faults, links: list[LossyLink] = links, **options: object
            ) -> Link:
                inner = open_link(*arguments, **options)  # type: ignore[arg-type]
                links.append(LossyLink(inner, faults, seed=args.seed + len(links)))
                return links[-1]

            bench.open_link = open_lossy  # type: ignore[assignment]
            journal = folder / f"{len(list(folder.glob('*.sqlite')))}.sqlite"
            rows, kept, starts, seconds = measure(board, folder / "bench", journal, ops, args.count, reporter)
            expected = expected or rows
            differ = sum(rows[key] != expected[key] for key in expected)
            wrong += differ + (kept != args.count)
            seen = sum((link.seen for link in links), Counter[str]())
            figures = [seen[key] for key in ("carried", "dropped", "flipped", "duplicated", "delayed")]
            print(f"| {line} | {kept:,} | {seconds:.0f} | {args.count / seconds:.0f} | {starts} ", end="")
            print(
                "".join(f"| {figure:,} " for figure in figures) + f"| {differ} of {len(rows)} |", flush=True
            )
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
