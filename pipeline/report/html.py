"""report.json and report.html of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from pipeline.errors import ConfigError
from pipeline.report import celldag, course, fronts, picture, plots
from pipeline.report.junit import junit_xml
from pipeline.runstate import EARLIER
from pipeline.storage import write_text

_TEMPLATES = Path(__file__).parent
_FAMILIES = {"dw": "depthwise separable", "ir": "inverted residual", "se": "squeeze-and-excitation"}


def write_report(folder: Path, document: dict[str, Any]) -> Path:
    """Write `report.json`, `junit.xml` and `report.html` into `folder`; returns the path of the page."""
    write_text(folder / "report.json", json.dumps(document, indent=2) + "\n")
    if "checks" in document:  # the oldest reports have none
        write_text(folder / "junit.xml", junit_xml(document))
    page = folder / "report.html"
    write_text(page, render_html(document))
    return page


def read_document(folder: Path) -> dict[str, Any]:
    """`report.json` of `folder`. Raises ConfigError where there is none or it is damaged."""
    path = folder / "report.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = "run `edgenas run RUN.toml` or `edgenas validate MODEL` first"
        earlier = [page.parent for page in folder.glob(f"{EARLIER}/*/report.json")]
        if earlier:
            last = max(earlier, key=lambda place: place.stat().st_mtime_ns)
            hint = f"a new search or training has no report yet: edgenas run RUN.toml; an earlier one is in {last}"
        raise ConfigError(f"no report.json in {folder}", hint=hint) from error
    except NotADirectoryError as error:
        raise ConfigError(f"{folder} is a file", hint="give the folder that it lies in") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is damaged: {error}", hint="run the run or validation again") from error
    if not isinstance(document, dict) or "layers" not in document:
        raise ConfigError(f"{path} is not a report", hint="run the run or validation again")
    return document


def render_html(document: dict[str, Any]) -> str:
    """The report as one self-contained HTML page (no script, no outside resource)."""
    environment = templates()
    memory = document["memory_map"]
    budgets = {name: figure["value"] for name, figure in document["budgets"].items()}
    search = document.get("search") or {}
    # what the search was held to; earlier reports do not say
    limits = search.get("budgets") or budgets
    training = document.get("training") or {}
    # reports of before boards other than emulated ones do not say
    observed = document.get("observed", {"name": "emulated", "provenance": "modelled"})
    predicted = document["latency_ms"]["predicted"]["provenance"]
    others = [(other["board"], other["budgets"]) for other in search.get("others", [])]
    boards = [(search["board"], limits), *others] if others else []
    drawings = {
        "architecture": picture.architecture(document["layers"]) if document.get("architecture") else "",
        "cells": celldag.cells(document.get("architecture") or {}),
        "search": course.search_course(search["history"], limits, boards) if search.get("history") else "",
        # reports of before candidates were kept have none
        "candidates": fronts.candidates(search["points"], limits, predicted, search.get("relaxed"))
        if search.get("points")
        else "",
        "others": [
            fronts.candidates(other["points"], other["budgets"], other["provenance"])
            if other["points"]
            else ""
            for other in search.get("others", [])
        ],
        "training": plots.training_progress(training["history"]) if training.get("history") else "",
        "arena": plots.arena_map(memory["buffers"], memory["arena_bytes"], len(document["layers"])),
        "layers": plots.layer_latency(document["layers"], observed),
    }
    peak = max((layer["predicted_cycles"] for layer in document["layers"]), default=1) or 1
    return environment.get_template("report.html.j2").render(
        r=document, plots=drawings, peak_cycles=peak, observed=observed
    )


def templates() -> jinja2.Environment:
    """The pages' templates with their filters."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["family"] = _family
    environment.filters["blocks"] = lambda blocks: (
        f"after block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.2f} %"
    environment.filters["off"] = _off
    environment.filters["signed"] = _signed
    return environment


def _number(value: float | None) -> str:
    """Thousands separated, three decimals at most; a dash for what is not there."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return f"{value:,}"
    return f"{round(value, 3) + 0.0:,.3f}".rstrip("0").rstrip(".")  # 0.0 takes the sign off a rounded -0.0


def _off(value: float, reference: float | None, digits: int) -> str:
    """By how much `value` differs from `reference`; a dash where there is nothing to compare with."""
    return f"{round(100 * (value / reference - 1), digits) + 0.0} %" if reference else "–"


def _signed(value: float, digits: int = 2) -> str:
    """With its sign, but for what rounds to 0."""
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}" if rounded else f"{rounded:.{digits}f}"


def _family(op: str) -> str:
    return _FAMILIES.get(op[:2], op)
