"""The same table over a bad line as over a good one: thousands of measurements with 1 % of all bytes damaged.

    python benchmarks/wire_faults.py --count 10000 > benchmarks/results/wire_faults.md

Operators of the default search space are measured in turn, over and over, on the board's emulator: first over a clean
link, then over one that drops, flips, duplicates or delays bytes in both directions. Every measurement goes through
the journal, and the tables made from the two journals are compared.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="qemu-cortex-m4")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--part", type=float, default=0.01, help="of all bytes, shared by the four faults")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    board, reporter = load_board(args.board), Reporter()
    space = SearchSpace.for_input((28, 28, 1), 10)
    ops = sorted({op for op in space.operators() if op.kind != "reshape"})
    faults = Faults(*[args.part / 4] * 4, delay_s=0.005)
    links: list[LossyLink] = []

    def open_lossy(*arguments: object, **options: object) -> Link:
        links.append(LossyLink(open_link(*arguments, **options), faults, seed=args.seed + len(links)))  # type: ignore[arg-type]
        return links[-1]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good, kept, starts, seconds = measure(
            board, folder / "bench", folder / "good.sqlite", ops, args.count, reporter
        )
        bench.open_link = open_lossy  # type: ignore[assignment]
        bad, bad_kept, bad_starts, bad_seconds = measure(
            board, folder / "bench", folder / "bad.sqlite", ops, args.count, reporter
        )
    seen = sum((link.seen for link in links), Counter[str]())
    differ = [key for key in good if good[key] != bad[key]]
    print("# The same table over a bad line\n")
    print(
        f"`benchmarks/wire_faults.py --count {args.count}`: {args.board}, {len(ops)} operators in turn; ",
        end="",
    )
    print(
        f"{args.part:.1%} of all bytes dropped, flipped, duplicated or delayed, a quarter each, both ways.\n"
    )
    print("| | clean line | bad line |\n|---|---|---|")
    print(f"| measurements in the journal | {kept:,} | {bad_kept:,} |")
    print(f"| seconds | {seconds:.0f} | {bad_seconds:.0f} |")
    print(f"| measurements a second | {args.count / seconds:.0f} | {args.count / bad_seconds:.0f} |")
    print(f"| starts of the emulator | {starts} | {bad_starts} |")
    print(
        f"| bytes dropped / flipped / duplicated / delayed | 0 | {seen['dropped']:,} / {seen['flipped']:,} / ",
        end="",
    )
    print(f"{seen['duplicated']:,} / {seen['delayed']:,} |")
    print(f"| bytes carried | | {seen['carried']:,} |")
    print(f"\nRows of the table that differ: **{len(differ)} of {len(good)}**.")
    for key in differ[:10]:
        print(f"- {key}: {good[key]} / {bad[key]}")
    raise SystemExit(bool(differ) or bad_kept != args.count)


if __name__ == "__main__":
    main()
