"""Interpolation: the solver against brute force, and kernels against rows they have not seen."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.assets import asset_dir
from pipeline.latency.interpolate import KernelModel, features, nonnegative_least_squares
from pipeline.latency.lut import Lut
from pipeline.space.kernels import KERNELS
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
