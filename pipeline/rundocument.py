"""What a run adds to the report of its model: how it was trained, and what else it was held to."""

from __future__ import annotations

from typing import Any

from pipeline.report.exits import add_split, goal_checks
from pipeline.robustness import hold_checks
from pipeline.space.architecture import Architecture


def add_training(
    document: dict[str, Any], trained: dict[str, Any], architecture: Architecture, *, seconds: float
) -> None:
    """What export left in `trained`; `architecture` as it was searched for, which pruning may have changed."""
    document["accuracy"] |= trained["accuracy"]
    document["architecture"] = trained.get("architecture") or architecture.to_json()
    document["exit_choice"] = trained.get("exits")
    if document["exits"]:
        add_split(document, "test", trained["exits"]["test"]["counts"])
    document["training"] = {
        "history": trained["history"],
        "seconds": seconds,
        "quantization": trained["quantization"],
        "pruning": trained.get("pruning"),
    }
    document["parity"]["exported_file"] = trained["agreement"]
    _add_checks(document, goal_checks(trained.get("exits")))


def add_robustness(document: dict[str, Any], part: dict[str, Any] | None) -> None:
    """The section `part`; a budget that had to hold under its conditions and does not makes the run infeasible."""
    document["robustness"] = part
    _add_checks(document, hold_checks(part))


def _add_checks(document: dict[str, Any], checks: list[dict[str, Any]]) -> None:
    """What must hold beside what the target showed; a check that does not makes the run infeasible."""
    document["checks"] += checks
    reasons = [check["detail"] for check in checks if not check["ok"]]
    document["reasons"] += reasons
    document["feasible"] = document["feasible"] and not reasons
