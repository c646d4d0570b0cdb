"""Options and printing that several commands share."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.figures import Figure
from pipeline.tomltable import MOST_INTEGER

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
BoardName = Annotated[
    str, typer.Option("--board", "-b", help="Board name (see `edgenas boards`) or a board's TOML file.")
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine", help="edgenas (generated C), tflm or tflm-cmsis-nn (TFLite Micro, docs/tflm.md)."
    ),
]
RunFile = Annotated[Path, typer.Argument(help="Run file (TOML), see examples/.")]
DataPath = Annotated[Path | None, typer.Option("--data", help="Data file or folder; overrides the run file.")]
RunsDir = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]

DEFAULT_RUNS = Path("runs")
MOST_SEED = MOST_INTEGER  # as of a run file's
_FILE_WIDTH = 140  # columns of a table that goes to a file or a pipe
stdout = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _FILE_WIDTH)


def finite(value: float | None) -> float | None:
    """For options that take a number: nan lies outside of no range, inf is above every minimum."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("it must be a finite number")
    return value


def example(command: str) -> str:
    """Epilog with an example for --help."""
    return f"Example:  {command}"


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def print_figures(title: str, rows: list[tuple[str, Figure]]) -> None:
    """A table of figures: value, unit, provenance, how obtained."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "value", "unit", "provenance", "how"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, figure in rows:
        number = f"{figure.value:,.4f}" if isinstance(figure.value, float) else f"{figure.value:,}"
        table.add_row(name, number, figure.unit, figure.provenance, figure.note)
    stdout.print(table)
