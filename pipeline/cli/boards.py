"""`edgenas boards`: the boards that ship, or one of them in full."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from pipeline.assets import asset_dir
from pipeline.boards import Board, board_names, load_board
from pipeline.cli.common import Json, example, print_json, stdout


def tables(board: Board) -> list[str]:
    """Engines that a latency table of `board` ships for."""
    return sorted(path.stem for path in (asset_dir("luts") / board.name).glob("*.csv"))


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas boards qemu-cortex-m4"))
    def boards(
        name: Annotated[str | None, typer.Argument(help="Show this board in full.")] = None,
        json: Json = False,
    ) -> None:
        """List the boards, or show one with the source of each number."""
        chosen = [load_board(n) for n in ([name] if name else board_names())]
        if json:
            print_json(
                [
                    {**{k: v for k, v in asdict(board).items() if k != "path"}, "tables": tables(board)}
                    for board in chosen
                ]
            )
        elif name and chosen[0].path:
            # the board file is written to be read: values, comments and references
            stdout.print(chosen[0].path.read_text(encoding="utf-8"), markup=False)
        else:
            table = Table(box=None, pad_edge=False)
            for column in ("board", "core", "MHz", "SRAM", "flash", "latencies", "tables", "description"):
                table.add_column(column, overflow="fold")
            for board in chosen:
                table.add_row(
                    board.name,
                    board.core.name,
                    f"{board.clock_hz / 1e6:g}",
                    f"{board.memory.sram.bytes // 1024} KiB",
                    f"{board.memory.flash.bytes // 1024} KiB",
                    board.latency_provenance,
                    ", ".join(tables(board)) or "-",
                    board.description,
                )
            stdout.print(table)
