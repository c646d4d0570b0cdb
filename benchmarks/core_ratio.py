"""Cycles on a Cortex-M7 over cycles on a Cortex-M4, engine by engine: published measurements beside what is simulated.

    python benchmarks/core_ratio.py > benchmarks/results/core_ratio.md

Nothing is run: simulated milliseconds are those of results/memory_waits.md, published ones are taken from
../shared/reference/mlperf_tiny_hardware.csv.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

from memory_waits import COLUMN
from mlperf_tiny import shared_folder

from pipeline.boards import load_board

M4 = "nucleo-l4r5zi"
M7 = ("nucleo-f767zi", "nucleo-h743zi2")
SIMULATED = Path(__file__).parent / "results" / "memory_waits.md"

TEXT = """# Cortex-M7 against Cortex-M4

`python benchmarks/core_ratio.py`. Cycles of one inference on a board with a Cortex-M7 over those on a Nucleo-L4R5ZI
(Cortex-M4), of the same engine. Published: other engines, measured by others (MLPerf Tiny results). edgenas: modelled,
with simulated waits ([memory_waits.md](memory_waits.md)). Engines and boards differ, so the published ratios bound the
modelled ones and validate none.

"""


def published() -> dict[tuple[str, str], dict[str, float]]:
    """Million cycles of each model, by (submitter, board)."""
    path = shared_folder() / "reference" / "mlperf_tiny_hardware.csv"
    if not path.is_file():
        sys.exit(f"there are no published figures at {path}")
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {
        (row["submitter"], row["board"]): {
            name: float(row["clock_mhz"]) / float(row[column]) for name, column in COLUMN.items()
        }
        for row in csv.DictReader(lines)
    }


def simulated(board: str) -> dict[str, float]:
    """Million cycles of each model on `board`, waits included."""
    clock_mhz = load_board(board).clock_hz / 1e6
    rows = [line.split("|") for line in SIMULATED.read_text().splitlines() if line.startswith(f"| {board} ")]
    return {row[2].strip(): float(row[4]) * clock_mhz / 1e3 for row in rows}


def line(engine: str, board: str, m7: Mapping[str, float], m4: Mapping[str, float]) -> str:
    ratios = " | ".join(f"{m7[name] / m4[name]:.2f}" for name in COLUMN)
    return f"| {engine} | {board} | {ratios} |\n"


def main() -> None:
    text = f"{TEXT}| engine | board | {' | '.join(COLUMN)} |\n|---|---|{'--:|' * len(COLUMN)}\n"
    found = published()
    on_m4 = {submitter: cycles for (submitter, board), cycles in found.items() if board == M4.upper()}
    for (submitter, board), cycles in found.items():
        if board != M4.upper() and submitter in on_m4:
            text += line(submitter, board, cycles, on_m4[submitter])
    for board in M7:
        text += line("edgenas (modelled)", board, simulated(board), simulated(M4))
    print(text, end="")


if __name__ == "__main__":
    main()
