"""A board's table held against whole models: what is refused before they run, written, and where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.check import CheckedModel, check_board
from pipeline.check import board as module
from pipeline.errors import ConfigError, EdgeNasError, LutError
from pipeline.latency.intervals import FEWEST
from pipeline.latency.lut import Lut

BOARD = load_board("qemu-cortex-m4")
SHIPPED = asset_dir("luts") / BOARD.name / "edgenas.csv"
SLOWER = 1.01  # models than their predictions


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tables whose identity is today's, whatever compiler is installed here."""
    shutil.copytree(SHIPPED.parent, tmp_path / "tables" / BOARD.name)
    monkeypatch.setattr(module, "current_identity", lambda board: Lut.load(SHIPPED).identity)
    return tmp_path / "tables"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models each call ran, in a target's place; all of them are slower than predicted."""
    counts: list[int] = []

    def check_table(board: Any, lut: Lut, count: int, *_: Any, **more: Any) -> list[CheckedModel]:
        counts.append(count)
        return [
            CheckedModel(
                i, f"m{i}", 10 + i, 1e6 + i, 1e6 + i, 1e6 + i, SLOWER * (1e6 + i), "conv", 0.0, 0.0, 0
            )
            for i in range(count)
        ]

    monkeypatch.setattr(module, "check_table", check_table)
    return counts


def test_a_table_is_judged_by_its_own_interval_and_left_alone(
    tables: Path, ran: list[int], tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in tables.rglob("*.*")}
    found = check_board(BOARD.name, 5, seed=3, tables=tables, out=tmp_path / "out", quiet=True)
    assert found.interval == Lut.load(SHIPPED).interval
    assert found.summary["coverage"] == 0.0 and found.summary["above"] == 1.0
    assert (found.summary["board"], found.summary["seed"], found.summary["models"]) == (BOARD.name, 3, 5)
    written = json.loads((tmp_path / "out" / "check.json").read_text())
    assert written == json.loads(json.dumps(dict(found.summary))) | {"points_ms": written["points_ms"]}
    assert len(written["points_ms"]) == 5 and found.page == tmp_path / "out" / "check.html"
    assert "0.0 % inside" in found.page.read_text()
    assert {path: path.read_bytes() for path in tables.rglob("*.*")} == before


def test_a_calibrated_table_has_the_interval_that_the_models_showed(
    tables: Path, ran: list[int], tmp_path: Path
) -> None:
    found = check_board(BOARD.name, FEWEST, calibrated=True, tables=tables, out=tmp_path / "out", quiet=True)
    kept = Lut.load(tables / BOARD.name / "edgenas.csv")
    assert kept.calibration == found.interval and found.interval.models == FEWEST
    assert found.interval.low == pytest.approx(SLOWER) == found.interval.high
    assert found.summary["coverage"] == 1.0


def test_a_damaged_calibration_does_not_keep_it_from_being_made_anew(
    tables: Path, ran: list[int], tmp_path: Path
) -> None:
    (tables / BOARD.name / "edgenas.intervals.toml").write_text("no interval")
    with pytest.raises(LutError):
        check_board(BOARD.name, FEWEST, tables=tables, out=tmp_path / "out", quiet=True)
    assert ran == []
    check_board(BOARD.name, FEWEST, calibrated=True, tables=tables, out=tmp_path / "out", quiet=True)
    assert Lut.load(tables / BOARD.name / "edgenas.csv").interval.models == FEWEST


def test_what_cannot_end_well_is_refused_before_a_model_runs(
    tables: Path, ran: list[int], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    refused: list[tuple[type[EdgeNasError], str, dict[str, Any]]] = [
        (ConfigError, f"--calibrate needs at least --count {FEWEST}, not 18", {"calibrated": True}),
        (ConfigError, "--out", {"out": tmp_path / "file"}),
        (LutError, "there is no table", {"tables": tmp_path}),
    ]
    for kind, says, options in refused:
        with pytest.raises(kind, match=says):
            check_board(
                BOARD.name, FEWEST - 1, quiet=True, **({"tables": tables, "out": tmp_path / "out"} | options)
            )
    assert ran == []
