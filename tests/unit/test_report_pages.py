"""The search's part of the report, for records of every method and of before."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.report import fronts
from pipeline.report.html import templates
from pipeline.report.searched import Served, search_section, stages
from pipeline.search.hypervolume import accuracy, family
from pipeline.search.result import Candidate, Front, SearchResult
from pipeline.space import Budgets, Cost
from pipeline.space.search_space import SearchSpace

BOARD = load_board("qemu-cortex-m4")
SPACE = SearchSpace((28, 28, 1), 10)


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def result(count: int = 12) -> SearchResult:
    """Twelve candidates, six in the semifinal, two in the final."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        cost = Cost(10.0 + i, 1000 + i, 2000, 300 + i)
        short = 0.5 + 0.01 * i if i < 6 else None
        own = 0.7 + 0.01 * i if i < 2 else short
        steps = 250 if i < 2 else 60 if i < 6 else 0
        found.append(
            Candidate(SPACE.random(rng), cost, 0.9 - 0.01 * i, own, steps, short, 60 if i < 6 else 0)
        )
    first = found[0]
    return SearchResult(first.architecture, first.cost, True, "", "edgenas", 0, [], found)


def test_candidates_show_who_was_chosen_and_which_limits_hold() -> None:
    section = search_section(result(), seconds=1.0, space_size=10)
    assert [p["chosen"] for p in section["points"]] == [True] + [False] * 11
    assert [p["proxy_steps"] for p in section["points"]] == [250] * 2 + [60] * 4 + [0] * 6
    svg = fronts.candidates(section["points"], {"latency_ms": 20.0, "flash_bytes": 10**6}, "modelled")
    said = " ".join(words(svg))
    assert "latency (ms, modelled)" in said and "flash (KiB, modelled)" in said and "SRAM" not in said
    assert "limit 20" in said and "limit 976.6 →" in said
    assert "chosen" in said and "60 steps of its own" in said


def test_each_stage_is_compared_over_those_that_went_through_both() -> None:
    scores = stages(result().candidates)
    assert list(scores) == [
        "parameters",
        "MACs",
        "shared weights",
        "60 steps of its own",
        "250 steps of its own",
    ]
    assert sum(value is not None for value in scores["60 steps of its own"]) == 6
    ranks = {(a["first"], a["second"]): a for a in search_section(result(), seconds=1, space_size=1)["ranks"]}
    pair = ranks["shared weights", "60 steps of its own"]
    assert (pair["n"], pair["tau"]) == (6, -1.0)
    # two finalists have no order worth a number
    assert not any("250" in second for _, second in ranks)
    json.dumps(list(ranks.values()), allow_nan=False)


def test_results_of_before_the_semifinal_was_kept_are_read() -> None:
    raw = result().to_json()
    assert SearchResult.from_json(json.loads(json.dumps(raw))) == result()
    for candidate in raw["candidates"]:
        del candidate["short_accuracy"], candidate["short_steps"], candidate["proxies"]
    older = SearchResult.from_json(raw)
    assert older.candidates[0].short_accuracy is None and older.candidates[0].proxies == {}
    assert list(stages(older.candidates))[-1] == "250 steps of its own"


@pytest.mark.parametrize("known", [True, False])
def test_what_was_most_probable_is_shown_even_where_it_breaks_a_limit(known: bool) -> None:
    first = result()
    relaxed = replace(first.candidates[0], cost=Cost(99.0, 9, 9, 9), proxy_accuracy=0.4 if known else None)
    relaxed = replace(relaxed, shared_accuracy=None)
    section = search_section(replace(first, relaxed=relaxed, notes=["so <it> is"]), seconds=1, space_size=1)
    assert section["relaxed"]["accuracy"] == (0.4 if known else None)
    assert section["notes"] == ["so <it> is"]
    svg = fronts.candidates(section["points"], {"latency_ms": 20.0}, "modelled", section["relaxed"])
    assert f"most probable, before repair{'' if known else ' (not trained)'}" in words(svg)


def two_boards() -> SearchResult:
    """Twelve candidates on the run's board; the same, at a tenth of the latency and but for four, on another."""
    first = result()
    own = [replace(c, board="slow") for c in first.candidates]
    fast = [
        replace(c, board="fast", cost=replace(c.cost, latency_ms=c.cost.latency_ms / 10)) for c in own[4:]
    ]
    families = [Front("slow", (own[1],)), Front("fast", tuple(fast[:2])), Front("none", (), "too slow")]
    return replace(first, candidates=[*own, *fast], fronts=families)


OTHERS = (Served("fast", {"latency_ms": 2.05}, "estimated"), Served("none", {"latency_ms": 0.1}, "modelled"))


