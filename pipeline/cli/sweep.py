"""`edgenas sweep`: search methods compared over seeds and latency limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.common import DataPath, Json, RunFile, example, print_json, stdout


def register(app: typer.Typer) -> None:
    @app.command(
        epilog=example(
            "edgenas sweep examples/fashion_mnist_cortex_m4.toml --seeds 0-4 --latency-ms 20,35,50"
        )
    )
    def sweep(
        runfile: RunFile,
        seeds: Annotated[str, typer.Option("--seeds", help="For instance 0-4 or 0,3,7.")] = "0-4",
        methods: Annotated[
            str,
            typer.Option(
                "--methods",
                help="Search methods, separated by commas; default: edgenas,random,evolution, for cells "
                "hypernetwork,random,evolution.",
            ),
        ] = "",
        latency_ms: Annotated[
            str, typer.Option("--latency-ms", help="Limits, separated by commas; default: the run file's.")
        ] = "",
        out: Annotated[
            Path | None, typer.Option("--out", help="Folder; default: sweeps/<run's name>.")
        ] = None,
        workers: Annotated[
            int | None, typer.Option("--workers", min=1, help="Searches at a time; default: one a processor.")
        ] = None,
        threads: Annotated[
            int | None,
            typer.Option("--threads", min=1, help="Threads of each; default: the processors divided."),
        ] = None,
        ray: Annotated[
            str | None,
            typer.Option("--ray", help="Spread the searches over a Ray cluster: its address, or 'local'."),
        ] = None,
        judge_steps: Annotated[
            int,
            typer.Option(
                "--judge-steps", min=0, help="Training from scratch by which winners are compared; 0: none."
            ),
        ] = 1000,
        train: Annotated[
            bool, typer.Option("--train", help="Train every winner in full instead, as the run file says.")
        ] = False,
        data: DataPath = None,
        json: Json = False,
    ) -> None:
        """Search with every method, seed and latency limit; write sweep.json and sweep.html.

        Interrupt it at any time: finished searches are kept one a file, and the same command goes on with
        the others from their checkpoints. Exit status 1 where a search failed (not where nothing fits).
        """
        from pipeline.progress import Reporter
        from pipeline.report import write_sweep
        from pipeline.runfile import load_runfile
        from pipeline.sweep import open_sweep, summarize

        reporter = Reporter(quiet=json)
        settings = load_runfile(runfile)
        folder = out or Path("sweeps") / settings.name
        job = open_sweep(
            settings, folder, reporter, methods=methods, seeds=seeds, latency_ms=latency_ms, data=data,
            judge_steps=judge_steps, train=train,
        )  # fmt: skip
        job.run(workers, threads, ray)
        document = summarize(job, settings.name, settings.board.description)
        page = write_sweep(folder, document)
        if json:
            print_json(document)
        else:
            _print(document)
            stdout.print(f"written: {page}", markup=False)
        raise typer.Exit(1 if any(f["kind"] == "failed" for f in document["failures"]) else 0)


def _print(document: dict[str, Any]) -> None:
    """Hypervolumes and the best of each limit, each with where its figures come from."""
    latency, accuracy = document["latency_provenance"], document["accuracy"]["provenance"]
    volumes = document["hypervolume"]["methods"]
    for method, found in volumes.items():
        if found["n"]:
            text = f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}] ms, n = {found['n']} seeds"
            text += f" (latency {latency}, accuracy {accuracy})"
            stdout.print(f"{method}: hypervolume {text}", markup=False)
    for row in document["best"]:
        best = row["best"]
        text = "nothing found"
        if best:
            text = f"{100 * best['accuracy']:.2f} % ({accuracy}) by {best['method']} (seed {best['seed']}), "
            text += f"{best['latency_ms']:.2f} ms ({latency}), {best['architecture']}"
        stdout.print(f"at most {row['limit_ms']:g} ms (given): {text}", markup=False)
    for failure in document["failures"]:
        where = f"{failure['method']}, seed {failure['seed']}, {failure['latency_ms']:g} ms"
        stdout.print(f"{failure['kind']}: {where}: {failure['reason']}", markup=False)
