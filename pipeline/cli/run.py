"""`edgenas run`: all stages, end to end, with one report."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.common import DEFAULT_RUNS, DataPath, Json, RunFile, RunsDir, example, print_json
from pipeline.cli.outcome import print_outcome


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas run examples/fashion_mnist_cortex_m4.toml"))
    def run(
        runfile: RunFile,
        data: DataPath = None,
        runs: RunsDir = DEFAULT_RUNS,
        port: Annotated[
            list[str] | None,
            typer.Option(
                "--port", help="Serial port of a real board, or ssh://user@host; repeat it for several."
            ),
        ] = None,
        json: Json = False,
    ) -> None:
        """Search, train, export, build, run on the (emulated) device and report.

        Interrupt it at any time: the same command goes on where it stopped. Exit status 1 when the model
        breaks a budget or its outputs differ from the reference. A real board must be in reach from the start;
        `edgenas export` goes as far as none is needed.
        """
        from pipeline.fleet import Targets
        from pipeline.run import Run

        run = Run.open(runfile, data=data, runs=runs, quiet=json)
        result = run.everything(Targets(tuple(port or ())))
        if json:
            print_json(result)
        else:
            print_outcome(result)
        raise typer.Exit(0 if result["feasible"] else 1)
