"""`edgenas deploy`: firmware for any INT8 .tflite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import BoardName, Json, example, finite, print_figures, print_json, stdout
from pipeline.figures import Figure

ModelPath = Annotated[Path, typer.Argument(help="Fully INT8 .tflite.")]
OutDir = Annotated[Path | None, typer.Option("--out", help="Folder; default: runs/<model>-<board>.")]
LatencyBudget = Annotated[
    float | None, typer.Option("--latency-ms", min=0.001, callback=finite, help="Deadline, compiled in.")
]
SramBudget = Annotated[int | None, typer.Option("--sram-bytes", min=1, help="Default: all of the board's.")]
FlashBudget = Annotated[int | None, typer.Option("--flash-bytes", min=1, help="Default: all of the board's.")]

EnergyBudget = Annotated[
    float | None,
    typer.Option(
        "--energy-mj", min=1e-6, callback=finite, help="Needs the board's current: docs/add-a-board.md."
    ),
]


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas deploy model.tflite --board qemu-cortex-m4 --latency-ms 50"))
    def deploy(
        model: ModelPath,
        board: BoardName,
        out: OutDir = None,
        latency_ms: LatencyBudget = None,
        sram_bytes: SramBudget = None,
        flash_bytes: FlashBudget = None,
        energy_mj: EnergyBudget = None,
        json: Json = False,
    ) -> None:
        """Generate C, render the application with its budgets, build it, and say what it will cost."""
        from pipeline.single import open_model

        job = open_model(model, board, out, latency_ms, sram_bytes, flash_bytes, energy_mj, quiet=json)
        summary = job.deploy()
        if json:
            print_json(summary)
        else:
            rows = [(name, Figure.from_json(figure)) for name, figure in summary["figures"].items()]
            print_figures(model.name, rows)
            stdout.print(f"written: {job.folder / 'firmware.elf'}", markup=False)
