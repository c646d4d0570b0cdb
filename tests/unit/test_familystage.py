"""What `edgenas family` leaves in a run's folder: one answer a question, none lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import stages
from pipeline.boards import load_board
from pipeline.errors import BudgetError, ConfigError
from pipeline.familystage import FamilyQuestion
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.run import Run
from pipeline.runfile import load_runfile
from pipeline.search import Request, SearchResult
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace

SPACE = SearchSpace.for_input((28, 28, 1), 10, blocks=2)
RUNFILE = """\
name = "family"
board = "qemu-cortex-m4"
[budgets]
latency_ms = 50.0
[search]
method = "hypernetwork"
"""


def cost_of(name: str) -> CostModel:
    board = load_board(name)
    return CostModel(board, Lut.load(Path(__file__).parents[2] / "luts" / name / "edgenas.csv"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose search is finished; its hypernetwork's answers tell what they were asked."""
    file = tmp_path / "run.toml"
    file.write_text(RUNFILE)
    found = Run.open(file, runs=tmp_path / "runs", quiet=True)
    found.__dict__ |= {"space": SPACE, "data": None, "cost": cost_of("qemu-cortex-m4")}
    monkeypatch.setattr(Run, "cost_on", lambda self, name: cost_of(name))
    monkeypatch.setattr(Run, "_targets", lambda self: ())
    monkeypatch.setattr(Run, "_search_key", lambda self: "key")

    def ask(settings: Any, space: Any, data: Any, targets: Any, request: Request, *_: Any) -> SearchResult:
        limit = request.target.budgets.latency_ms
        assert limit is not None
        architecture = SPACE.build([("dw3", 16), ("skip", 0)])
        cost = request.target.cost.evaluate(lower(architecture), 1)
        budgets = request.target.budgets
        notes = [
            f"{request.target.name}, {limit} ms, S {request.complexity}, {request.members} members",
            f"{budgets.sram_bytes} and {budgets.flash_bytes} bytes",
        ]
        fits = limit > 1.0
        return SearchResult(
            architecture if fits else None,
            cost if fits else None,
            fits,
            "" if fits else "latency",
            "h",
            0,
            notes=notes,
        )

    monkeypatch.setattr(stages, "ask_family", ask)
    (found.folder / "checkpoints").mkdir(parents=True)
    (found.folder / "checkpoints" / "search-key.pt").touch()
    return found


def kept(run: Run) -> dict[str, str]:
    return {
        path.relative_to(run.folder).as_posix(): json.loads(path.read_text())["notes"][0]
        for path in run.folder.rglob("family/*.json")
    }


def test_no_answer_overwrites_another(run: Run) -> None:
    questions = [
        FamilyQuestion(),
        FamilyQuestion(latency_ms=20.0),
        FamilyQuestion(latency_ms=20.5),
        FamilyQuestion("qemu-rv32", latency_ms=20.0),
        FamilyQuestion(latency_ms=20.0, penalties={"ir6": 0.5}),
        FamilyQuestion(latency_ms=20.0, members=8),
    ]
    answers = [run.family(question) for question in questions]
    assert len({answer.path for answer in answers}) == len(questions) == len(kept(run))
    assert [answer.limit_ms for answer in answers] == [50.0, 20.0, 20.5, 20.0, 20.0, 20.0]
    for answer in answers:
        raw = json.loads(answer.path.read_text())
        assert raw["asked"] == answer.question.to_json()
        assert SearchResult.from_json(raw) == answer.result
    assert answers[0].path == run.folder / "family" / "qemu-cortex-m4.json"
    assert answers[3].board == "qemu-rv32" and "qemu-rv32, 20.0 ms" in answers[3].result.notes[0]


