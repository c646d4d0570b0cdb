"""`edgenas search`: find an architecture under the budgets."""

from __future__ import annotations

import typer

from pipeline.cli.common import DEFAULT_RUNS, DataPath, Json, RunFile, RunsDir, example, print_json, stdout


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas search examples/fashion_mnist_cortex_m4.toml"))
    def search(
        runfile: RunFile, data: DataPath = None, runs: RunsDir = DEFAULT_RUNS, json: Json = False
    ) -> None:
        """Search alone; needs the LUT but no board and no compiler when the LUT ships.

        Writes architecture.json and search.json into the run's folder.
        """
        from pipeline.run import Run, chosen

        run = Run.open(runfile, data=data, runs=runs, quiet=json)
        result = run.search()
        if json:
            print_json(result.to_json())
        else:
            stdout.print(chosen(result).describe(), markup=False)
            stdout.print(f"written: {run.folder / 'architecture.json'}", markup=False)
