"""Campaigns over simulated targets: repetitions, drift, outliers, several workers, the adaptive plan."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.assets import asset_dir
from pipeline.errors import LinkError
from pipeline.fleet import Fleet
from pipeline.latency.interpolate import KernelModel
from pipeline.latency.lut import Lut
from pipeline.profiler import repeats
from pipeline.profiler.calibration import ANCHOR
from pipeline.profiler.campaign import ANCHOR_EVERY, Campaign
from pipeline.profiler.journal import Journal, Measurement
from pipeline.profiler.plan import Plan
from pipeline.progress import Reporter
from pipeline.space.kernels import select
from pipeline.space.opspec import OpSpec

QUIET = Reporter(quiet=True)
TRUTH = {
    row.op: row.cycles
    for row in Lut.load(asset_dir("luts") / "qemu-cortex-m4" / "edgenas.csv").rows.values()
    if not row.refused
}
OPS = sorted(TRUTH)


class Target:
    """Answers with the shipped table's cycles; `disturb(n, cycles)` makes the n-th answer what it becomes."""

    def __init__(self, disturb: Callable[[int, float], float] = lambda n, cycles: cycles) -> None:
        self.disturb = disturb
        self.asked: list[OpSpec] = []
        self.starts = 1
        self.busy = threading.Lock()

    def measure(self, op: OpSpec) -> Measurement:
        assert self.busy.acquire(blocking=False), "a target was used by two at a time"
        try:
            self.asked.append(op)
            cycles = self.disturb(len(self.asked), TRUTH.get(op, 1e5))
            return Measurement(op, cycles, 0, round(cycles), 7)
        finally:
            self.busy.release()

    def close(self) -> None: ...


def campaign(targets: list[Target], plan: Plan, path: Path, stop: threading.Event | None = None) -> Campaign:
    with (
        Journal(path, "identity") as book,
        Fleet(lambda i: lambda: targets[i], len(targets), board="simulated") as fleet,
    ):
        made = Campaign(plan, fleet.workers, book, QUIET, ANCHOR, "simulated", stop=stop)
        made.run()
    return made


def journalled(path: Path) -> dict[OpSpec, list[Measurement]]:
    with Journal(path, "identity") as book:
        return {op: book.of(op) for op in OPS if book.of(op)}


def test_a_deterministic_target_needs_one_run_each(tmp_path: Path) -> None:
    target = Target()
    campaign([target], Plan(OPS[:60]), tmp_path / "j")
    counts = Counter(op for op in target.asked if op != ANCHOR)
    assert set(counts) == set(OPS[:60])
    assert sorted(counts.values()) == [1] * 55 + [2] * 5


def test_two_targets_share_the_work_and_the_result(tmp_path: Path) -> None:
    targets = [Target(), Target()]
    campaign(targets, Plan(OPS[:80]), tmp_path / "j")
    assert all(len(target.asked) > 10 for target in targets)
    assert {op: runs[0].cycles for op, runs in journalled(tmp_path / "j").items()} == {
        op: TRUTH[op] for op in OPS[:80]
    }


def test_a_resumed_campaign_asks_for_the_rest_only(tmp_path: Path) -> None:
    campaign([Target()], Plan(OPS[:40]), tmp_path / "j")
    target = Target()
    campaign([target], Plan(OPS[:50]), tmp_path / "j")
    assert set(target.asked) - {ANCHOR} == set(OPS[40:50])


def test_a_noisy_target_is_asked_until_the_median_is_sure(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    target = Target(lambda n, cycles: cycles * (1 + 0.002 * rng.standard_normal()))
    campaign([target], Plan(OPS[:20]), tmp_path / "j")
    for op, runs in journalled(tmp_path / "j").items():
        assert repeats.FEWEST <= len(runs) <= repeats.MOST
        median = float(np.median([m.cycles for m in runs]))
        assert median == pytest.approx(TRUTH[op], rel=0.004)


def test_outliers_are_reported_and_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)

    def disturb(n: int, cycles: float) -> float:
        # the anchor comes first; the 9th answer is an operator's
        return cycles * (1.4 if n == 9 else 1 + 0.0005 * rng.standard_normal())

    target = Target(disturb)
    made = campaign([target], Plan(OPS[:6]), tmp_path / "j")
    found = made.outliers()
    assert list(found) == [target.asked[8]]
    op = target.asked[8]
    (run,) = found[op]
    assert run.cycles == pytest.approx(1.4 * TRUTH[op])
    assert run.cycles in [m.cycles for m in journalled(tmp_path / "j")[op]]


def test_what_was_measured_while_the_clock_was_off_is_measured_again(tmp_path: Path) -> None:
    """From the 20th answer to the anchor after it the target is 5 % slow, then as before."""
    slow = range(20, ANCHOR_EVERY + 5)  # the anchor begins with two runs, and is asked twice again
    target = Target(lambda n, cycles: cycles * (1.05 if n in slow else 1.0))
    campaign([target], Plan(OPS[:120]), tmp_path / "j")
    found = journalled(tmp_path / "j")
    assert {op: np.median([m.cycles for m in runs]) for op, runs in found.items()} == {
        op: TRUTH[op] for op in OPS[:120]
    }


def test_a_target_that_keeps_drifting_is_given_up(tmp_path: Path) -> None:
    """What was measured since the anchor was last right does not count; what was measured before stays."""
    slow_from = ANCHOR_EVERY + 20  # behind the first anchor of the series
    target = Target(lambda n, cycles: cycles * (1.05 if n >= slow_from else 1.0))
    with pytest.raises(LinkError, match="drifts"):
        campaign([target], Plan(OPS[:300]), tmp_path / "j")
    found = journalled(tmp_path / "j")
    assert len(found) > 30
    assert {op: {m.cycles for m in runs} for op, runs in found.items()} == {op: {TRUTH[op]} for op in found}


