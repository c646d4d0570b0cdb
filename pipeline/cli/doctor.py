"""`edgenas doctor`: what is installed here and what to do about each gap."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli.common import Json, example, print_json, stdout
from pipeline.doctor import BoardCheck, Check, examine, examine_board, examine_boards


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas doctor --board nucleo-f446re"))
    def doctor(
        board: Annotated[
            str | None, typer.Option("--board", "-b", help="Only this board, with each of its tools.")
        ] = None,
        json: Json = False,
    ) -> None:
        """Show toolchains, emulators, flashers, ports and packages, and what to do about each gap.

        Exit status 1 when something needed for the emulated boards (or with --board, for this one) is missing;
        2 where there is no such board.
        """
        if board is not None:
            one = examine_board(board)
            if json:
                print_json(one.to_json())
            else:
                stdout.print(_parts_table(one))
            raise typer.Exit(0 if one.can_run else 1)
        boards = examine_boards()
        checks = examine(boards)
        if json:
            print_json({"checks": [check.to_json() for check in checks],
                        "boards": [one.to_json() for one in boards]})  # fmt: skip
        else:
            stdout.print(_checks_table(checks))
            stdout.print(_boards_table(boards))
        raise typer.Exit(0 if all(check.ok or not check.needed for check in checks) else 1)


def _checks_table(checks: list[Check]) -> Table:
    table = _table("", "what", "found", "what to do")
    for check in checks:
        mark = "ok" if check.ok else ("MISSING" if check.needed else "-")
        table.add_row(mark, *map(escape, (check.name, check.found, "" if check.ok else check.remedy)))
    return table


def _boards_table(boards: list[BoardCheck]) -> Table:
    table = _table("board", "build", "flash", "run", "flashers that are installed", "what to do")
    for board in boards:
        flashers = [part.name for part in board.parts if part.part == "flasher"]
        usable = [part.name for part in board.parts if part.part == "flasher" and part.ok]
        flash = ("yes" if board.can_flash else "no") if flashers else "not needed"
        table.add_row(
            board.board, "yes" if board.can_build else "no", flash, "yes" if board.can_run else "no",
            ", ".join(usable), escape("; ".join(board.gaps)),
        )  # fmt: skip
    return table


def _parts_table(board: BoardCheck) -> Table:
    table = _table("", "part", "name", "found", "what to do")
    for part in board.parts:
        remedy = "" if part.ok else part.remedy
        table.add_row("ok" if part.ok else "-", part.part, *map(escape, (part.name, part.found, remedy)))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
