"""Tables, plots and the HTML report of a run."""

from pipeline.report.html import render_html, write_report

__all__ = ["render_html", "write_report"]
