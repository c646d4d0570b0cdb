"""`edgenas deploy`: firmware for any INT8 .tflite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import BoardName, Json, example, finite, print_figures, print_json, stdout
from pipeline.cli.outcome import LABELS, print_verdict
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
        """Generate C, render the application with its budgets, build it, and say what it will cost.

        Exit status 1 where that breaks a budget: latency and energy by the upper end of the interval, memory as linked.
        """
        from pipeline.single import open_model

        job = open_model(model, board, out, latency_ms, sram_bytes, flash_bytes, energy_mj, quiet=json)
        summary = job.deploy()
        if json:
            print_json(summary)
        else:
            rows = [(name, Figure.from_json(figure)) for name, figure in summary["figures"].items()]
            held = {check["name"].removeprefix("budget "): check for check in summary["checks"]}
            for name, raw in summary["budgets"].items():
                verdict = "holds" if held[name]["ok"] else "BROKEN"
                budget = replace(Figure.from_json(raw), note=f"{verdict}: {held[name]['detail']}")
                rows.append((f"{LABELS[name]}, budget", budget))
            print_figures(model.name, rows)
            print_verdict(summary, "every budget holds")
            stdout.print(f"written: {job.folder / 'firmware.elf'}", markup=False)
        raise typer.Exit(0 if summary["feasible"] else 1)
