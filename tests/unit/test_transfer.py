"""Transferred tables: the correction against tables whose truth is known, its parts against plain computations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.assets import asset_dir
from pipeline.boards import Board, load_board
from pipeline.errors import LutError
from pipeline.fit import fit_transfer, open_base, summary, transfer
from pipeline.latency import correction
from pipeline.latency.correction import DESIGN, Correction, Places, Process, choose, covariance
from pipeline.latency.identity import Identity
from pipeline.latency.lut import Lut, Row
from pipeline.latency.transfer import transferred, usable, worth_measuring
from pipeline.progress import Reporter
from pipeline.space.architecture import lower
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace


def shipped(board: str) -> Lut:
    return Lut.load(asset_dir("luts") / board / "edgenas.csv")


M4, M7 = shipped("qemu-cortex-m4"), shipped("qemu-cortex-m7")
ROWS = usable(M4.rows)
PLACES = Places.of(ROWS)


def measured(count: int, truth: Lut = M7) -> dict[str, Row]:
    return {row.op.key: truth.rows[row.op.key] for row in worth_measuring(M4.rows, count, {})}


def scaled(factor: float) -> Lut:
    """A board that takes `factor` times the cycles of the M4, whatever the operator."""
    rows = {k: replace(r, cycles=factor * r.cycles, p95=factor * r.p95) for k, r in M4.rows.items()}
    return replace(M4, rows=rows)


def held_out(rows: dict[str, Row], truth: Lut) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors of transferred rows, and whether the truth lies in their intervals."""
    guessed = [row for row in rows.values() if row.transferred]
    real = np.array([truth.rows[row.op.key].cycles for row in guessed])
    inside = [row.low <= r <= row.p95 for row, r in zip(guessed, real, strict=True)]
    return np.array([row.cycles for row in guessed]) / real - 1.0, np.array(inside)


def test_a_board_that_is_slower_by_one_factor_is_found_exactly() -> None:
    truth = scaled(1.7)
    rows, about, factor = transferred(M4.rows, measured(8, truth), "qemu-cortex-m4", "0")
    errors, inside = held_out(rows, truth)
    assert factor == pytest.approx(1.7, rel=1e-5)
    assert np.abs(errors).max() < 1e-4 and about.worst < 1e-4
    assert inside.all()
    # no interval claims to be narrower than a percent
    assert min(row.p95 / row.cycles for row in rows.values() if row.transferred) > 1.0099


def test_twenty_measurements_of_another_core_tell_the_others() -> None:
    rows, about, _ = transferred(M4.rows, measured(20), "qemu-cortex-m4", "0")
    errors, inside = held_out(rows, M7)
    one_factor = np.array([M4.rows[k].cycles / M7.rows[k].cycles for k in rows])
    plain = np.abs(one_factor / np.median(one_factor) - 1.0).mean()
    assert np.abs(errors).mean() < min(0.05, 0.75 * plain)
    assert inside.mean() > 0.8
    assert about.measurements == 20 and 0 < about.mape <= about.worst
    guess = Lut(M7.identity, rows, M7.overhead, M7.flash, transfer=about)
    rng = np.random.default_rng(1)
    space = SearchSpace.for_input((28, 28, 1), 10)
    for graph in (lower(space.random(rng)) for _ in range(10)):
        found, real = guess.predict(graph), M7.predict(graph).total_cycles
        assert found.total_cycles == pytest.approx(real, rel=0.05)
        assert found.low_cycles < real < found.high_cycles


def test_measured_rows_stay_as_they_are() -> None:
    known = measured(10)
    rows, _, _ = transferred(M4.rows, known, "qemu-cortex-m4", "0")
    assert {k: rows[k] for k in known} == known
    assert set(rows) == set(M4.rows)
    assert sum(row.transferred for row in rows.values()) == len(M4.rows) - 10


def test_a_measured_operator_that_the_base_lacks_is_kept() -> None:
    known = measured(6)
    extra = next(iter(known.values()))
    op = replace(extra.op, in_h=97)
    known[op.key] = replace(extra, op=op)
    rows, about, _ = transferred(M4.rows, known, "qemu-cortex-m4", "0")
    assert rows[op.key] == known[op.key] and about.measurements == 6


