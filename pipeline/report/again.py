"""Pages rendered once more from the documents in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from pipeline.errors import ConfigError
from pipeline.report.html import read_document, write_report
from pipeline.report.sweep import read_sweep, write_sweep


def render_again(folder: Path) -> tuple[dict[str, Any], Path]:
    """The document of a run or a sweep in `folder`, and its page, made anew.

    Raises ConfigError where there is no document, or it is damaged or lacks a part.
    """
    if (folder / "sweep.json").is_file():
        name, what, read, write = "sweep.json", "sweep", read_sweep, write_sweep
    else:
        name, what, read, write = "report.json", "run", read_document, write_report
    document = read(folder)
    try:
        return document, write(folder, document)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, UndefinedError) as error:
        raise ConfigError(
            f"{folder / name} lacks or misstates {error}",
            hint=f"it was edited, or written by another edgenas: run the {what} again",
        ) from error
