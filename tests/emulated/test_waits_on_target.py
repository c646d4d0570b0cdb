"""Waits of whole models on the emulated twin: cold against warm, kept and found again, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.engine import load
from pipeline.latency.lut import Lut
from pipeline.latency.waits import WaitModel
from pipeline.links.memorysim import Simulated
from pipeline.profiler import lut_path, waiting
from pipeline.profiler.footprint import sample_graph, sample_network
from pipeline.progress import Reporter

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.slow,
    NEEDS_QEMU_ARM,
]

BOARD, TWIN = load_board("nucleo-l4r5zi"), load_board("qemu-cortex-m4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("waits")


@pytest.fixture(scope="module")
def fitted(folder: Path) -> WaitModel:
    """From the small model and a chain of dense layers only."""
    with pytest.MonkeyPatch.context() as patch:
        graphs = [sample_graph(), waiting.sample_graphs()[4]]
        patch.setattr(waiting, "sample_graphs", lambda: graphs)
        patch.setattr(waiting, "asset_dir", _no_tables(folder))
        return_value = waiting.obtain_waits(BOARD, TWIN, Lut.load(lut_path(TWIN)), folder, Reporter())
        assert return_value is not None
        # found again in the folder, without QEMU
        patch.setattr(waiting, "measure_waits", None)
        assert waiting.obtain_waits(BOARD, TWIN, Lut.load(lut_path(TWIN)), folder, Reporter()) == return_value
    return return_value


def _no_tables(folder: Path) -> Callable[[str], Path]:
    real = waiting.asset_dir
    return lambda name: folder / "nothing" if name == "luts" else real(name)


def test_weights_from_flash_are_not_seen_by_an_operator_alone(fitted: WaitModel) -> None:
    alone = replace(fitted, deployed=fitted.alone)
    dense = [node.op for node in waiting.sample_graphs()[4].nodes]
    for op in dense:
        # each weight is read once, 8 bytes a time, 5 cycles of waiting each, a sixth where reads follow each other; and
        # per output a bias, a multiplier, a shift and what the row's end spoils: up to 16 bytes
        least, most = op.macs / 8 * 5, (op.macs + 16 * op.out_c) / 8 * 6
        assert 0.95 * least < fitted.op(op).likely < 1.2 * most
        assert alone.op(op).likely < 0.02 * fitted.op(op).likely
    assert fitted.models == 2


def test_no_wait_states_change_nothing(folder: Path) -> None:
    """Nor do five change the cycles of the core's model."""
    model = load(sample_network(sample_graph()))
    slow, fast = (
        waiting.simulate_model(model, TWIN, Simulated(BOARD, 1.3, wait_states=states), folder / "app")
        for states in (5, 0)
    )
    assert [sample.cycles for sample in slow] == [sample.cycles for sample in fast]
    assert all(sample.waits == (0.0,) for sample in fast)
    assert sum(sample.waits[0] for sample in slow) > 0.05 * sum(sample.cycles for sample in slow)


def test_layers_are_the_table_s_operators(folder: Path) -> None:
    """What the terms are added to: the simulation of a whole model sees the cycles that the twin's rows have."""
    lut = Lut.load(lut_path(TWIN))
    model = load(sample_network(sample_graph()))
    samples = waiting.simulate_model(model, TWIN, Simulated(BOARD, 1.3), folder / "app")
    rows = [lut.rows[sample.op.key].cycles + lut.overhead.layer_cycles for sample in samples]
    assert sum(sample.cycles for sample in samples) == pytest.approx(sum(rows), rel=0.02)
