"""`edgenas lut`: whole models against their prediction, and two tables against each other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.boards import load_board
from pipeline.check import check_table, compare_tables, summarize
from pipeline.check.models import spearman
from pipeline.cli.main import app
from pipeline.fleet import Targets
from pipeline.latency.lut import Lut
from pipeline.profiler import current_identity, lut_path
from pipeline.progress import Reporter
from pipeline.space.architecture import lower
from pipeline.space.search_space import SearchSpace

BOARD = load_board("qemu-cortex-m4")
QUIET = Reporter(quiet=True)
emulated = pytest.mark.skipif(
    not (shutil.which("qemu-system-arm") and shutil.which("arm-none-eabi-gcc") and shutil.which("ninja")),
    reason="needs qemu-system-arm, arm-none-eabi-gcc, cmake and ninja",
)


@pytest.fixture(scope="module")
def lut() -> Lut:
    found = Lut.load(lut_path(BOARD))
    if shutil.which("arm-none-eabi-gcc") and found.identity != current_identity(BOARD):
        pytest.skip("the shipped table is of another compiler")
    return found


@emulated
@pytest.mark.emulated
def test_predictions_hold_on_whole_models_and_a_check_resumes(lut: Lut, tmp_path: Path) -> None:
    first = check_table(BOARD, lut, 3, tmp_path, QUIET)
    (journal,) = tmp_path.glob("*.jsonl")
    journal.write_bytes(
        journal.read_bytes() + b'\xff\x00\n{"number": 3, "archit'
    )  # damaged, cut off in the middle
    models = check_table(BOARD, lut, 6, tmp_path, QUIET, targets=Targets(count=2))
    assert models[:3] == first and [m.number for m in models] == list(range(6))
    assert journal.read_bytes().count(b"\n") == 8
    summary = summarize(models, BOARD.clock_hz, lut.interval)
    assert summary["table"]["mape"] < 1e-5 and summary["table"]["spearman"] == 1.0
    assert summary["macs"]["mape"] > summary["table"]["mape"]
    assert summary["sram_worst_bytes"] == 0 and summary["flash_worst"] < 0.01


@emulated
@pytest.mark.emulated
def test_what_layers_cost_besides_is_right_for_few_and_many(lut: Lut, tmp_path: Path) -> None:
    """Small networks, where what is not in the rows counts: predictions within 30 cycles."""
    for blocks in (1, 3):
        space = SearchSpace.for_input((28, 28, 1), 10, blocks=blocks)
        models = check_table(BOARD, lut, 2, tmp_path / str(blocks), QUIET, seed=5, space=space)
        assert all(abs(m.observed - m.predicted) < 30 for m in models), models


@emulated
@pytest.mark.emulated
def test_a_wrong_row_is_found_by_its_layer(lut: Lut, tmp_path: Path) -> None:
    """The first model's most expensive operator, given half its cycles; what the journal has does not hold then."""
    right = check_table(BOARD, lut, 1, tmp_path, QUIET)[0]
    graph = lower(SearchSpace.for_input((28, 28, 1), 10).random(np.random.default_rng(0)))
    op = max((node.op for node in graph.nodes), key=lambda op: op.macs)
    row = lut.rows[op.key]
    wrong = replace(lut, rows={**lut.rows, op.key: replace(row, cycles=row.cycles / 2, p95=row.cycles / 2)})
    found = check_table(BOARD, wrong, 1, tmp_path, QUIET)[0]
    assert found.worst_layer == op.key
    assert found.worst_layer_error > 0.01
    assert found.predicted < right.predicted and found.observed == right.observed


def test_diff_of_a_table_and_itself_and_of_a_changed_one(lut: Lut, tmp_path: Path) -> None:
    keys = sorted(lut.rows)
    rows = dict(lut.rows)
    rows[keys[0]] = replace(rows[keys[0]], cycles=rows[keys[0]].cycles * 1.25)
    del rows[keys[1]]
    overhead = replace(lut.overhead, inference_cycles=lut.overhead.inference_cycles + 100)
    other = Lut(replace(lut.identity, clock_hz=84_000_000), rows, overhead, lut.flash)
    found = compare_tables(lut, other)
    assert list(found.identity) == ["clock_hz"]
    assert found.only_first == (keys[1],) and found.only_second == ()
    assert found.worst() == [(keys[0], 1.25)]
    assert list(found.overhead) == ["inference_cycles"]
    assert compare_tables(lut, lut).worst() == [] and compare_tables(lut, lut).same
    assert not compare_tables(lut, replace(lut, overhead=overhead)).same
    other.save(tmp_path / "other.csv")
    runner = CliRunner()
    result = runner.invoke(app, ["lut", "diff", str(lut_path(BOARD)), str(tmp_path / "other.csv"), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["identity"] == {"clock_hz": [168_000_000, 84_000_000]}
    assert runner.invoke(app, ["lut", "diff", *[str(lut_path(BOARD))] * 2]).exit_code == 0


def test_spearman_against_known_values() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(a, a**3) == pytest.approx(1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)
    # ties share their mean rank: ranks 1, 2.5, 2.5, 4, 5 against 1 2 3 4 5
    assert spearman(np.array([1.0, 2.0, 2.0, 4.0, 5.0]), a) == pytest.approx(0.97468, abs=1e-5)
    assert spearman(np.ones(5), a) == 0.0
