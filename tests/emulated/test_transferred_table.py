"""A transferred table against the real emulator: measures what it must, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.fit import fit_transfer, open_base
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.profiler import lut_path, obtain
from pipeline.progress import Reporter
from pipeline.space.architecture import lower, parameters
from pipeline.space.search_space import SearchSpace

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]
QUIET = Reporter(quiet=True)


def test_a_table_from_six_measurements_serves_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The M7 stands for the real board, the M4's shipped table for the emulator's."""
    board = load_board("qemu-cortex-m7")
    base = open_base(board, "qemu-cortex-m4")
    journal, out = tmp_path / "journal.sqlite", lut_path(board, tmp_path / "luts")
    first = fit_transfer(board, base, journal=journal, out=out, reporter=QUIET, measurements=6)
    rows = [row for row in first.rows.values() if not row.transferred]
    assert len(rows) == 6
    truth = Lut.load(lut_path(board))
    assert all(row.cycles == truth.rows[row.op.key].cycles for row in rows)
    # nothing is run for what is known, though the journal is another one
    monkeypatch.setattr("pipeline.fit.transfer.measure", None)
    again = fit_transfer(board, base, journal=tmp_path / "x.sqlite", out=out, reporter=QUIET, measurements=6)
    assert again.rows == first.rows
    space = SearchSpace.for_input((28, 28, 1), 10)
    used = obtain(board, space.operators(), folder=tmp_path / "luts", reporter=QUIET)
    assert used.transfer is not None and used.transfer == again.transfer
    architecture = space.random(np.random.default_rng(0))
    graph = lower(architecture)
    cost = CostModel(board, used).evaluate(graph, parameters(architecture))
    assert cost.latency_ms == pytest.approx(used.predict(graph).high_cycles / board.clock_hz * 1e3)
    assert truth.flash is not None
    assert cost.flash_bytes == truth.flash.most_flash_bytes(graph)
