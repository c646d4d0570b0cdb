"""`edgenas fit`: what is fitted to a target: a predictor of whole models, another board's table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline.cli.common import (
    DEFAULT_RUNS,
    BoardName,
    DataPath,
    Json,
    RunFile,
    RunsDir,
    example,
    print_json,
    stdout,
)


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Fit latency models to a target.", no_args_is_help=True)
    app.add_typer(group, name="fit")

    @group.callback()
    def callback() -> None:
        """Fit latency models to a target."""

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
        from pipeline.fleet import Targets
        from pipeline.run import Run

        run = Run.open(runfile, data=data, runs=runs, quiet=json)
        found = run.fit_predictor(out, models=models, alone=alone, targets=Targets(count=workers))
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

    @group.command(epilog=example("edgenas fit transfer --board nucleo-l4r5zi --port /dev/ttyACM0"))
    def transfer(
        board: BoardName,
        base: Annotated[
            str,
            typer.Option(help="A board, or a table (.csv); default: an emulated board with the same core."),
        ] = "",
        measurements: Annotated[
            int | None,
            typer.Option(
                "--measurements", min=5, help="Operators to have measured; default: 20, none with --measured."
            ),
        ] = None,
        measured: Annotated[
            list[Path] | None,
            typer.Option(
                "--measured", help="A table of this board (.csv), however small; repeat it for more."
            ),
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", help="Folder of tables; default: those that ship.")
        ] = None,
        port: Annotated[
            list[str] | None,
            typer.Option(
                "--port", help="Serial port of a real board, or ssh://user@host; repeat it for several."
            ),
        ] = None,
        workers: Annotated[int, typer.Option("--workers", min=1, help="Emulators at work side by side.")] = 1,
        json: Json = False,
    ) -> None:
        """Correct an emulated board's table by a handful of measurements on this one, and write the whole table.

        Operators are chosen so that their measurements tell most of the others. Rows that were not measured are
        modelled; their intervals and the stated error come from measurements left out of the fit. What was measured
        before (the journal, the table there) counts and stays as it is.
        """
        from pipeline import fit
        from pipeline.fleet import Targets

        lut, path = fit.transfer_table(
            board, base, measurements, tuple(measured or ()), out,
            targets=Targets(tuple(port or ()), workers), quiet=json,
        )  # fmt: skip
        about = {**fit.summary(lut), "path": str(path)}
        if json:
            print_json(about)
            return
        stdout.print(
            f"{about['measurements']} operators of {about['board']} measured, {about['transferred_rows']} of "
            f"{about['base']} corrected (modelled)\n{about['correction']}\nleft out of the fit, measurements are "
            f"{100 * about['mape']:.1f} % off on average, {100 * about['worst']:.1f} % at most",
            markup=False,
        )
        table = Table(box=None, pad_edge=False)
        for column in ("kernel", "measured", "corrected", "interval, median", "widest"):
            table.add_column(column, justify="right" if column != "kernel" else "left")
        for name, k in about["kernels"].items():
            table.add_row(
                name.removeprefix("edgenas_"), str(k["measured"]), str(k["rows"]),
                f"+{100 * k['interval_median']:.1f} %", f"+{100 * k['interval_widest']:.1f} %",
            )  # fmt: skip
        stdout.print(table)
        stdout.print(f"written: {path}", markup=False)
