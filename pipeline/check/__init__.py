"""Is a latency table right? Random whole models, predicted and run; two tables, row by row."""

from pipeline.check.board import Checked, check_board
from pipeline.check.compare import Comparison, compare_tables
from pipeline.check.models import DEFAULT, CheckedModel, calibrate, check_table, drawn, points_ms, summarize

__all__ = [
    "DEFAULT",
    "Checked",
    "CheckedModel",
    "Comparison",
    "calibrate",
    "check_board",
    "check_table",
    "compare_tables",
    "drawn",
    "points_ms",
    "summarize",
]
