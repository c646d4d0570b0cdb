"""The journal of `edgenas lut check`: which of its models still count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipeline.check.models as models
from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.check import CheckedModel, check_table
from pipeline.latency.lut import Lut
from pipeline.progress import Reporter
from pipeline.space.architecture import Architecture, lower
from pipeline.space.search_space import SearchSpace

BOARD = load_board("qemu-cortex-m4")
LUT = Lut.load(asset_dir("luts") / BOARD.name / "edgenas.csv")
SPACE = SearchSpace.for_input((28, 28, 1), 10, blocks=2)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the models that were run, in a target's place."""
    numbers: list[int] = []

    class Instant:
        def __init__(self, board: Any, cost: Any, folder: Path, port: str | None) -> None:
            self._cost = cost

        def check(self, number: int, architecture: Architecture) -> CheckedModel:
            numbers.append(number)
            found = self._cost.predict(lower(architecture))
            return CheckedModel(
                number,
                architecture.describe(),
                1,
                found.total_cycles,
                *found.sums,
                123456.75,
                "conv",
                0.0,
                0.0,
                0,
            )

        def close(self) -> None: ...

    monkeypatch.setattr(models, "ModelRunner", Instant)
    return numbers


def check(lut: Lut, folder: Path) -> list[CheckedModel]:
    return check_table(BOARD, lut, 3, folder, Reporter(quiet=True), space=SPACE)


def test_models_that_another_firmware_ran_do_not_count(
    ran: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = check(LUT, tmp_path)
    assert check(LUT, tmp_path) == first and ran == [0, 1, 2]
    other = replace(LUT, identity=replace(LUT.identity, firmware_revision="0123456789abcdef"))
    assert other.key == LUT.key  # whose operators are the same
    check(other, tmp_path)
    assert ran == [0, 1, 2] * 2
    emit = models.emit_c
    monkeypatch.setattr(models, "emit_c", lambda model: {**emit(model), "model.c": "/* other code */"})
    check(LUT, tmp_path)
    assert ran == [0, 1, 2] * 3
    monkeypatch.setattr(models, "emit_c", emit)
    assert check(LUT, tmp_path) == first and len(ran) == 9


def test_a_model_whose_row_was_damaged_runs_again(ran: list[int], tmp_path: Path) -> None:
    first = check(LUT, tmp_path)
    (journal,) = tmp_path.glob("*.jsonl")
    lines = journal.read_text().splitlines()
    assert "123456.75" in lines[1]
    lines[1] = lines[1].replace("123456.75", "123456.25")
    journal.write_text("\n".join(lines) + "\n")
    assert check(LUT, tmp_path) == first
    assert ran == [0, 1, 2, 1]