@pytest.mark.parametrize(
    ("given", "asked", "memories"),
    [
        ("", {}, "327680 and 524288"),  # all that the board has, though the run's has less SRAM
        ("sram_bytes = 262144\n", {}, "262144 and 524288"),  # as much as the run's board has, but said
        ("flash_bytes = 100000\n", {}, "327680 and 100000"),
        ("sram_bytes = 100000\n", {"sram_bytes": 300_000}, "300000 and 524288"),
        ("", {"sram_bytes": 2**20, "flash_bytes": 2**20}, "327680 and 524288"),  # never more than it has
    ],
)
def test_memories_that_nobody_limits_are_those_of_the_board_that_is_asked_for(
    run: Run, tmp_path: Path, given: str, asked: dict[str, int], memories: str
) -> None:
    own, other = load_board("qemu-cortex-m4").memory, load_board("qemu-rv32").memory
    assert (own.sram.bytes, other.sram.bytes) == (262_144, 327_680)
    (tmp_path / "run.toml").write_text(RUNFILE.replace("latency_ms = 50.0\n", f"latency_ms = 50.0\n{given}"))
    run.settings = load_runfile(tmp_path / "run.toml")
    answer = run.family(FamilyQuestion("qemu-rv32", **asked))
    assert answer.result.notes[1] == f"{memories} bytes"


def test_a_hypernetworks_boards_have_their_own_memories(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of `_targets`
    run.__dict__["other_costs"] = (cost_of("qemu-rv32"),)
    own, other = run._targets()
    assert (own.budgets.sram_bytes, other.budgets.sram_bytes) == (262_144, 327_680)


def test_a_board_file_of_the_runs_name_has_its_own_memories(run: Run) -> None:
    own = run.settings.board
    board = replace(own, memory=replace(own.memory, sram=replace(own.memory.sram, bytes=1 << 20)))
    assert run.settings.budgets_on(board).sram_bytes == 1 << 20
    given = replace(run.settings, memory_limits=("sram_bytes",))
    assert given.budgets_on(board).sram_bytes == own.memory.sram.bytes


def test_no_table_is_measured_for_a_run_that_has_no_hypernetwork(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "cost_on", lambda *_: pytest.fail("measured"))
    (run.folder / "checkpoints" / "search-key.pt").unlink()
    with pytest.raises(ConfigError, match="no trained hypernetwork"):
        run.family(FamilyQuestion(board="qemu-rv32"))


def test_the_former_answer_to_the_same_question_is_set_aside_where_it_differs(run: Run) -> None:
    path = run.family(FamilyQuestion()).path
    assert run.family(FamilyQuestion()).path == path and not (run.folder / "earlier").exists()
    former = path.read_text().replace("50.0 ms", "50.0 ms by another table")
    path.write_text(former)
    run.family(FamilyQuestion())
    assert (run.folder / "earlier" / "1" / "family" / path.name).read_text() == former
    assert "another table" not in path.read_text()


def test_what_no_member_meets_is_an_error_that_leaves_the_other_answers(run: Run) -> None:
    good = run.family(FamilyQuestion())
    before = good.path.read_text()
    with pytest.raises(BudgetError, match="no member of the family meets every budget on qemu-cortex-m4"):
        run.family(FamilyQuestion(latency_ms=0.5))
    assert good.path.read_text() == before
    with pytest.raises(ConfigError, match="no operator 'nothing'"):
        run.family(FamilyQuestion(penalties={"nothing": 0.5}))


def test_a_deadline_that_the_other_boards_counter_cannot_time_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """qemu-cortex-m4 can time 15.9 s, qemu-cortex-m7 5.6 s; nothing is measured for the refusal."""
    assert run.family(FamilyQuestion(latency_ms=15_000.0)).limit_ms == 15_000.0
    monkeypatch.setattr(Run, "cost_on", lambda self, name: pytest.fail("measured first"))
    with pytest.raises(ConfigError, match="--latency-ms is 15,000") as caught:
        run.family(FamilyQuestion("qemu-cortex-m7", latency_ms=15_000.0))
    assert "qemu-cortex-m7 cannot time longer" in caught.value.hint
    with pytest.raises(ConfigError, match=r"--latency-ms is 0\.0001") as caught:
        run.family(FamilyQuestion(latency_ms=0.0001))
    assert "whole microseconds" in caught.value.hint
    run.settings = replace(run.settings, budgets=Budgets(15_000.0))
    with pytest.raises(ConfigError, match=r"budgets\.latency_ms is 15,000"):
        run.family(FamilyQuestion("qemu-cortex-m7"))
