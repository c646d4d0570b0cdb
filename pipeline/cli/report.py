"""`edgenas report`: the HTML report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from jinja2 import UndefinedError

from pipeline.cli.common import Json, example, print_json, stdout
from pipeline.errors import ConfigError
from pipeline.report import read_document, read_sweep, write_report, write_sweep


def register(app: typer.Typer) -> None:
    @app.command(epilog=example("edgenas report runs/fashion_mnist_cortex_m4"))
    def report(
        folder: Annotated[Path, typer.Argument(help="The folder of a run, a validated model or a sweep.")],
        json: Json = False,
    ) -> None:
        """Render report.html again from report.json, or sweep.html from sweep.json."""
        sweep = (folder / "sweep.json").is_file()
        document = read_sweep(folder) if sweep else read_document(folder)
        try:
            page = write_sweep(folder, document) if sweep else write_report(folder, document)
        except (KeyError, TypeError, AttributeError, UndefinedError) as error:
            raise ConfigError(
                f"{folder / ('sweep.json' if sweep else 'report.json')} lacks or misstates {error}",
                hint=f"it was edited, or written by another edgenas: run the {'sweep' if sweep else 'run'} again",
            ) from error
        if json:
            print_json(document)
        else:
            stdout.print(f"written: {page}", markup=False)
