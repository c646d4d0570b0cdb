"""`edgenas adapt`: the edge stage, from a finished search to firmware for today's data and condition."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import DEFAULT_RUNS, DataPath, Json, RunFile, RunsDir, example, finite, print_json
from pipeline.cli.outcome import print_outcome


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas adapt examples/fashion_mnist_adapt.toml --data local.npz"))
    def adapt(
        runfile: RunFile,
        data: DataPath = None,
        runs: RunsDir = DEFAULT_RUNS,
        cloud: Annotated[
            Path | None, typer.Option("--cloud", help="Folder of the run to adapt; overrides [adapt] cloud.")
        ] = None,
        clock_hz: Annotated[
            int | None, typer.Option("--clock-hz", min=1, help="Present clock of the core.")
        ] = None,
        latency_scale: Annotated[
            float | None,
            typer.Option(
                "--latency-scale", callback=finite, help="Present load: how much longer it takes, >= 1."
            ),
        ] = None,
        measure: Annotated[
            bool, typer.Option("--measure", help="Measure the load on the board now (benchmark firmware).")
        ] = False,
        port: Annotated[str | None, typer.Option("--port", help="Serial port of a real board.")] = None,
        json: Json = False,
    ) -> None:
        """Adapt a finished search to local data and limits, then train, export, build, run and report.

        Local data stay on this machine: connections to others are refused while they are used. Interrupt it at any
        time: the same command goes on where it stopped. Exit status as of `edgenas run`.
        """
        from pipeline.adapt import EdgeRun, Options
        from pipeline.fleet import Targets

        run = EdgeRun.open(runfile, data=data, runs=runs, quiet=json)
        run.configure(Options(cloud, clock_hz, latency_scale, measure, port))
        result = run.everything(Targets((port,) if port else ()))
        if json:
            print_json(result)
        else:
            print_outcome(result)
        raise typer.Exit(0 if result["feasible"] else 1)
