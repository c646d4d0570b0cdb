"""The profiler against the real emulator: resuming, restarting, and what its table is worth."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.engine import Model, emit_c, load
from pipeline.errors import LinkError
from pipeline.firmware.app import render_app
from pipeline.firmware.build import Build, build
from pipeline.latency.cost import CostModel
from pipeline.latency.emulated import emulated_layers
from pipeline.latency.lut import Lut
from pipeline.links import ProcessLink, open_link
from pipeline.profiler import bench, current_identity, lut_path, obtain, profile
from pipeline.profiler.calibration import ANCHOR, calibration_operators
from pipeline.profiler.footprint import sample_graph, sample_network
from pipeline.progress import Reporter
from pipeline.space.architecture import lower, parameters
from pipeline.space.budgets import Budgets
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

BOARD = load_board("qemu-cortex-m4")
QUIET = Reporter(quiet=True)
SPACE = SearchSpace.for_input((28, 28, 1), 10)
# more than the benchmark's memory holds
TOO_BIG = OpSpec("conv2d", 64, 64, 64, 64, 64, 64)


def journal_counts(path: Path) -> Counter[str]:
    """Measurements by operator, the anchor's left out."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        found = Counter(op for (op,) in db.execute("SELECT op FROM measurements"))
    del found[ANCHOR.key]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiler")


@pytest.fixture(scope="module")
def lut(folder: Path) -> Lut:
    """The calibration set, the sample network and one operator that does not fit."""
    ops = [TOO_BIG]
    return profile(BOARD, ops, journal=folder / "journal.sqlite", reporter=QUIET, out=folder / "table.csv")


def test_table_on_disk_and_identity(lut: Lut, folder: Path) -> None:
    assert Lut.load(folder / "table.csv", current_identity(BOARD)) == lut
    assert lut.missing([*calibration_operators(), *(node.op for node in sample_graph().nodes)]) == []


def test_first_operators_prove_that_counts_repeat(lut: Lut, folder: Path) -> None:
    counts = Counter(journal_counts(folder / "journal.sqlite").values())
    assert counts == {2: 5, 1: len(lut.rows) - 5}


def test_an_operator_that_is_too_big_is_recorded_with_its_reason(lut: Lut) -> None:
    assert lut.rows[TOO_BIG.key].refused.startswith("TOO_BIG ")
    assert TOO_BIG not in lut
    assert lut.predict_op(TOO_BIG).provenance == "estimated"


def test_shipped_rows_are_these_rows(lut: Lut) -> None:
    """Two profilings, on whichever machine, of the same sources and compiler give the same numbers."""
    shipped = Lut.load(lut_path(BOARD))
    if shipped.identity != lut.identity:
        pytest.skip("the shipped table is of another compiler")
    common = [key for key in lut.rows if key in shipped.rows]
    assert len(common) > 200
    for key in common:
        assert shipped.rows[key].cycles == lut.rows[key].cycles
    assert (shipped.flash, shipped.overhead) == (lut.flash, lut.overhead)


