"""What the report and the command line say about the choice of early exits, also where none is kept."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.cli.outcome import describe_exits
from pipeline.report.html import templates

REFUSED = "exits after blocks 1, 3: over flash by 1.3 %"


def choice(kept: list[int], refused: list[str]) -> dict[str, Any]:
    return {
        "allowed": [1, 3], "kept": kept, "accuracy_drop": 0.005,
        "validation": {"thresholds": [9] * len(kept), "counts": [5, 5], "refused": refused, "accuracy": 0.912,
                       "final_accuracy": 0.914, "expected_ms": 8.0, "worst_case_ms": 10.0},
        "test": {"accuracy": 0.903, "final_accuracy": 0.904, "counts": [4, 6]},
    }  # fmt: skip


def page(found: dict[str, Any]) -> str:
    """The section alone, from the report's own template."""
    environment = templates()
    assert environment.loader is not None
    source = environment.loader.get_source(environment, "report.html.j2")[0]
    start = source.index('{% set e = r.get("exit_choice") %}')
    section = source[start : source.index('{% if r.get("robustness") %}')]
    return environment.from_string(section).render(r={"exit_choice": found})


@pytest.mark.parametrize(
    ("kept", "refused", "said", "shown"),
    [
        ([3], [REFUSED], "after block 3 kept, of 2 allowed; 1 choice left out for budgets",
         ("<b>after block 3</b>", "91.20 %", "91.40 % by the final output alone", "90.30 %", REFUSED)),
        ([], [], "none kept, of 2 allowed: none lowers the expected latency within accuracy_drop",
         ("<b>none</b>", "after blocks 1, 3", "none of them was faster", "0.5 points")),
        ([], [REFUSED], "none kept, of 2 allowed; 1 choice left out for budgets", (REFUSED, "<b>none</b>")),
    ],
    ids=["kept", "none pays", "refused"],
)  # fmt: skip
def test_the_choice_is_told(kept: list[int], refused: list[str], said: str, shown: tuple[str, ...]) -> None:
    found = choice(kept, refused)
    assert describe_exits(found) == said
    html = page(found)
    for text in shown:
        assert text in html
    assert ("left out, since" in html.lower()) is bool(refused)