def test_refused_operators_are_transferred_and_not_asked_again() -> None:
    first = worth_measuring(M4.rows, 6, {})[0]
    refused = Row(first.op, first.kernel, 0.0, 0.0, 0, 0, "TOO_BIG 9")
    again = worth_measuring(M4.rows, 6, {first.op.key: refused})
    assert len(again) == 6 and first.op.key not in {row.op.key for row in again}
    known = {first.op.key: refused} | {row.op.key: M7.rows[row.op.key] for row in again}
    rows, about, _ = transferred(M4.rows, known, "qemu-cortex-m4", "0")
    assert rows[first.op.key].transferred and about.measurements == 6


def test_too_few_measurements_are_refused() -> None:
    with pytest.raises(LutError, match="4 measurements cannot fit"):
        transferred(M4.rows, measured(4), "qemu-cortex-m4", "0")


def test_a_transferred_table_is_no_base() -> None:
    rows, _, _ = transferred(M4.rows, measured(6), "qemu-cortex-m4", "0")
    with pytest.raises(LutError, match="transferred one itself"):
        transferred(rows, measured(6), "qemu-cortex-m7", "0")


def test_kernels_without_a_measurement_have_wider_intervals_and_are_named() -> None:
    wanted = ("edgenas_conv", "edgenas_conv_1x1", "edgenas_add")
    chosen = [row for row in ROWS if row.kernel in wanted][::40]
    known = {row.op.key: M7.rows[row.op.key] for row in chosen}
    rows, about, _ = transferred(M4.rows, known, "qemu-cortex-m4", "0")
    assert set(about.alone) == {row.kernel for row in ROWS} - set(wanted)
    own = [r.p95 / r.cycles for r in rows.values() if r.transferred and r.kernel == "edgenas_conv_1x1"]
    other = [r.p95 / r.cycles for r in rows.values() if r.transferred and r.kernel in about.alone]
    assert all(r.relatives == 0 for r in rows.values() if r.transferred and r.kernel in about.alone)
    assert np.median(np.log(other)) > 2 * np.median(np.log(own))


def test_files_and_predictions_say_what_is_transferred(tmp_path: Path) -> None:
    identity = replace(M7.identity, counter="cycles", timing="device counter")
    rows, about, _ = transferred(M4.rows, measured(7), "qemu-cortex-m4", "0")
    table = Lut(identity, rows, M7.overhead, M7.flash, transfer=about)
    path = tmp_path / "board" / "edgenas.csv"
    table.save(path)
    found = Lut.load(path)
    assert found == table and found.transfer == about
    lines = path.read_text().splitlines()
    assert sum(",modelled,7," in line for line in lines) == len(rows) - 7
    assert sum(",measured,0," in line for line in lines) == 7
    one, other = (next(r for r in rows.values() if r.transferred is which) for which in (False, True))
    assert found.predict_op(one.op).provenance == "measured"
    assert found.predict_op(other.op).provenance == "modelled"
    assert found.provenance == "modelled"
    assert "corrected by 7 measurements" in found.interval.describe()
    # that of a measured table, on top of the rows' own: not the one assumed for a board without measurements
    assert (found.interval.low, found.interval.high) == (0.9, 1.1)
    more, again, _ = transferred(M4.rows, measured(9), "qemu-cortex-m4", "0")
    assert Lut(identity, more, M7.overhead, M7.flash, transfer=again).key != found.key
    text = path.read_text().replace(",modelled,7,", ",measured,0,", 1)
    path.write_text(text)
    with pytest.raises(LutError, match="checksum"):
        Lut.load(path)


def test_estimates_from_transferred_rows_inherit_their_intervals() -> None:
    rows, about, _ = transferred(M4.rows, measured(20), "qemu-cortex-m4", "0")
    table = Lut(M7.identity, rows, M7.overhead, M7.flash, transfer=about)
    row = next(r for r in ROWS if r.kernel == "edgenas_conv_1x1")
    op = replace(row.op, in_c=row.op.in_c + 3)
    assert op.key not in rows
    estimate = table.models[row.kernel].estimate(op)
    widest = max(r.p95 / r.cycles for r in rows.values() if r.transferred and r.kernel == row.kernel)
    assert table.predict_op(op).high == pytest.approx(widest * estimate.high)


