"""`edgenas validate`: any INT8 .tflite on its target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import (
    MOST_SEED,
    BoardName,
    EngineName,
    Json,
    example,
    print_figures,
    print_json,
    stdout,
)
from pipeline.cli.deploy import EnergyBudget, FlashBudget, LatencyBudget, ModelPath, OutDir, SramBudget
from pipeline.cli.outcome import print_outcome


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas validate model.tflite --board qemu-cortex-m4 --images 20"))
    def validate(
        model: ModelPath,
        board: BoardName,
        images: Annotated[int, typer.Option("--images", min=1, help="How many inputs to send.")] = 20,
        inputs: Annotated[
            Path | None,
            typer.Option("--inputs", help=".npy, or .npz with x and y (int16: sound); default: random."),
        ] = None,
        seed: Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED, help="Of the random inputs.")] = 0,
        out: OutDir = None,
        latency_ms: LatencyBudget = None,
        sram_bytes: SramBudget = None,
        flash_bytes: FlashBudget = None,
        energy_mj: EnergyBudget = None,
        engine: EngineName = "edgenas",
        port: Annotated[
            list[str] | None,
            typer.Option(
                "--port", help="Serial port of a real board, or ssh://user@host; repeat it for several."
            ),
        ] = None,
        workers: Annotated[
            int, typer.Option("--workers", min=1, help="Emulators that share the inputs.")
        ] = 1,
        ray: Annotated[
            str | None, typer.Option("--ray", help="Spread them over a Ray cluster: its address, or 'local'.")
        ] = None,
        json: Json = False,
    ) -> None:
        """Build the firmware, run it on the (emulated) board, compare every output byte, write a report.

        The report's folder gets report.html, report.json and junit.xml (for a lab's continuous integration).

        Exit status 0 only if every budget holds and every byte agrees with TFLite Micro, else 1.
        """
        from pipeline.fleet import Targets
        from pipeline.single import open_model

        job = open_model(model, board, out, latency_ms, sram_bytes, flash_bytes, energy_mj, quiet=json)
        targets = Targets(tuple(port or ()), workers, ray)
        if engine != "edgenas":
            result = job.validate_tflm(engine, images, inputs, seed, targets)
            if json:
                print_json(result.to_json())
            else:
                print_figures(f"{model.name} on {result.board}, {result.engine}", result.figures())
                verdict = f"{result.mismatches} of {result.images} outputs differ from {result.reference}"
                broken = f"; broken: {', '.join(result.broken)}" if result.broken else ""
                stdout.print(f"{verdict}{broken}; written: {job.folder / 'tflm.json'}", markup=False)
            raise typer.Exit(0 if result.ok else 1)
        document = job.validate(images, inputs, seed, targets)
        if json:
            print_json(document)
        else:
            print_outcome(document)
            stdout.print(f"written: {job.folder / 'report.html'}", markup=False)
        raise typer.Exit(0 if document["feasible"] else 1)
