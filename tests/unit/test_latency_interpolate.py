"""Interpolation: the solver against brute force, and kernels against rows they have not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.assets import asset_dir
from pipeline.errors import LutError
from pipeline.latency.interpolate import KernelModel, features, nonnegative_least_squares
from pipeline.latency.lut import Lut
from pipeline.profiler.calibration import calibration_operators
from pipeline.profiler.footprint import sample_graph
from pipeline.space.kernels import KERNELS, select
from pipeline.space.opspec import OpSpec


def brute_force(a: np.ndarray, b: np.ndarray) -> float:
    """Smallest residual over all supports whose unconstrained solution is not negative."""
    best = float(np.linalg.norm(b))
    for size in range(1, a.shape[1] + 1):
        for support in combinations(range(a.shape[1]), size):
            x = np.linalg.lstsq(a[:, support], b, rcond=None)[0]
            if (x >= -1e-12).all():
                best = min(best, float(np.linalg.norm(a[:, support] @ x - b)))
    return best


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 6))
def test_solver_finds_the_constrained_minimum(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    x = nonnegative_least_squares(a, b)
    assert (x >= 0).all()
    assert np.linalg.norm(a @ x - b) == pytest.approx(brute_force(a, b), rel=1e-6, abs=1e-9)


def test_solver_survives_dependent_columns() -> None:
    a = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [3.0, 6.0, 0.0]])
    assert a @ nonnegative_least_squares(a, np.array([1.0, 2.0, 3.0])) == pytest.approx([1, 2, 3])


def test_affine_cycles_are_found_exactly() -> None:
    ops = [OpSpec("mean", h, h + 1, c, 1, 1, c) for h in range(1, 8) for c in (3, 8, 17, 22, 32)]
    cycles = {op: 60.0 + 5 * op.in_h * op.in_w + 9 * op.in_bytes + 50 * op.in_c for op in ops}
    unseen = OpSpec("mean", 20, 30, 64, 1, 1, 64)
    estimate = KernelModel.fit("edgenas_mean", cycles).estimate(unseen)
    assert estimate.cycles == pytest.approx(60 + 5 * 600 + 9 * 600 * 64 + 50 * 64, rel=1e-6)
    assert estimate.low < estimate.cycles < estimate.high


def test_few_rows_give_a_wide_interval() -> None:
    op = OpSpec("mean", 3, 3, 8, 1, 1, 8)
    estimate = KernelModel.fit("edgenas_mean", {op: 1000.0}).estimate(op)
    assert estimate.high >= 1.5 * estimate.cycles


def test_nothing_measured_and_nothing_to_run() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        KernelModel.fit("edgenas_mean", {})
    with pytest.raises(ValueError, match="no kernel"):
        features(OpSpec("reshape", 1, 1, 4, 1, 1, 4))


def test_taps_in_the_padding_by_hand() -> None:
    """3x3 over 2x2 with SAME padding: every window has 4 of 9 taps inside."""
    op = OpSpec("depthwise_conv2d", 2, 2, 1, 2, 2, 2, 3, 3, pad_top=1, pad_left=1, pad_bottom=1, pad_right=1)
    inside, beside, empty_rows, taps_of_empty_rows = features(op)[-4:]
    assert (inside, beside, empty_rows, taps_of_empty_rows) == (4 * 4 * 2, 4 * 2 * 2, 4 * 2, 4 * 3 * 2)


@pytest.fixture(scope="module")
def shipped() -> Lut:
    return Lut.load(asset_dir("luts") / "qemu-cortex-m4" / "edgenas.csv")


@pytest.mark.parametrize("kernel", KERNELS)
def test_left_out_rows_are_predicted(shipped: Lut, kernel: str) -> None:
    """Every kernel from half of its rows: the other half within 10 % at the median, 35 % for nine in ten."""
    rows = sorted((r for r in shipped.rows.values() if r.kernel == kernel), key=lambda r: r.op)
    rng = np.random.default_rng(7)
    order = rng.permutation(len(rows))
    half = [rows[i] for i in order[::2]]
    rest = [rows[i] for i in order[1::2]]
    model = KernelModel.fit(kernel, {r.op: r.cycles for r in half})
    errors = [abs(model.estimate(r.op).cycles / r.cycles - 1) for r in rest]
    assert np.median(errors) < 0.10
    assert np.quantile(errors, 0.9) < 0.35


def test_the_search_space_extrapolates_from_the_calibration_set(shipped: Lut) -> None:
    """Large operators from small ones: 1x1 convolutions beyond 4 times the largest seen."""
    rows = [r for r in shipped.rows.values() if r.kernel == "edgenas_conv_1x1"]
    small = {r.op: r.cycles for r in rows if r.op.macs < 60_000}
    large = [r for r in rows if r.op.macs > 240_000]
    model = KernelModel.fit("edgenas_conv_1x1", small)
    errors = [abs(model.estimate(r.op).cycles / r.cycles - 1) for r in large]
    assert len(small) > 20 and len(large) > 20
    assert max(errors) < 0.10


def only(shipped: Lut, kernel: str, keep: Callable[[OpSpec], bool]) -> Lut:
    """The table without the rows of `kernel` that `keep` refuses."""
    return replace(shipped, rows={k: r for k, r in shipped.rows.items() if r.kernel != kernel or keep(r.op)})


def test_a_loop_that_nobody_measured_is_refused(shipped: Lut) -> None:
    """Kernels 5 wide say nothing of the row function of those 7 wide."""
    plain = "edgenas_depthwise_plain"
    five = only(shipped, plain, lambda op: op.kernel_w == 5)
    seen = next(r for r in shipped.rows.values() if r.kernel == plain and r.op.kernel_w == 5)
    unseen = next(r for r in shipped.rows.values() if r.kernel == plain and r.op.kernel_w == 7)
    assert five.predict_op(seen.op).cycles == seen.cycles
    with pytest.raises(
        LutError, match="runs all loops of edgenas_depthwise_plain that depthwise_conv2d:"
    ) as e:
        five.predict_op(unseen.op)
    assert "edgenas profile" in e.value.hint


def test_the_calibration_set_runs_every_loop(shipped: Lut) -> None:
    small = set(calibration_operators())
    for kernel in KERNELS:
        rows = [r for r in shipped.rows.values() if r.kernel == kernel]
        model = KernelModel.fit(kernel, {r.op: r.cycles for r in rows if r.op in small})
        assert all(model.covers(row.op) for row in rows), kernel


def test_intervals_of_extrapolated_operators_hold(shipped: Lut) -> None:
    """The search space from the calibration set, within the measured range and outside."""
    small = set(calibration_operators())
    found: dict[bool, list[bool]] = {False: [], True: []}
    for kernel in {row.kernel for row in shipped.rows.values()}:
        rows = [r for r in shipped.rows.values() if r.kernel == kernel]
        model = KernelModel.fit(kernel, {r.op: r.cycles for r in rows if r.op in small})
        for row in rows:
            if row.op not in small:
                estimate = model.estimate(row.op)
                found[estimate.outside].append(estimate.low <= row.cycles <= estimate.high)
    for inside in found.values():
        assert len(inside) > 100 and np.mean(inside) > 0.95


def test_a_prediction_names_what_was_extrapolated(shipped: Lut) -> None:
    """Pointwise convolutions of one depth do not tell the cost of a pixel from that of a product."""
    kernel = "edgenas_conv_1x1"
    few = only(shipped, kernel, lambda op: op.in_c == 16)
    graph = sample_graph()
    prediction, truth = few.predict(graph), shipped.predict(graph)
    deep = {n.op.key for n in graph.nodes if select(n.op).name == kernel and n.op.in_c != 16}
    assert prediction.outside and set(prediction.outside) <= deep == set(prediction.unmeasured)
    count = len(prediction.outside)
    assert prediction.estimates.endswith(
        f"operators interpolated, {count} of them outside the measured range"
    )
    for node, guess, exact in zip(graph.nodes, prediction.per_node, truth.per_node, strict=True):
        assert guess.outside == (node.op.key in prediction.outside)
        assert guess.low <= exact.cycles <= guess.high
    assert prediction.high_cycles > truth.high_cycles and (truth.outside, truth.estimates) == ((), "")