def test_no_run_of_the_anchor_under_drift_counts(tmp_path: Path) -> None:
    """The anchor may be an operator of the space: its row comes from the same journal."""
    slow = range(20, ANCHOR_EVERY + 12)
    rng = np.random.default_rng(4)
    target = Target(lambda n, cycles: cycles * (1.05 + 1e-4 * rng.standard_normal() if n in slow else 1.0))
    campaign([target], Plan(OPS[:120]), tmp_path / "j")
    with Journal(tmp_path / "j", "identity") as book:
        assert {m.cycles for m in book.of(ANCHOR)} == {TRUTH.get(ANCHOR, 1e5)}


def test_an_error_of_one_target_ends_the_campaign_and_keeps_the_rest(tmp_path: Path) -> None:
    def disturb(n: int, cycles: float) -> float:
        if n == 30:
            raise LinkError("the board is gone", hint="connect it")
        return cycles

    with pytest.raises(LinkError, match="gone"):
        campaign([Target(disturb)], Plan(OPS[:100]), tmp_path / "j")
    assert 20 <= len(journalled(tmp_path / "j")) <= 29


def test_what_other_targets_are_at_is_kept_where_one_fails(tmp_path: Path) -> None:
    there, gone = threading.Event(), threading.Event()

    def fail(n: int, cycles: float) -> float:
        if n == 22:
            assert there.wait(30)  # the other one is in the middle of an operator
            threading.Timer(0.2, gone.set).start()
            raise LinkError("the board is gone", hint="connect it")
        return cycles

    def be_slow(n: int, cycles: float) -> float:
        if n == 20:
            there.set()
            assert gone.wait(30)
        return cycles

    slow = Target(be_slow)
    with pytest.raises(LinkError, match="gone"):
        campaign([Target(fail), slow], Plan(OPS[:100]), tmp_path / "j")
    assert len(slow.asked) == 20
    assert slow.asked[19] in journalled(tmp_path / "j")


def test_a_campaign_can_be_stopped_from_another_thread(tmp_path: Path) -> None:
    stop = threading.Event()

    def disturb(n: int, cycles: float) -> float:
        if n == 12:
            stop.set()
        return cycles

    target = Target(disturb)
    with pytest.raises(LinkError, match="stopped"):
        campaign([target], Plan(OPS[:100]), tmp_path / "j", stop)
    assert len(target.asked) == 12
    assert target.asked[11] in journalled(tmp_path / "j")


def test_an_interrupted_campaign_still_knows_that_the_target_is_noisy(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)

    def noisy(n: int, cycles: float) -> float:
        return cycles * (1 + 0.002 * rng.standard_normal())

    def interrupted(n: int, cycles: float) -> float:
        if n > 120:
            raise LinkError("unplugged")
        return noisy(n, cycles)

    with pytest.raises(LinkError, match="unplugged"):
        campaign([Target(interrupted)], Plan(OPS[:40]), tmp_path / "j")
    assert 5 < len(journalled(tmp_path / "j")) < 30
    again = Target(noisy)
    campaign([again], Plan(OPS[:40]), tmp_path / "j")
    found = journalled(tmp_path / "j")
    assert all(len(found[op]) >= repeats.FEWEST for op in OPS[:40])
    assert again.asked[-1] == ANCHOR, "nothing is trusted without an anchor after it"


def test_too_few_runs_of_a_noisy_target_are_something_left_to_do(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", "identity") as book:
        for cycles in (100.0, 101.0):
            book.add(Measurement(OPS[0], cycles))
        assert Campaign.anything_left(Plan(OPS[:1]), book)
        book.add(Measurement(OPS[1], 50.0))
        assert not Campaign.anything_left(Plan(OPS[1:2]), book)
        assert Campaign.anything_left(Plan(OPS[:2]), book)


@pytest.mark.parametrize("bound", [0.02, 0.005])
def test_the_adaptive_plan_measures_few_and_predicts_the_rest(bound: float) -> None:
    plan = Plan(OPS, bound=bound)
    measured: dict[str, dict[OpSpec, float]] = {}
    while (op := plan.next()) is not None:
        measured.setdefault(select(op).name, {})[op] = TRUTH[op]
        plan.tell(op, TRUTH[op])
    left = plan.estimated()
    count = sum(map(len, measured.values()))
    assert count + len(left) == len(OPS)
    assert count < 0.4 * len(OPS)
    models = {kernel: KernelModel.fit(kernel, rows) for kernel, rows in measured.items()}
    errors = [abs(models[select(op).name].estimate(op).cycles / TRUTH[op] - 1) for op in left]
    assert np.mean(errors) < bound / 2
    assert np.quantile(errors, 0.95) < 2 * bound


def test_a_plan_without_a_bound_measures_everything_once() -> None:
    plan = Plan(OPS, OPS[5:9])
    seen = []
    while (op := plan.next()) is not None:
        seen.append(op)
        plan.tell(op, TRUTH[op])
    assert seen[:4] == OPS[5:9]
    assert sorted(seen) == OPS


def test_a_refused_operator_settles_without_a_figure() -> None:
    plan = Plan(OPS[:3])
    while (op := plan.next()) is not None:
        plan.tell(op, None)
    assert plan.left() == 0


def test_the_medians_interval() -> None:
    assert repeats.half_width([100.0] * 5) == 0.0
    assert repeats.half_width([100.0, 101.0]) > repeats.NARROW
    spread = repeats.half_width(list(np.linspace(90, 110, 101)))
    assert 0.015 < spread < 0.025  # +-1.96 sqrt(101)/2 ranks of 0.2 each
