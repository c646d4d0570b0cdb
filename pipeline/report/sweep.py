"""sweep.json and sweep.html: methods, seeds and latency limits side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.report import fronts
from pipeline.report.html import templates
from pipeline.storage import write_text


def write_sweep(folder: Path, document: dict[str, Any]) -> Path:
    """Write `sweep.json` and `sweep.html` into `folder`; returns the path of the page."""
    write_text(folder / "sweep.json", json.dumps(document, indent=2) + "\n")
    page = folder / "sweep.html"
    write_text(page, render_sweep(document))
    return page


def read_sweep(folder: Path) -> dict[str, Any]:
    """`sweep.json` of `folder`. Raises ConfigError where it is damaged."""
    path = folder / "sweep.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}", hint="run the sweep again") from error
    if not isinstance(document, dict) or document.get("kind") != "sweep":
        raise ConfigError(f"{path} is not a sweep", hint="run the sweep again")
    return document


def render_sweep(document: dict[str, Any]) -> str:
    """One self-contained HTML page (no script, no outside resource)."""
    drawings = {
        "fronts": fronts.methods(document) if document["points"] else "",
        "volumes": fronts.volumes(document["hypervolume"], document["methods"]),
    }
    colors = {method: fronts.color(i) for i, method in enumerate(document["methods"])}
    return templates().get_template("sweep.html.j2").render(s=document, plots=drawings, colors=colors)
