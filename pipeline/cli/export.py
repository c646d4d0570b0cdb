"""`edgenas export`: the chosen architecture, trained and quantized, as an INT8 .tflite."""

from __future__ import annotations

import typer

from pipeline.cli.common import (
    DEFAULT_RUNS,
    DataPath,
    Json,
    RunFile,
    RunsDir,
    example,
    print_figures,
    print_json,
    stdout,
)
from pipeline.figures import Figure


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas export examples/fashion_mnist_cortex_m4.toml"))
    def export(
        runfile: RunFile, data: DataPath = None, runs: RunsDir = DEFAULT_RUNS, json: Json = False
    ) -> None:
        """Train, quantize and write model.tflite, searching first where that is not done yet."""
        from pipeline.run import Run

        run = Run.open(runfile, data=data, runs=runs, quiet=json)
        result = run.export()
        if json:
            print_json(result)
        else:
            rows = [
                (f"accuracy, {name.replace('_', '-')}", Figure.from_json(figure))
                for name, figure in result["accuracy"].items()
            ]
            print_figures(run.settings.name, rows)
            stdout.print(f"written: {run.folder / 'model.tflite'}", markup=False)
