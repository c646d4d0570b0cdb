"""`[robustness] hold`: what a whole run searches, sweeps and asks a family for keeps the lowered deadline."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from search_standins import SEARCHES

from pipeline import stages
from pipeline.boards import load_board
from pipeline.boards.power import Power
from pipeline.errors import ConfigError
from pipeline.familystage import FamilyQuestion
from pipeline.latency.lut import Lut
from pipeline.progress import Reporter
from pipeline.run import Run
from pipeline.runfile import RunFile
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.space.vetoes import Vetoes
from pipeline.sweep.open import open_sweep

LUTS = Path(__file__).parents[2] / "luts"
BLOCKS = """\
strides = [2, 1]
ops = ["dw3", "ir4", "skip"]
channels = [16, 32]
"""
CELLS = """\
kind = "cells"
nodes = 3
stem_channels = 8
stem_stride = 1
channels = [16]
strides = [1]
"""
RUNFILE = """\
name = "held"
board = "qemu-cortex-m4"

[data]
name = "digits"
limit = 100

[budgets]
latency_ms = {latency_ms}

[space]
{space}

[search]
method = "{method}"
warmup_steps = 2
steps = 3
batch_size = 8
candidates = 6
ranking_images = 16
semifinalists = 2
proxy_steps = 2
device = "cpu"
{more}

[robustness]
{conditions}
hold = {hold}
"""
MORE = """\
validation_batch_size = 8
paths = 2
semifinal_steps = 2
finalists = 1
"""
CONDITIONS = "clocks_hz = [84_000_000]\nloads = [1.5]"
SLOWDOWN = 3.0  # half the clock, and everything takes 1.5 times as long


@pytest.fixture(autouse=True)
def shipped_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever compiler this machine has."""
    monkeypatch.setattr(stages, "obtain_lut", lambda board, *_: Lut.load(LUTS / board.name / "edgenas"))


def opened(
    folder: Path,
    method: str,
    latency_ms: float,
    *,
    space: str = BLOCKS,
    more: str = MORE,
    hold: bool = True,
    conditions: str = CONDITIONS,
) -> Run:
    path = folder / "run.toml"
    text = RUNFILE.format(
        method=method, latency_ms=latency_ms, space=space, more=more, hold=str(hold).lower(), conditions=conditions
    )  # fmt: skip
    path.write_text(text)
    return Run.open(path, runs=folder / str(hold), quiet=True)


def generous(folder: Path, method: str, **options: Any) -> float:
    """A deadline that what a search chooses without any keeps, but not when slowed down."""
    found = opened(folder, method, 1000.0, hold=False, **options).search()
    assert found.cost is not None
    return 0.97 * SLOWDOWN * found.cost.latency_ms


def assert_held(run: Run, deadline_ms: float) -> None:
    found = run.search()
    assert found.candidates
    for candidate in found.candidates:
        assert candidate.cost.latency_ms * SLOWDOWN <= deadline_ms


@pytest.mark.parametrize("method", SEARCHES)
def test_a_search_of_blocks_keeps_the_held_deadline(method: str, tmp_path: Path) -> None:
    deadline_ms = generous(tmp_path, method)
    assert_held(opened(tmp_path, method, deadline_ms), deadline_ms)


@pytest.mark.parametrize("method", ["hypernetwork", "random"])
def test_a_search_of_cells_keeps_the_held_deadline(method: str, tmp_path: Path) -> None:
    cells = {"space": CELLS, "more": ""}
    deadline_ms = generous(tmp_path, method, **cells)
    assert_held(opened(tmp_path, method, deadline_ms, **cells), deadline_ms)


BOARDS = MORE + '[search.hyper]\nboards = ["qemu-cortex-m7"]\n'


def test_each_board_of_a_hypernetwork_keeps_what_its_own_clock_leaves(tmp_path: Path) -> None:
    """84 MHz are half the M4's clock and less of the M7's."""
    deadline_ms = generous(tmp_path, "hypernetwork")
    run = opened(tmp_path, "hypernetwork", deadline_ms, more=BOARDS)
    found = run.search()
    family = run.family(FamilyQuestion(members=4)).result
    assert {c.board for c in found.candidates} == {"qemu-cortex-m4", "qemu-cortex-m7"}
    for candidate in (*found.candidates, *family.candidates):
        slowdown = 1.5 * load_board(candidate.board).clock_hz / 84e6
        assert candidate.cost.latency_ms * slowdown <= deadline_ms
    # on the M4 a load of 2 is the same, on the M7 it is not
    other = opened(tmp_path, "hypernetwork", deadline_ms, more=BOARDS, conditions="loads = [3.0]")
    assert asdict(other.held_budgets) == asdict(run.held_budgets)
    assert other._search_key() != run._search_key()


