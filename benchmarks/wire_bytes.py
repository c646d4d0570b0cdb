"""Bytes on the wire for a whole table, and how long they take at 115,200 baud beside the operators themselves.

    python benchmarks/wire_bytes.py > benchmarks/results/wire_bytes.md

Requests are those that the client would send; replies carry each operator's own tick count and the longest CRC. 8N1:
ten bits a byte, both directions one after the other, nothing lost. Each operator runs as often as the table says it
did; its time is the table's (modelled cycles at the board's clock).
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from pipeline.boards import load_board
from pipeline.latency.lut import Lut, Row
from pipeline.profiler import lut_path
from pipeline.space.kernels import select
from pipeline.wire.framing import Frame, encode
from pipeline.wire.messages import RESPONSE_BIT, Op, RunOpReply, RunOpRequest

BITS_A_BYTE = 10


def exchange_bytes(row: Row, ticks: int, seq: int) -> tuple[int, int]:
    """Bytes to the device and back for one run."""
    op, choice = row.op, select(row.op)
    request = RunOpRequest.of(op, choice, seed=1, repetitions=1)
    used = (
        op.in_bytes
        + op.out_bytes
        + op.in2_h * op.in2_w * op.in2_c
        + choice.scratch_bytes
        + choice.constant_bytes
    )
    reply = RunOpReply(ticks, 0xFFFFFFFF, op.out_bytes, used)
    there = encode(Frame(Op.RUN_OP, seq, request.pack()))
    back = encode(Frame(Op.RUN_OP | RESPONSE_BIT, seq, reply.pack()))
    return len(there), len(back)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", default="qemu-cortex-m4")
    parser.add_argument("--baud", type=int, default=115_200)
    args = parser.parse_args()

    board = load_board(args.board)
    rows = [row for row in Lut.load(lut_path(board)).rows.values() if not row.refused]
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    for seq, row in enumerate(rows):
        ticks = round(row.cycles * board.counter.hz / board.clock_hz)
        there, back = exchange_bytes(row, ticks, seq & 0xFFFF)
        seconds = row.cycles / board.clock_hz
        for kind in (row.op.kind, "all"):
            for i, value in enumerate((1, row.n, row.n * there, row.n * back, row.n * seconds)):
                totals[kind][i] += value
    everything = totals.pop("all")

    def line(name: str, values: list[float]) -> str:
        count, runs, there, back, computing = values
        wire = (there + back) * BITS_A_BYTE / args.baud
        return (
            f"| {name} | {count:.0f} | {runs:.0f} | {there:,.0f} | {back:,.0f} | {(there + back) / runs:.1f} "
            f"| {wire:.3f} | {computing:.3f} |"
        )

    print(f"# Bytes on the wire, {board.name}\n")
    print(
        f"`benchmarks/wire_bytes.py`: the whole table ({len(rows)} operators), {args.baud:,} baud, 8N1. ",
        end="",
    )
    print(f"Operators' time: modelled cycles at {board.clock_hz / 1e6:g} MHz, times their runs.\n")
    print(
        "| operator | rows | runs | bytes to the device | bytes back | bytes a run | s on the wire | s computing |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind, values in sorted(totals.items()):
        print(line(kind, values))
    print(line("**all**", everything))
    wire = (everything[2] + everything[3]) * BITS_A_BYTE / args.baud
    verdict = "less" if wire < everything[4] else "more"
    print(
        f"\nThe bytes take {wire:.2f} s, {verdict} than the operators' {everything[4]:.2f} s "
        f"({wire / everything[4]:.0%})."
    )
    fixed = RunOpRequest.size() + RunOpReply.size() + 20  # two frames' op, seq, CRC, COBS and delimiters
    print(
        f"With 32-bit fields instead of numbers of varying length a run would take {fixed} bytes and the table "
        f"{fixed * everything[1] * BITS_A_BYTE / args.baud:.2f} s."
    )


if __name__ == "__main__":
    main()
