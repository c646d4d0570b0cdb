"""How fast the RTL boards simulate, and what a convolution takes on their cores.

    python benchmarks/rtl_speed.py > benchmarks/results/rtl_speed.md

Speed is simulated cycles per second of processor time of the simulator, which uses one core: best of `--rounds`,
since what else the machine does slows it down.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from pipeline.boards import Board, board_names, load_board
from pipeline.firmware import build, render_bench
from pipeline.links import ProcessLink, open_link
from pipeline.links.rtl import simulator
from pipeline.space.opspec import OpSpec
from pipeline.wire import Client

REPETITIONS = 5  # so that making the operators' data does not count for much
OPS = {
    "convolution 3x3, 28x28x16 to 28x28x8": OpSpec(
        "conv2d", 28, 28, 16, 28, 28, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1
    ),
    "convolution 1x1, 14x14x32 to 14x14x64": OpSpec("conv2d", 14, 14, 32, 14, 14, 64),
    "depthwise 3x3, 28x28x32": OpSpec(
        "depthwise_conv2d", 28, 28, 32, 28, 28, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1
    ),
    "fully connected, 512 to 64": OpSpec("fully_connected", 1, 1, 512, 1, 1, 64),
}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def processor_seconds(link: ProcessLink) -> float:
    fields = Path(f"/proc/{link.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(board: Board, elf: Path, rounds: int) -> tuple[dict[str, int], float]:
    """Cycles of each operator, and the best speed in cycles a second."""
    cycles: dict[str, int] = {}
    best = 0.0
    for _ in range(rounds):
        with open_link(board, elf) as link:
            assert isinstance(link, ProcessLink)
            client = Client(link)
            client.hello()
            before = processor_seconds(link)
            found = {name: client.run_op(op, repetitions=REPETITIONS).ticks for name, op in OPS.items()}
            best = max(best, sum(found.values()) / (processor_seconds(link) - before))
        assert not cycles or cycles == found, "cycles differ between runs"
        cycles = found
    return {name: round(ticks / REPETITIONS) for name, ticks in cycles.items()}, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--rebuild", action="store_true", help="also say how long the simulators take to compile"
    )
    args = parser.parse_args()

    boards = [b for b in map(load_board, board_names()) if b.emulator and b.emulator.kind == "verilator"]
    print(f"# Speed of the RTL simulations\n\n`python benchmarks/rtl_speed.py --rounds {args.rounds}", end="")
    print(
        f"{' --rebuild' if args.rebuild else ''}` on one core of: {processor()}, load {os.getloadavg()[0]:.1f}\n"
    )
    print(
        "Cycles are exact and the same in every round. Speed is per second of the simulator's processor time, best"
    )
    print("of all rounds; making the operators' data takes time too, and is not among the cycles.\n")
    print("| board | compiling, s | million cycles a second |\n|---|---|---|")
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for board in boards:
            assert board.emulator is not None
            seconds = "cached"
            if args.rebuild:
                os.environ["XDG_CACHE_HOME"] = folder
                started = time.monotonic()
                simulator(board.emulator.machine)
                seconds = f"{time.monotonic() - started:.0f}"
            built = build(render_bench(board, Path(folder) / board.name), board)
            cycles, speed = measure(board, built.elf, args.rounds)
            tables[board.name] = cycles
            print(f"| {board.name} | {seconds} | {speed / 1e6:.2f} |")
    print("\n| operator | MACs | " + " | ".join(f"{name}, cycles" for name in tables) + " |")
    print("|---|---|" + "---|" * len(tables))
    for name, op in OPS.items():
        row = [f"{cycles[name]:,} ({cycles[name] / op.macs:.2f} a MAC)" for cycles in tables.values()]
        print(f"| {name} | {op.macs:,} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
