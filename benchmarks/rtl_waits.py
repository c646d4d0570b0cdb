"""Cycles of RTL cores behind memories with wait states against the timing models: whole models and single operators.

    python benchmarks/rtl_waits.py > benchmarks/results/rtl_waits.md

As `rtl_models.py`, which has memories without wait states; both sides have the same here. Operators are those of the
calibration set, every `--every`-th, in the benchmark firmware.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from rtl_models import BOARDS, an_input, built, inference

from pipeline.boards import Board, load_board
from pipeline.check import drawn
from pipeline.profiler.bench import BenchSession
from pipeline.profiler.calibration import calibration_operators
from pipeline.profiler.footprint import sample_network
from pipeline.space.architecture import lower
from pipeline.space.search_space import SearchSpace

Waits = tuple[int, int]  # of flash and SRAM

INTRODUCTION = """\
# Memories with wait states: cycles of RTL cores against the timing models

`python benchmarks/rtl_waits.py`. Counted: cycle-accurate (mcycle in simulated RTL). Modelled: blocks that QEMU
executed. Both with the same wait states of flash (code, weights) and SRAM, on a bus with one access of a port at a time
(`firmware/emulator/rtl/soc_bus.sv`).

Random architectures of the default space ({shape}x{shape}x1, seed 0), all layers of one inference. Without: what the
model would say that knows no wait states.

| core | flash, SRAM | models | million cycles | mean difference | worst | without |
|---|--:|--:|--:|--:|--:|--:|"""
OPERATORS = """
Single operators in the benchmark firmware:

| core | flash, SRAM | operators | mean difference | worst | where | beyond 0.5 % |
|---|--:|--:|--:|--:|---|--:|"""


def waiting(board: Board, flash: int, sram: int) -> Board:
    """`board` with other wait states."""
    memory = board.memory
    return replace(
        board,
        memory=replace(
            memory,
            flash=replace(memory.flash, wait_states=flash),
            sram=replace(memory.sram, wait_states=sram),
        ),
    )


def whole_models(name: str, networks: list[bytes], waits: list[Waits], folder: Path) -> None:
    """Prints the rows of one core."""
    rows: dict[Waits, list[tuple[float, float, float]]] = {}
    for seed, content in enumerate(networks):
        x = an_input(content, seed)
        (rtl, on_rtl), (emulated, on_emulated) = built(content, name, BOARDS[name], folder)
        plain = inference((emulated, on_emulated), x)[0]
        for both in waits:
            counted, modelled = (
                inference((waiting(board, *both), elf), x)
                for board, elf in ((rtl, on_rtl), (emulated, on_emulated))
            )
            assert counted[1] == modelled[1]
            rows.setdefault(both, []).append((counted[0], modelled[0], plain))
            print(f"random {seed} on {name}, {both}: {rows[both][-1]}", file=sys.stderr, flush=True)
    for (flash, sram), found in rows.items():
        counts, models, without = np.array(found).T
        errors, static = np.abs(models / counts - 1), without / counts - 1
        print(
            f"| {name} | {flash}, {sram} | {len(found)} | {counts.min() / 1e6:.1f} to {counts.max() / 1e6:.1f} "
            f"| {100 * errors.mean():.4f} % | {100 * errors.max():.4f} % | {100 * static.mean():.1f} % |",
            flush=True,
        )


def operators(name: str, every: int, waits: list[Waits], folder: Path) -> None:
    """Prints the rows of one core."""
    emulated = load_board("qemu-rv32")
    emulated = replace(emulated, core=replace(emulated.core, timing=BOARDS[name]))
    chosen = [op for op in calibration_operators() if op.kind != "reshape"][::every]
    for both in waits:
        found = []
        with (
            BenchSession(waiting(load_board(name), *both), folder / name) as rtl,
            BenchSession(waiting(emulated, *both), folder / "emulated") as qemu,
        ):
            for op in chosen:
                counted, modelled = rtl.measure(op), qemu.measure(op)
                if counted.refused or modelled.refused:
                    print(f"{op.key} on {name}: refused", file=sys.stderr, flush=True)
                    continue
                found.append((modelled.cycles / counted.cycles - 1, counted.cycles, op.key))
        errors = np.abs([error for error, _, _ in found])
        error, cycles, key = found[int(errors.argmax())]
        print(
            f"| {name} | {both[0]}, {both[1]} | {len(found)} | {100 * errors.mean():.3f} % | {100 * error:+.2f} % "
            f"| {key.partition(':')[0]} of {cycles:,.0f} cycles | {int((errors > 0.005).sum())} |",
            flush=True,
        )


def main() -> None:
    def pair(text: str) -> Waits:
        flash, sram = map(int, text.split(","))
        return flash, sram

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3, help="random models")
    parser.add_argument("--shape", type=int, default=14, help="height and width of the random models' images")
    parser.add_argument("--every", type=int, default=6, help="of the calibration set's operators")
    parser.add_argument("--board", choices=BOARDS, action="append")
    parser.add_argument(
        "--waits", type=pair, nargs="+", default=[(1, 0), (2, 0), (0, 1)], metavar="FLASH,SRAM"
    )
    parser.add_argument(
        "--operator-waits", type=pair, nargs="+", default=[(1, 0), (2, 1)], metavar="FLASH,SRAM"
    )
    args = parser.parse_args()
    boards = args.board or list(BOARDS)
    space = SearchSpace.for_input((args.shape, args.shape, 1), 10, blocks=7)
    networks = [sample_network(lower(a), seed=n) for n, a in enumerate(drawn(space, args.count, 0))]
    print(INTRODUCTION.format(shape=args.shape), flush=True)
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        for name in boards:
            whole_models(name, networks, args.waits, Path(folder) / name)
        print(OPERATORS, flush=True)
        for name in boards:
            operators(name, args.every, args.operator_waits, Path(folder) / f"{name}-bench")


if __name__ == "__main__":
    main()
