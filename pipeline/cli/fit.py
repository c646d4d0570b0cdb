"""`edgenas fit`: what is fitted to whole models that ran on a target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline.cli.common import DEFAULT_RUNS, DataPath, Json, RunFile, RunsDir, example, print_json, stdout


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Fit latency models to whole models on a target.", no_args_is_help=True)
    app.add_typer(group, name="fit")

    @group.callback()
    def callback() -> None:
        """Fit latency models to whole models on a target."""

    @group.command(epilog=example("edgenas fit predictor examples/fashion_mnist_hwdarts.toml --out m4.npz"))
    def predictor(
        runfile: RunFile,
        out: Annotated[Path, typer.Option("--out", help="The predictor's file (.npz).")],
        models: Annotated[
            int | None,
            typer.Option("--models", min=20, help="Random architectures; default: the run file's."),
        ] = None,
        alone: Annotated[
            bool, typer.Option("--alone", help="Learn the latency itself, not a correction of the table.")
        ] = False,
        workers: Annotated[int, typer.Option("--workers", min=1, help="Emulators at work side by side.")] = 1,
        data: DataPath = None,
        runs: RunsDir = DEFAULT_RUNS,
        json: Json = False,
    ) -> None:
        """Build and run random architectures of the run's search space; fit a latency predictor to them.

        A part of the models is held out of the fit and states the error. `[search.predictor] file` uses it.
        """
        from pipeline.fit import fit_to_target
        from pipeline.fleet import Targets
        from pipeline.run import Run

        run = Run.open(runfile, data=data, runs=runs, quiet=json)
        config = run.settings.search.predictor
        config = replace(
            config, models=models or config.models, residual=config.residual and not alone, file=""
        )
        found = fit_to_target(
            run.block_space, run.table_cost, config, run.predictor_folder, run.reporter,
            targets=Targets(count=workers),
        )  # fmt: skip
        found.save(out)
        summary: dict[str, Any] = {
            "file": str(out),
            "board": found.identity.board,
            "provenance": found.provenance,
            "residual": found.residual,
            "models": found.models,
            **found.errors,
        }
        if json:
            print_json(summary)
            return
        stdout.print(
            f"fitted to {summary['fitted']} models on {found.identity.board} ({found.provenance}); "
            f"errors on {summary['held_out']} others:",
            markup=False,
        )
        table = Table(box=None, pad_edge=False)
        for column in ("prediction by", "MAE, ms", "MAPE", "worst", "Spearman", "Kendall"):
            table.add_column(column, justify="right" if column != "prediction by" else "left")
        for name in ("predictor", "table"):
            e = summary[name]
            table.add_row(
                name, f"{e['mae_ms']:.3f}", f"{100 * e['mape']:.3f} %", f"{100 * e['worst']:.2f} %",
                f"{e['spearman']:.4f}", f"{e['kendall']:.4f}",
            )  # fmt: skip
        stdout.print(table)
        stdout.print(f"written: {out}", markup=False)