def test_a_sweep_searches_for_the_lowered_deadlines(tmp_path: Path) -> None:
    settings = opened(tmp_path, "random", 60.0).settings
    quiet = Reporter(quiet=True)
    for given, limits in (("", [20.0]), ("45,60", [15.0, 20.0])):
        sweep = open_sweep(settings, tmp_path / "sweep", quiet, methods="random", seeds="0", latency_ms=given)
        assert [sweep.bench.budgets_of(job).latency_ms for job in sweep.jobs] == limits
    free = opened(tmp_path, "random", 60.0, hold=False).settings
    sweep = open_sweep(free, tmp_path / "sweep", quiet, methods="random", seeds="0")
    assert [job.latency_ms for job in sweep.jobs] == [60.0]


@pytest.mark.parametrize(("limits", "told"), [("20,16000", "16,000.0"), ("0.0005,20", "0.0005")])
def test_a_sweeps_deadlines_are_held_against_the_boards_counter(
    limits: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the run file's own: qemu-cortex-m4 can time 15.9 s in whole microseconds. Nothing is loaded before."""
    settings = opened(tmp_path, "random", 60.0).settings
    monkeypatch.setattr(stages, "load_data", lambda *_: pytest.fail("loaded first"))
    with pytest.raises(ConfigError, match=f"--latency-ms is {told}") as caught:
        open_sweep(
            settings, tmp_path / "sweep", Reporter(quiet=True), methods="random", seeds="0", latency_ms=limits
        )
    assert "at most 15,9" in caught.value.hint or "at least 0.001 ms" in caught.value.hint
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_searches_within_the_boards_memories(tmp_path: Path) -> None:
    """As `edgenas search` does: a winner that its board cannot hold is none."""
    run = opened(tmp_path, "random", 60.0, hold=False)
    for given, says in (
        (Budgets(latency_ms=60.0), run.held_budgets),
        (Budgets(latency_ms=60.0, sram_bytes=2**30, flash_bytes=9000), replace(run.held_budgets, flash_bytes=9000)),
    ):  # fmt: skip
        settings = replace(run.settings, budgets=given)
        sweep = open_sweep(settings, tmp_path / "sweep", Reporter(quiet=True), methods="random", seeds="0")
        assert sweep.bench.budgets_of(sweep.jobs[0]) == says
    assert run.held_budgets.sram_bytes == run.settings.board.memory.sram.bytes


@pytest.mark.parametrize(
    ("exits", "pruned"), [("", ""), ("exits = [0]", ""), ("", "[train.prune]\nfraction = 0.3\n")]
)
def test_what_stays_of_a_network_is_chosen_again_under_other_vetoes(
    exits: str, pruned: str, tmp_path: Path
) -> None:
    """The search may find the same architecture; its exits or channels may not be what they may be now."""

    def keys(vetoes: str) -> tuple[str, str]:
        text = f"{exits}\n" if exits else ""
        run = opened(tmp_path, "random", 60.0, hold=False, space=BLOCKS + text, more=MORE + pruned + vetoes)
        space = run.space
        assert isinstance(space, SearchSpace)
        return run._training_keys(space.build([("dw3", 32), ("dw3", 16)]))

    training, whole = keys("")
    again, other = keys("[vetoes]\nchannel_multiple = 8\n")
    assert training == again
    assert (whole != other) == bool(exits or pruned)


def test_a_sweeps_results_are_of_its_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is vetoed, what a table is calibrated to and what a board draws decide who wins."""

    def key(settings: RunFile) -> str:
        sweep = open_sweep(settings, tmp_path / "sweep", Reporter(quiet=True), methods="random", seeds="0")
        return sweep._keys[sweep.jobs[0]]

    settings = opened(tmp_path, "random", 60.0, hold=False).settings
    power = Power(3.0, 40.0, settings.board.clock_hz, "a meter")
    keys = [
        key(settings),
        key(replace(settings, vetoes=Vetoes(operators=("max_pool",)))),
        key(replace(settings, board=replace(settings.board, power=power))),
    ]
    shipped = Lut.load(LUTS / "qemu-cortex-m4" / "edgenas")
    other = replace(shipped, calibration=replace(shipped.interval, high=1.01 * shipped.interval.high))
    monkeypatch.setattr(stages, "obtain_lut", lambda *_: other)
    keys.append(key(settings))
    assert len(set(keys)) == len(keys)