def test_nothing_is_measured_twice_after_a_kill(tmp_path: Path) -> None:
    """SIGKILL in the middle of a run; the next one measures the rest alone."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.boards import load_board\n"
        "from pipeline.profiler import profile\n"
        "from pipeline.progress import Reporter\n"
        "from pipeline.space.search_space import SearchSpace\n"
        "profile(load_board('qemu-cortex-m4'), SearchSpace.for_input((28, 28, 1), 10).operators(),"
        " journal=Path(sys.argv[1]), reporter=Reporter(quiet=True))\n"
    )
    journal = tmp_path / "journal.sqlite"
    process = subprocess.Popen([sys.executable, "-c", script, str(journal)])
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (not journal.is_file() or _rows(journal) < 60):
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    before = journal_counts(journal)
    assert sum(before.values()) >= 60
    every = {*SPACE.operators(), *calibration_operators(), *(node.op for node in sample_graph().nodes)}
    assert len(before) < len({op for op in every if op.kind != "reshape"}), "it was done before the kill"
    profile(BOARD, SPACE.operators(), journal=journal, reporter=QUIET)
    after = journal_counts(journal)
    assert set(after) == {op.key for op in every if op.kind != "reshape"}
    assert sum(after.values()) == len(after) + 5
    assert all(after[key] == count for key, count in before.items() if after[key] == 1)


def _rows(journal: Path) -> int:
    try:
        return sum(journal_counts(journal).values())
    except sqlite3.OperationalError:  # no table yet
        return 0


def test_an_emulator_that_dies_is_started_again(
    lut: Lut, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[ProcessLink] = []

    def opened(*args: Any, **options: Any) -> ProcessLink:
        link = open_link(*args, **options)
        assert isinstance(link, ProcessLink)
        links.append(link)
        return link

    monkeypatch.setattr(bench, "open_link", opened)
    ops = [op for op in calibration_operators()[:6] if op.kind != "reshape"]
    with bench.BenchSession(BOARD, folder / f"bench-{BOARD.name}") as session:
        measured = [session.measure(op) for op in ops[:3]]
        os.kill(links[-1].pid, signal.SIGKILL)
        measured += [session.measure(op) for op in ops[3:]]
        assert session.starts == 2
    assert [m.cycles for m in measured] == [lut.rows[op.key].cycles for op in ops]


def test_an_emulator_that_keeps_dying_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(*args: Any, **options: Any) -> ProcessLink:
        link = open_link(*args, **options)
        assert isinstance(link, ProcessLink)
        os.kill(link.pid, signal.SIGKILL)
        return link

    monkeypatch.setattr(bench, "open_link", dead)
    with (
        bench.BenchSession(BOARD, folder / f"bench-{BOARD.name}") as session,
        pytest.raises(LinkError, match="died 4 times"),
    ):
        session.measure(calibration_operators()[0])


def test_obtain_measures_only_what_no_table_has(folder: Path, lut: Lut, tmp_path: Path) -> None:
    extra = OpSpec("mean", 5, 5, 21, 1, 1, 21)
    lut.save(lut_path(BOARD, tmp_path))
    found = obtain(BOARD, [TOO_BIG], folder=tmp_path, reporter=QUIET)
    assert found == lut
    assert not (tmp_path / "journal.sqlite").exists()
    found = obtain(BOARD, [extra], folder=tmp_path, reporter=QUIET)
    assert set(journal_counts(tmp_path / "journal.sqlite")) == {extra.key}
    assert set(found.rows) == {*lut.rows, extra.key}
    assert Lut.load(lut_path(BOARD, tmp_path)) == found


def test_other_firmware_around_the_same_kernels_costs_no_measurement(lut: Lut, tmp_path: Path) -> None:
    """Only the footprint is measured anew."""
    other = replace(lut.identity, firmware_revision="another")
    replace(lut, identity=other, flash=None).save(lut_path(BOARD, tmp_path))
    found = obtain(BOARD, [TOO_BIG], folder=tmp_path, reporter=QUIET)
    assert found == lut
    assert not journal_counts(tmp_path / "journal.sqlite")


def test_counts_of_another_run_are_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's timer and the emulator's plugin count independently."""
    monkeypatch.setattr(bench, "INSTRUCTION_NS", 2 * bench.INSTRUCTION_NS)
    with (
        bench.BenchSession(BOARD, folder / f"bench-{BOARD.name}") as session,
        pytest.raises(LinkError, match="the emulator counted"),
    ):
        session.measure(calibration_operators()[0])


# -- what the table is worth -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def applications(folder: Path) -> Sequence[tuple[Any, Model, Build]]:
    """Random networks of the space, with made-up weights, linked for the board."""
    rng = np.random.default_rng(11)
    found = []
    for _ in range(3):
        architecture = SPACE.random(rng)
        model = load(sample_network(lower(architecture)))
        rendered = render_app(emit_c(model), BOARD, Budgets(), folder / "application", 1.0)
        built = build(rendered, BOARD)
        target = folder / f"{len(found)}.elf"
        target.write_bytes(built.elf.read_bytes())
        found.append((architecture, model, Build(target, built.build_id, built.sizes)))
    return found


def test_sram_is_exact_and_flash_within_one_percent(
    lut: Lut, applications: Sequence[tuple[Any, Model, Build]]
) -> None:
    costs = CostModel(BOARD, lut)
    for architecture, _, built in applications:
        cost = costs.evaluate(lower(architecture), parameters(architecture))
        assert cost.sram_bytes == built.sram_bytes
        expected = costs.expected_flash_bytes(lower(architecture))
        assert expected == pytest.approx(built.flash_bytes, rel=0.01)
        assert built.flash_bytes <= cost.flash_bytes


def test_predicted_cycles_are_those_emulated(
    folder: Path, lut: Lut, applications: Sequence[tuple[Any, Model, Build]]
) -> None:
    """Whole networks within 1 % where each operator was measured, within 5 % where none of them was."""
    architecture, model, built = applications[0]
    graph = lower(architecture)
    x = np.random.default_rng(2).integers(-128, 128, model.input_bytes, dtype=np.int8).tobytes()
    emulated = sum(layer.cycles for layer in emulated_layers(BOARD, built.elf, x))
    estimated = lut.predict(graph)
    assert len(estimated.unmeasured) > 10
    assert estimated.total_cycles == pytest.approx(emulated, rel=0.05)
    assert estimated.low_cycles < emulated < estimated.high_cycles
    ops = [node.op for node in graph.nodes]
    full = profile(BOARD, ops, journal=folder / "journal.sqlite", reporter=QUIET, base=lut)
    predicted = full.predict(graph)
    assert predicted.unmeasured == ()
    assert predicted.total_cycles == pytest.approx(emulated, rel=0.01)
    ratio = CostModel(BOARD, full).cycles_per_instruction(graph)
    instructions = sum(layer.instructions for layer in emulated_layers(BOARD, built.elf, x))
    assert ratio == pytest.approx(emulated / instructions, rel=0.01)