# -- parts, against plain computations -----------------------------------------------------------------------


def test_left_out_predictions_are_those_of_a_fit_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The precision matrix gives them all at once; here each is fitted anew."""
    monkeypatch.setattr(correction, "_candidates", lambda: (DESIGN,))
    chosen = list(range(0, len(ROWS), 75))
    ratios = np.log([M7.rows[ROWS[i].op.key].cycles / ROWS[i].cycles for i in chosen])
    process = Process.fit(PLACES[chosen], ratios)
    for i in range(len(chosen)):
        rest = [c for j, c in enumerate(chosen) if j != i]
        known = covariance(PLACES[rest], PLACES[rest], DESIGN) + np.eye(len(rest))
        cross = covariance(PLACES[[chosen[i]]], PLACES[rest], DESIGN)
        kept = np.delete(ratios, i) - ratios.mean()
        expected = ratios.mean() + (cross @ np.linalg.solve(known, kept))[0]
        closed = ratios[i] - process.weights[i] / process.precision[i, i]
        assert closed == pytest.approx(expected, abs=1e-6)


def test_the_next_operator_is_the_one_that_lowers_the_variance_most() -> None:
    some = PLACES[list(range(0, len(ROWS), 12))]
    weights = np.sqrt([ROWS[i].cycles for i in range(0, len(ROWS), 12)])

    def uncertainty(known: list[int]) -> float:
        gram = covariance(some[known], some[known], DESIGN) + np.eye(len(known))
        cross = covariance(some, some[known], DESIGN)
        prior = np.diag(covariance(some, some, DESIGN))
        return float(weights @ (prior - np.einsum("ij,ji->i", cross, np.linalg.solve(gram, cross.T))))

    first, second, third = choose(some, weights, 3)
    assert first == min(range(len(some)), key=lambda i: uncertainty([i]))
    assert third == min(range(len(some)), key=lambda i: uncertainty([first, second, i]))
    assert choose(some, weights, 2, known=[first]) == [second, third]


def test_intervals_reach_as_far_as_the_t_distribution_at_least() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count in (5, 9, 10, 20, 60):
        assert correction._quantile(np.zeros(count)) == pytest.approx(stats.t.ppf(0.95, count - 1), rel=2e-3)
    assert correction._quantile(np.arange(1.0, 20.0)) == 18.0  # the 18th of 19: 0.9 * (19 + 1)


def test_the_stated_error_is_of_measurements_that_the_fit_has_not_seen() -> None:
    """A wild measurement shows in the stated error and the intervals, however well the fit bends to it."""
    chosen = list(range(0, len(ROWS), 60))
    ratios = np.log([M7.rows[ROWS[i].op.key].cycles / ROWS[i].cycles for i in chosen])
    plain = Correction.fit(PLACES[chosen], ratios)
    ratios[3] += np.log(3.0)
    wild = Correction.fit(PLACES[chosen], ratios)
    assert np.abs(wild.errors).max() > 0.5 > np.abs(plain.errors).max()


# -- the command's rules -------------------------------------------------------------------------------------


@pytest.fixture
def identities(monkeypatch: pytest.MonkeyPatch) -> dict[str, Identity]:
    """Today's identities without a compiler: those of the shipped tables."""
    found = {"qemu-cortex-m4": M4.identity, "qemu-cortex-m7": M7.identity}
    monkeypatch.setattr(transfer, "current_identity", lambda board: found[board.name])
    monkeypatch.setattr(transfer, "measure_flash", lambda *_: M7.flash)
    monkeypatch.setattr(transfer, "journalled", lambda *_, **__: {})
    return found


def partial(path: Path, count: int, identity: Identity = M7.identity) -> Path:
    Lut(identity, measured(count), M7.overhead, M7.flash).save(path)
    return path


