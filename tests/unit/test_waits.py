"""Waits of whole models: the fit against made-up truths, files, and what tables make of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.assets import asset_dir
from pipeline.boards import Board, load_board
from pipeline.errors import LutError, ToolError
from pipeline.latency.intervals import Interval
from pipeline.latency.lut import Identity, Lut, Row
from pipeline.latency.waits import Sample, WaitIdentity, WaitModel, fit_waits
from pipeline.profiler import standin
from pipeline.progress import Reporter
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

IDENTITY = WaitIdentity("a", "b", "1", "gcc", "-O2", "t 1", "s")
SHIPPED = Lut.load(asset_dir("luts") / "qemu-cortex-m4" / "edgenas.csv")
OPS = [op for op in SearchSpace.for_input((28, 28, 1), 10).operators() if op.kind != "reshape"]


def truth(op: OpSpec, reading: int, deployed: bool) -> float:
    """What a model would wait if weights cost by product and the second reading half as much again."""
    return (1.0 + 0.5 * reading) * ((0.1 * op.macs if deployed else 0.02 * op.macs) + 30.0)


def samples(ops: list[OpSpec], deployed: bool = True, noise: float = 0.0, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    found = []
    for op in ops:
        factor = 1.0 + noise * rng.uniform(-1, 1)
        waits = (truth(op, 0, deployed) * factor, truth(op, 1, deployed) * factor)
        found.append(Sample(op, 2.0 * op.macs + 500.0, waits))
    return found


def products(count: int) -> list[list[OpSpec]]:
    """Models of pointwise convolutions alone, whose loops run by products."""
    ops = [op for op in OPS if select(op).name == "edgenas_conv_1x1"]
    rng = np.random.default_rng(0)
    return [[ops[i] for i in rng.choice(len(ops), 8, replace=False)] for _ in range(count)]


def fitted(noise: float = 0.0) -> WaitModel:
    models = [samples(ops, noise=noise, seed=i) for i, ops in enumerate(products(6))]
    alone = samples(sorted({op for ops in products(6) for op in ops}), deployed=False)
    return fit_waits(IDENTITY, models, alone)


def test_fit_finds_what_loops_cost() -> None:
    model = fitted()
    seen = {op for ops in products(6) for op in ops}
    for op in seen:
        waits = model.op(op)
        assert waits.likely == waits.low == pytest.approx(truth(op, 0, True), rel=0.15)
        assert waits.high == pytest.approx(truth(op, 1, True), rel=0.15)
    assert 0.97 < model.low <= model.high < 1.03


def test_residuals_are_those_of_models_left_out() -> None:
    quiet, loud = fitted(), fitted(noise=0.8)
    assert loud.high / loud.low > quiet.high / quiet.low
    assert loud.low < 1.0 < loud.high


def test_refill_is_the_difference_and_never_negative() -> None:
    model = replace(fitted(), refill_only=True)
    for op in {op for ops in products(6) for op in ops}:
        expected = truth(op, 0, True) - truth(op, 0, False)
        assert model.op(op).likely == pytest.approx(expected, rel=0.2)
    backwards = replace(model, deployed=model.alone, alone=model.deployed)
    assert all(backwards.op(op).high == 0.0 for op in OPS)


def test_kernels_that_nobody_ran_take_the_common_terms() -> None:
    model = fitted()
    assert model.kernels == ("edgenas_conv_1x1",)
    depthwise = next(op for op in OPS if op.kind == "depthwise_conv2d")
    assert model.op(depthwise).likely > 0
    assert model.op(OpSpec("reshape", 1, 1, 10, 1, 1, 10)).high == 0.0


def test_file(tmp_path: Path) -> None:
    path, model = tmp_path / "waits.toml", fitted()
    model.save(path)
    assert WaitModel.load(path) == model
    path.write_text(path.read_text().replace("models = 6", "models = 60"))
    with pytest.raises(LutError, match="checksum"):
        WaitModel.load(path)
    with pytest.raises(LutError, match="there is no table"):
        WaitModel.load(tmp_path / "none.toml")


def test_too_few_models() -> None:
    with pytest.raises(LutError, match="1 models and 0 operators"):
        fit_waits(IDENTITY, [samples(products(1)[0])], [])


@pytest.mark.parametrize(
    "path", sorted(asset_dir("luts").glob("*/waits.toml")), ids=lambda path: path.parent.name
)
def test_what_ships(path: Path) -> None:
    """Is of its board, covers the kernels of the default space, and widens no interval beyond what is assumed."""
    model, board = WaitModel.load(path), load_board(path.parent.name)
    assert model.identity.board == board.name and board.memory.system is not None
    assert {select(op).name for op in OPS} <= set(model.kernels)
    assert 0.85 < model.low <= 1.0 <= model.high < 1.15
    for op in OPS:
        assert 0.0 <= model.op(op).low <= model.op(op).likely <= model.op(op).high


# -- tables ------------------------------------------------------------------------------------------------


def table(waits: WaitModel | None, counter: str = "cycles") -> tuple[Lut, OpSpec]:
    op = products(1)[0][0]
    identity = Identity("x", 1, "m", "e", "1", "1", "gcc", "-O2", "device counter", counter)
    return Lut(identity, {op.key: Row(op, select(op).name, 1000.0, 1100.0, 900, 3)}, waits=waits), op


def test_a_table_without_waits_predicts_its_rows() -> None:
    lut, op = table(None)
    found = lut.predict_op(op)
    assert (found.cycles, found.low, found.high, found.provenance) == (1000.0, 1000.0, 1100.0, "measured")


def test_waits_come_on_top_and_widen_the_interval() -> None:
    model = fitted(noise=0.8)
    lut, op = table(model)
    waits, found = model.op(op), lut.predict_op(op)
    assert found.cycles == 1000.0 + waits.likely
    assert (found.low, found.high) == (1000.0 + waits.low, 1100.0 + waits.high)
    assert found.provenance == "modelled"
    bare = table(None)[0].interval
    assert lut.interval.low == bare.low * model.low and lut.interval.high == bare.high * model.high
    assert lut.rows[op.key].cycles == 1000.0  # what load is compared with, operator by operator


def test_a_calibration_replaces_the_refill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, model = load_board("nucleo-l4r5zi"), fitted()
    monkeypatch.setattr(standin, "obtain_waits", lambda *args: model)
    lut, _ = table(None)
    assert standin.with_refill(board, lut, tmp_path, Reporter()).waits == replace(model, refill_only=True)
    calibrated = replace(lut, calibration=Interval(0.99, 1.01, 40, "measured", "random models"))
    assert standin.with_refill(board, calibrated, tmp_path, Reporter()).waits is None
    plain = load_board("arduino-nano-33-ble")
    assert standin.with_refill(plain, lut, tmp_path, Reporter()) is lut


def not_asked(other: Board) -> Lut:
    raise AssertionError(f"the table of {other.name} fits")


def test_a_table_of_other_code_does_not_stand_in_unsaid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where this machine's compiler makes other code the emulated board is measured anew, if that can be."""
    board, identity = load_board("nucleo-l4r5zi"), table(None)[0].identity
    monkeypatch.setattr(standin, "obtain_waits", lambda *args: fitted())
    monkeypatch.setattr(standin, "measure_flash", lambda *args: None)
    today = replace(SHIPPED.identity, compiler="gcc 99", firmware_revision="other")
    monkeypatch.setattr(standin, "current_identity", lambda other: today)
    slower = {key: replace(row, cycles=1.1 * row.cycles) for key, row in SHIPPED.rows.items()}

    measured = standin.stand_in(
        board, identity, tmp_path, Reporter(), lambda other: replace(SHIPPED, identity=today, rows=slower)
    )
    assert measured is not None and measured.rows == slower
    assert "other" not in measured.interval.source

    def no_emulator(other: Board) -> Lut:
        raise ToolError("qemu-system-arm is not installed", hint="apt")

    shipped = standin.stand_in(board, identity, tmp_path, Reporter(), no_emulator)
    assert shipped is not None and shipped.rows == SHIPPED.rows
    assert shipped.interval.source.endswith("the table is of other compiler")
    assert "qemu-cortex-m4 is of other compiler" in " ".join(capsys.readouterr().err.split())


def test_without_an_emulator_the_wide_interval_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> WaitModel:
        raise ToolError("qemu-system-arm is not installed", hint="apt")

    board = load_board("nucleo-l4r5zi")
    monkeypatch.setattr(standin, "obtain_waits", fails)
    monkeypatch.setattr(standin, "measure_flash", lambda *args: None)
    monkeypatch.setattr(standin, "current_identity", lambda other: SHIPPED.identity)
    wide = standin.stand_in(board, table(None)[0].identity, tmp_path, Reporter(), not_asked)
    assert wide is not None and wide.waits is None
    assert (wide.interval.low, wide.interval.high) == (standin.LOW, standin.HIGH)
    monkeypatch.setattr(standin, "obtain_waits", lambda *args: fitted())
    narrow = standin.stand_in(board, table(None)[0].identity, tmp_path, Reporter(), not_asked)
    assert narrow is not None and narrow.waits == fitted()
    assert narrow.interval.high / narrow.interval.low < wide.interval.high / wide.interval.low
    assert "waits simulated under 6 models" in narrow.interval.source
