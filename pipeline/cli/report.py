"""`edgenas report`: the HTML report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import Json, example, print_json, stdout
from pipeline.report import render_again


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas report runs/fashion_mnist_cortex_m4"))
    def report(
        folder: Annotated[Path, typer.Argument(help="The folder of a run, a validated model or a sweep.")],
        json: Json = False,
    ) -> None:
        """Render report.html again from report.json, or sweep.html from sweep.json."""
        document, page = render_again(folder)
        if json:
            print_json(document)
        else:
            stdout.print(f"written: {page}", markup=False)