def test_a_base_of_another_engine_revision_is_refused(identities: dict[str, Identity]) -> None:
    board = load_board("qemu-cortex-m7")
    assert open_base(board, "qemu-cortex-m4").lut == M4
    identities["qemu-cortex-m4"] = replace(M4.identity, engine_revision="other")
    with pytest.raises(LutError, match="engine_revision is '"):
        open_base(board, "qemu-cortex-m4")
    with pytest.raises(LutError, match="of qemu-cortex-m7 itself"):
        open_base(board, "qemu-cortex-m7")
    with pytest.raises(LutError, match="qemu-cortex-m7, which is emulated itself") as caught:
        open_base(load_board("qemu-cortex-m7"))
    assert "edgenas profile --board qemu-cortex-m7" in caught.value.hint


def test_measurements_of_other_conditions_are_refused(
    tmp_path: Path, identities: dict[str, Identity]
) -> None:
    board = load_board("qemu-cortex-m7")
    base = open_base(board, "qemu-cortex-m4")
    for field, value in (("engine_revision", "other"), ("clock_hz", 1), ("flags", "-O3")):
        table = partial(tmp_path / field / "t.csv", 8, replace(M7.identity, **{field: value}))
        with pytest.raises(LutError, match=f"{field} is '"):
            fit_transfer(
                board, base, journal=tmp_path / "j", out=tmp_path / "o.csv", reporter=Reporter(quiet=True),
                tables=[table],
            )  # fmt: skip


def test_others_are_measured_in_place_of_those_that_a_small_board_refuses(
    tmp_path: Path, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[OpSpec] = []

    def measure(board: Board, ops: list[OpSpec], **_: object) -> dict[str, Row]:
        asked.extend(ops)
        return {op.key: M7.rows[op.key] if op.in_bytes < 4000 else refusal(op) for op in ops}

    def refusal(op: OpSpec) -> Row:
        return Row(op, M7.rows[op.key].kernel, 0.0, 0.0, 0, 0, "TOO_BIG 99")

    monkeypatch.setattr(transfer, "measure", measure)
    lut = fit_transfer(
        load_board("qemu-cortex-m7"), open_base(load_board("qemu-cortex-m7"), "qemu-cortex-m4"),
        journal=tmp_path / "j", out=tmp_path / "o.csv", reporter=Reporter(quiet=True), measurements=12,
    )  # fmt: skip
    assert lut.transfer is not None and lut.transfer.measurements == 12
    assert len(asked) > 12 and len(set(asked)) == len(asked)


def test_tables_given_and_the_one_there_both_count(tmp_path: Path, identities: dict[str, Identity]) -> None:
    board, out = load_board("qemu-cortex-m7"), tmp_path / "qemu-cortex-m7" / "edgenas.csv"
    base = open_base(board, "qemu-cortex-m4")
    more: dict[str, Any] = {"journal": tmp_path / "j", "out": out, "reporter": Reporter(quiet=True)}
    partial(out, 12)
    rest = {row.op.key: M7.rows[row.op.key] for row in ROWS[5::200]}
    Lut(M7.identity, rest, M7.overhead, M7.flash).save(tmp_path / "given.csv")
    lut = fit_transfer(board, base, tables=[tmp_path / "given.csv"], **more)
    kept = {key for key, row in lut.rows.items() if not row.transferred}
    assert kept == set(measured(12)) | set(rest)
    about = summary(lut)
    assert (about["measured_rows"], about["transferred_rows"]) == (len(kept), len(lut.rows) - len(kept))
    assert sum(kernel["rows"] for kernel in about["kernels"].values()) == about["transferred_rows"]
    assert all(0 < k["interval_median"] <= k["interval_widest"] for k in about["kernels"].values())
    assert (about["base"], about["board"]) == ("qemu-cortex-m4", "qemu-cortex-m7")
    # again, over a table that is transferred itself: nothing measured is lost, nothing transferred counts
    again = fit_transfer(board, base, **more)
    assert again == lut == Lut.load(out)
    too_few = partial(tmp_path / "few.csv", 3)
    with pytest.raises(LutError, match="3 measurements"):
        fit_transfer(board, base, tables=[too_few], **{**more, "out": tmp_path / "n.csv"})
