"""`edgenas run`: all stages, end to end, with one report."""

from __future__ import annotations

import typer

from pipeline.cli.common import DEFAULT_RUNS, DataPath, Json, RunFile, RunsDir, example, print_json
from pipeline.cli.outcome import print_outcome


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas run examples/fashion_mnist_cortex_m4.toml"))
    def run(
        runfile: RunFile,
        data: DataPath = None,
        runs: RunsDir = DEFAULT_RUNS,
        json: Json = False,
    ) -> None:
        """Search, train, export, build, run on the (emulated) device and report.

        Interrupt it at any time: the same command goes on where it stopped. Exit status 1 when the model
        breaks a budget or its outputs differ from the reference.
        """
        from pipeline.run import Run

        result = Run.open(runfile, data=data, runs=runs, quiet=json).everything()
        if json:
            print_json(result)
        else:
            print_outcome(result)
        raise typer.Exit(0 if result["feasible"] else 1)
