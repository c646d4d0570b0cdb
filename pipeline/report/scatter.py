"""Page of `edgenas lut check`: whole models, predicted against observed, by the table and by MACs."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from pipeline.report.plots import BLUE, MUTED, ORANGE, svg
from pipeline.storage import write_text

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{css}</style></head><body><main>
<header><h1>{title}</h1></header>
<p class="small muted">{text}</p><div class="panel">{plot}</div></main></body></html>
"""


def write_check(
    folder: Path, summary: Mapping[str, Any], points: Sequence[tuple[float, float, float]]
) -> Path:
    """Write `check.json` and `check.html` into `folder`; returns the path of the page.

    `points`: (observed, predicted by the table, by the best linear fit of MACs) of each model, in ms. `summary`
    has board, observed_by (provenance), table, macs, interval and coverage.
    """
    write_text(folder / "check.json", json.dumps({**summary, "points_ms": points}, indent=2) + "\n")
    text = (
        f"{summary['models']} random architectures, observed: {summary['observed_by']}. "
        f"{summary['interval']['text']}: {100 * summary['coverage']:.1f} % inside. "
        f"MAPE {100 * summary['table']['mape']:.3f} % by the table, "
        f"{100 * summary['macs']['mape']:.2f} % by MACs' best line."
    )
    page = folder / "check.html"
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    title = f"{summary['board']}: table against whole models"
    filled = _PAGE.format(title=html.escape(title), css=css, text=html.escape(text), plot=scatter(points))
    write_text(page, filled)
    return page


def scatter(points: Sequence[tuple[float, float, float]]) -> str:
    """Both predictions over what was observed, on equal axes, and their relative errors below."""
    figure, grid = plt.subplots(
        2, 2, figsize=(10, 6.4), sharex=True, sharey="row", gridspec_kw={"height_ratios": (3, 1.2)}
    )
    observed = [p[0] for p in points]
    for column, name, tint in ((0, "latency table", BLUE), (1, "MACs, best linear fit", ORANGE)):
        predicted = [p[column + 1] for p in points]
        above, below = grid[0][column], grid[1][column]
        ends = [min(observed), max(observed)]
        above.plot(ends, ends, color=MUTED, lw=1)
        above.scatter(observed, predicted, s=12, color=tint, lw=0, alpha=0.8, zorder=3)
        above.set_title(name)
        errors = [100 * (p / o - 1) for p, o in zip(predicted, observed, strict=True)]
        below.axhline(0, color=MUTED, lw=1)
        below.scatter(observed, errors, s=12, color=tint, lw=0, alpha=0.8, zorder=3)
        below.set_xlabel("observed (ms)")
    grid[0][0].set_ylabel("predicted (ms)")
    grid[1][0].set_ylabel("error (%)")
    figure.tight_layout()
    return svg(figure)
