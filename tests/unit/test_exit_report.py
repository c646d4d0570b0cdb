"""What the report and the command line say about the choice of early exits, also where none is kept."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipeline.cli.outcome import describe_exits
from pipeline.report.exits import goal_checks
from pipeline.report.html import templates
from pipeline.rundocument import add_training
from pipeline.space import Architecture, Block

REFUSED = "exits after blocks 1, 3: over flash by 1.3 %"


def choice(kept: list[int], refused: list[str]) -> dict[str, Any]:
    return {
        "allowed": [1, 3], "kept": kept, "accuracy_drop": 0.005,
        "validation": {"thresholds": [9] * len(kept), "counts": [5, 5], "refused": refused, "accuracy": 0.912,
                       "final_accuracy": 0.914, "expected_ms": 8.0, "worst_case_ms": 10.0},
        "test": {"accuracy": 0.903, "final_accuracy": 0.904, "counts": [4, 6]},
    }  # fmt: skip


def with_goal(met: bool, kept: list[int]) -> dict[str, Any]:
    found = choice(kept, [])
    found["expected_latency_ms"] = 8.5
    found["validation"] |= {"images": 1000, "met": met, "expected_ms": 8.0 if met else 9.0}
    found["test"]["expected_ms"] = 8.7
    return found


@pytest.mark.parametrize("met", [True, False])
def test_the_goal_is_a_check_by_the_validation_images(met: bool) -> None:
    document: dict[str, Any] = {
        "checks": [], "reasons": [], "feasible": True, "accuracy": {}, "exits": None, "parity": {},
    }  # fmt: skip
    trained = {
        "accuracy": {},
        "exits": with_goal(met, [3]),
        "history": [],
        "quantization": {},
        "agreement": {},
    }
    add_training(document, trained, Architecture((8, 8, 1), 3, 8, 1, (Block("dw3", 8, 1),)), seconds=1.0)
    (check,) = document["checks"]
    assert check["name"] == "expected latency" and check["ok"] is met is document["feasible"]
    stands = "8.000 ms" if met else "9.000 ms"
    for said in (stands, "1,000 validation images", "estimate", "goal of 8.5", "10 test images 8.700 ms"):
        assert said in check["detail"]
    assert ("within its goal" in check["detail"]) is met and (
        "5.9 % over its goal" in check["detail"]
    ) is not met
    assert document["reasons"] == ([] if met else [check["detail"]])
    assert goal_checks(choice([3], [])) == goal_checks(None) == []


def test_the_goal_is_told() -> None:
    found = with_goal(True, [3])
    assert describe_exits(found) == (
        "after block 3 kept, of 2 allowed; expected 8 ms (modelled) over 1,000 validation images, goal 8.5 ms"
    )
    html = page(found)
    assert "<b>8 ms</b> over 1,000 validation images" in html and "within the goal of 8.5 ms" in html
    assert "above the goal" in page(with_goal(False, []))
    none = {**with_goal(True, []), "allowed": []}
    assert "The search placed none; kept: <b>none</b>" in page(none)


def test_candidates_say_which_logits_their_thresholds_are_on() -> None:
    """Those of a short float training, rounded to the grid that an exported file would have (`on_int8_grid`)."""
    exits = {
        "architecture": "dw3-8", "goal_ms": 8.5, "counts": [600, 400], "final_accuracy": 0.8, "expected_ms": 8.0,
        "worst_case_ms": 9.0,
    }  # fmt: skip
    points = [{"exits": exits, "chosen": True, "proxy_steps": 50, "accuracy": 0.79}, {"exits": None}]
    html = section("{% set early", "{% for note in", {"search": {"points": points}})
    assert "8.5 ms expected over 1,000 validation images" in html
    assert "float training, rounded to an INT8 grid" in html and "float logits" not in html


def page(found: dict[str, Any]) -> str:
    return section(
        '{% set e = r.get("exit_choice") %}', '{% if r.get("robustness") %}', {"exit_choice": found}
    )


def section(first: str, behind: str, document: dict[str, Any]) -> str:
    """Of the report's own template what is between these texts, and the macros that all of it uses."""
    environment = templates()
    assert environment.loader is not None
    source = environment.loader.get_source(environment, "report.html.j2")[0]
    macros = "".join(re.findall(r"{%-? macro .*?endmacro -?%}", source, re.DOTALL))
    start = source.index(first)
    return environment.from_string(macros + source[start : source.index(behind, start)]).render(r=document)


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
