"""`edgenas profile`: measure operators into a latency table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import BoardName, EngineName, Json, example, print_json, stdout


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas profile --board qemu-cortex-m4"))
    def profile(
        board: BoardName,
        runfile: Annotated[
            Path | None, typer.Option("--run", help="Measure the search space of this run file.")
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", help="Folder of tables; default: those that ship.")
        ] = None,
        engine: EngineName = "edgenas",
        json: Json = False,
    ) -> None:
        """Run the operator benchmark on a board (or its emulator) and write its latency table.

        Without --run the default search spaces for 28x28x1 and 32x32x3 inputs are measured. Interrupt it at any time:
        each measurement is journalled, and the next call goes on.
        """
        from pipeline.boards import load_board
        from pipeline.stages import profile_board

        summary = profile_board(load_board(board), runfile, out, quiet=json, engine=engine)
        if json:
            print_json(summary)
        else:
            stdout.print(f"{summary['rows']} operators; written: {summary['path']}", markup=False)
