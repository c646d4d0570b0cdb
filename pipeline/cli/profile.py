"""`edgenas profile`: measure operators into a latency table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import DataPath, EngineName, Json, example, finite, print_json, stdout


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas profile --board qemu-cortex-m4"))
    def profile(
        board: Annotated[
            list[str], typer.Option("--board", "-b", help="Repeat it for several boards at once.")
        ],
        runfile: Annotated[
            Path | None, typer.Option("--run", help="Measure the search space of this run file.")
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", help="Folder of tables; default: those that ship.")
        ] = None,
        engine: EngineName = "edgenas",
        port: Annotated[
            list[str] | None,
            typer.Option(
                "--port", help="Serial port of a real board, or ssh://user@host; repeat it for several."
            ),
        ] = None,
        error: Annotated[
            float | None,
            typer.Option(
                "--error",
                min=0.0,
                max=1.0,
                callback=finite,
                help="Stop when held-out operators are predicted within this "
                "fraction; 0 measures all. Default: 0 emulated, 0.01 on a real board.",
            ),
        ] = None,
        workers: Annotated[int, typer.Option("--workers", min=1, help="Emulators at work side by side.")] = 1,
        ray: Annotated[
            str | None,
            typer.Option("--ray", help="Spread the workers over a Ray cluster: its address, or 'local'."),
        ] = None,
        data: DataPath = None,
        json: Json = False,
    ) -> None:
        """Run the operator benchmark on a board (or its emulator) and write its latency table.

        Without --run the default search spaces for 28x28x1 and 32x32x3 inputs are measured. Interrupt it at any time:
        each measurement is journalled, and the next call goes on.
        """
        from pipeline.boards import load_board
        from pipeline.fleet import Targets
        from pipeline.stages import profile_boards

        targets = Targets(tuple(port or ()), workers, ray)
        boards = [load_board(name) for name in dict.fromkeys(board)]
        summaries = profile_boards(
            boards, runfile, out, quiet=json, engine=engine, bound=error, targets=targets, data=data
        )
        if json:
            print_json(summaries[0] if len(summaries) == 1 else summaries)
        for summary in [] if json else summaries:
            stdout.print(f"{summary['rows']} operators; written: {summary['path']}", markup=False)
