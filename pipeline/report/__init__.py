"""Tables, plots and the HTML reports of a run and of a sweep."""

from pipeline.report.again import render_again
from pipeline.report.html import read_document, render_html, write_report
from pipeline.report.sweep import read_sweep, render_sweep, write_sweep

__all__ = [
    "read_document", "read_sweep", "render_again", "render_html", "render_sweep", "write_report", "write_sweep",
]  # fmt: skip