def test_each_board_of_a_family_has_its_own_candidates_limits_and_front() -> None:
    section = search_section(two_boards(), seconds=1.0, space_size=10, others=OTHERS)
    assert section["board"] == "slow" and section["candidates"] == 12
    assert [p["latency_ms"] for p in section["points"]] == [10.0 + i for i in range(12)]
    assert [p["chosen"] for p in section["points"]] == [True] + [False] * 11
    assert [p["member"] for p in section["points"]] == [False, True] + [False] * 10
    fast, none = section["others"]
    assert [p["latency_ms"] for p in fast["points"]] == pytest.approx([1.4 + 0.1 * i for i in range(8)])
    assert not any(p["chosen"] for p in fast["points"])
    assert [p["member"] for p in fast["points"]] == [True, True] + [False] * 6
    assert (none["points"], none["reason"]) == ([], "too slow")
    said = " ".join(words(fronts.candidates(fast["points"], fast["budgets"], fast["provenance"])))
    assert (
        "latency (ms, estimated)" in said and "limit 2.05" in said and "member of the board's family" in said
    )
    json.dumps(section, allow_nan=False)


def test_what_two_boards_can_run_counts_once_in_the_ranks() -> None:
    both = search_section(two_boards(), seconds=1, space_size=1, others=OTHERS)["ranks"]
    assert both == search_section(result(), seconds=1, space_size=1)["ranks"]
    assert {a["n"] for a in both if a["second"] == "shared weights"} == {12}


def test_the_limits_shown_are_those_of_the_board_that_was_not_the_runs() -> None:
    cost = CostModel(BOARD, Lut.load(asset_dir("luts") / BOARD.name / "edgenas.csv"))
    here = replace(result(), candidates=[replace(c, board=BOARD.name) for c in result().candidates])
    limits = Budgets(latency_ms=5.0, sram_bytes=9000)
    shown = Served(BOARD.name, {"latency_ms": 5.0, "sram_bytes": 9000}, "modelled")
    assert Served.of(cost, limits, here) == shown


def test_what_was_never_trained_has_no_accuracy_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first = result()
    bare = Candidate(first.candidates[0].architecture, Cost(3.0, 900, 1900, 200))
    assert accuracy(bare) is None
    assert bare not in family([bare, *first.candidates]) and family([bare]) == []
    section = search_section(replace(first, candidates=[*first.candidates, bare]), seconds=1, space_size=1)
    assert section["points"][-1]["accuracy"] is None
    with monkeypatch.context() as patched:
        patched.setattr(fronts, "svg", lambda figure: figure)
        drawn = fronts.candidates(section["points"], {}, "modelled").axes[0]
    lowest = min(
        y for line in drawn.get_lines() if line.get_transform() == drawn.transData for y in line.get_ydata()
    )
    dots = [y for found in drawn.collections for _, y in found.get_offsets()]
    assert min(lowest, *dots) >= 50.0
    assert "not trained" in drawn.get_legend_handles_labels()[1]
    # nor where it is the chosen one, or where nothing was trained at all
    alone = replace(first, architecture=bare.architecture, cost=bare.cost, candidates=[bare])
    points = search_section(alone, seconds=1, space_size=1)["points"]
    assert "chosen, not trained" in words(fronts.candidates(points, {"latency_ms": 5.0}, "modelled"))


def macro(name: str, call: str, **values: Any) -> str:
    """One macro of the report's own template."""
    environment = templates()
    assert environment.loader is not None
    source = environment.loader.get_source(environment, "report.html.j2")[0]
    start = source.index("{% macro " + name)
    end = source.index("{% endmacro %}", start) + len("{% endmacro %}")
    return environment.from_string(source[start:end] + "{{ " + call + " }}").render(**values)


def test_what_rounds_to_nothing_has_no_sign() -> None:
    environment = templates()
    for expression, shown in (
        ("49.99999 | off(50.0, 3)", "0.0 %"), ("49.9 | off(50.0, 3)", "-0.2 %"), ("1.0 | off(0, 2)", "–"),
        ("-0.00001 | signed", "0.00"), ("0.126 | signed", "+0.13"), ("-0.5 | signed(3)", "-0.500"),
        ("-0.00001 | number", "0"), ("-1234.5 | number", "-1,234.5"),
    ):  # fmt: skip
        assert environment.from_string("{{ " + expression + " }}").render() == shown


def test_a_gauge_shows_the_end_that_the_budget_is_judged_by() -> None:
    """A median within its budget does not look kept where the slow tail breaks it."""

    def shown(high: float | None) -> str:
        figure = {"value": 49.0, "unit": "ms", "provenance": "measured"} | ({"high": high} if high else {})
        group = {"predicted": {"value": 48.0, "unit": "ms", "provenance": "modelled"}, "measured": figure}
        budget = {"value": 50.0, "unit": "ms", "provenance": "given"}
        return macro("gauge", "gauge('Latency', group, budget, 'ms')", group=group, budget=budget)

    over = shown(51.0)
    assert 'class="over"' in over and "102.0 % (upper end, 51 ms) of the budget" in over
    kept = shown(None)
    assert 'class="fill"' in kept and "98.0 % of the budget" in kept
