"""Tables, plots and the HTML report of a run."""

from pipeline.report.html import read_document, render_html, write_report

__all__ = ["read_document", "render_html", "write_report"]
