"""Calibrated intervals: coverage on draws of known distributions, files, and what is refused."""

from __future__ import annotations

import fcntl
import math
import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.assets import asset_dir
from pipeline.boards import Board, load_board
from pipeline.check import check_table
from pipeline.errors import ConfigError, LutError
from pipeline.latency.intervals import FEWEST, LEVEL, Interval, intervals_path, tails
from pipeline.latency.lut import Identity, Lut
from pipeline.latency.tablefiles import write_toml
from pipeline.profiler import profile
from pipeline.profiler.journal import Measurement
from pipeline.progress import Reporter
from pipeline.search.costs import build_tables
from pipeline.space.architecture import lower
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace

TABLE = asset_dir("luts") / "qemu-cortex-m4" / "edgenas.csv"
SHIPPED = Lut.load(TABLE)


def coverage(models: int, draw: str, repetitions: int = 1500, tests: int = 40) -> float:
    """Share of new ratios inside the intervals of many calibrations."""
    rng = np.random.default_rng([models, len(draw)])
    shares = []
    for _ in range(repetitions):
        noise = rng.standard_t(2, models + tests) if draw == "heavy" else rng.exponential(1.0, models + tests)
        ratio = np.exp(0.002 * noise)
        ends = np.full(models, 1e6)
        interval = Interval.calibrate(1e6 * ratio[:models], ends, ends, "modelled", "draws")
        new = ratio[models:]
        shares.append(np.mean((interval.low <= new) & (new <= interval.high)))
    return float(np.mean(shares))


@pytest.mark.parametrize("draw", ["heavy", "skewed"])
@pytest.mark.parametrize("models", [FEWEST, 40, 45, 100])
def test_expected_coverage_is_that_of_the_ranks(models: int, draw: str) -> None:
    """Whatever the distribution: n + 1 - (ranks outside) of n + 1, which is between 90 and 94 %."""
    expected = 1.0 - sum(tails(models)) / (models + 1)
    assert 0.90 - 1e-9 <= expected <= 0.94
    assert coverage(models, draw) == pytest.approx(expected, abs=0.006)


@given(st.integers(FEWEST, 2000), st.floats(0.9, 0.9))
def test_ranks_outside(models: int, level: float) -> None:
    below, above = tails(models, level)
    assert above >= 1 and below - above in (0, 1)
    covered = 1.0 - (below + above) / (models + 1)
    assert level - 1e-9 <= covered < level + 1.0 / (models + 1)


@given(st.lists(st.floats(0.5, 2.0), min_size=FEWEST, max_size=60), st.floats(0.0, 0.5))
def test_a_part_of_the_calibration_models_is_inside(ratios: list[float], width: float) -> None:
    """By count, also where ratios repeat and where estimates bring a width of their own."""
    observed = np.array(ratios)
    low, high = np.full(len(ratios), 1.0 - width), np.full(len(ratios), 1.0 + width)
    interval = Interval.calibrate(observed, low, high, "measured", "draws")
    slack = 1e-12
    inside = (interval.low * low <= observed + slack) & (observed <= interval.high * high + slack)
    assert inside.sum() >= len(ratios) - sum(tails(len(ratios)))


def test_too_few_models_are_refused() -> None:
    ones = [1.0] * (FEWEST - 1)
    with pytest.raises(LutError, match=f"{FEWEST - 1} models cannot calibrate"):
        Interval.calibrate(ones, ones, ones, "modelled", "draws")
    assert tails(FEWEST - 1)[1] == 0  # and no end is left for them


def test_a_calibrated_table_keeps_its_interval_and_refuses_anothers(tmp_path: Path) -> None:
    lut = replace(Lut.load(TABLE), calibration=None)
    assert lut.interval.models == 0 and "not calibrated" in lut.interval.describe()
    path = tmp_path / "edgenas.csv"
    mine = Interval(0.9991, 1.0012, 45, "modelled", "architectures")
    replace(lut, calibration=mine).save(path)
    assert Lut.load(path).interval == mine
    # other firmware around the same operators keeps it
    replace(lut, identity=replace(lut.identity, firmware_revision="x"), calibration=mine).save(path)
    assert Lut.load(path).interval == mine
    mine.save(path, replace(lut.identity, flags="-O3", timing="cortex_m4 0"))
    with pytest.raises(LutError, match=r"other conditions: flags is '-O3'.*timing is 'cortex_m4 0'"):
        Lut.load(path)
    assert Lut.load(path, calibration=False).interval == lut.interval  # to be calibrated anew
    text = intervals_path(path).read_text()
    intervals_path(path).write_text(text.replace("45", "46"))
    with pytest.raises(LutError, match="checksum"):
        Lut.load(path)
    overhead = replace(lut.overhead, inference_cycles=lut.overhead.inference_cycles + 1.0)
    replace(lut, overhead=overhead).save(path)  # a table measured anew is not the one that was calibrated
    assert not intervals_path(path).exists()
    replace(lut, calibration=mine).save(path)
    lut.save(path)  # unless it comes out the same
    assert Lut.load(path).interval == mine
    # or has only other firmware around the same operators, and so another footprint
    flash = replace(lut.flash, base_bytes=lut.flash.base_bytes + 40)
    replace(lut, identity=replace(lut.identity, firmware_revision="y"), flash=flash).save(path)
    assert Lut.load(path).interval == mine and Lut.load(path).flash == flash
    rows = dict(list(lut.rows.items())[:-1])
    replace(lut, rows=rows).save(path)
    assert not intervals_path(path).exists()


def test_the_search_and_the_budget_see_the_upper_quantile() -> None:
    from pipeline.boards import load_board
    from pipeline.latency.cost import CostModel

    board, space = load_board("qemu-cortex-m4"), SearchSpace.for_input((28, 28, 1), 10)
    exact = replace(Lut.load(TABLE), calibration=Interval(1.0, 1.0, 45, "modelled", "architectures"))
    wide = replace(exact, calibration=Interval(0.9, 1.25, 45, "modelled", "architectures"))
    graph = lower(space.random(np.random.default_rng(1)))
    narrow, upper = (CostModel(board, lut) for lut in (exact, wide))
    assert upper.evaluate(graph, 1).latency_ms == pytest.approx(1.25 * narrow.evaluate(graph, 1).latency_ms)
    assert upper.predict(graph).total_cycles == narrow.predict(graph).total_cycles
    tables = [build_tables(space, cost, samples=2) for cost in (narrow, upper)]
    assert tables[1].latency_ms == pytest.approx(1.25 * tables[0].latency_ms)
    assert tables[1].latency_fixed == pytest.approx(1.25 * tables[0].latency_fixed)


def test_models_of_other_spaces_have_wider_ends() -> None:
    """Those of the space that calibrated the table do not, unless they are shorter than all of them; the search's
    tables agree with what decides."""
    from pipeline.boards import load_board
    from pipeline.latency.cost import CostModel

    board, space = load_board("qemu-cortex-m4"), SearchSpace.for_input((28, 28, 1), 10)
    table = replace(Lut.load(TABLE), calibration=None)
    mine = Interval(0.999, 1.001, 45, "modelled", "architectures", space=space, fewest_layers=12)
    calibrated = replace(table, calibration=mine)
    everywhere = replace(table, calibration=replace(mine, space=None, fewest_layers=0))
    assert mine.elsewhere == 0.0025 and replace(mine, high=1.009).elsewhere == pytest.approx(0.010)
    cost = CostModel(board, calibrated)
    short = SearchSpace.for_input((28, 28, 1), 10, blocks=1)
    other = SearchSpace.for_input((32, 32, 3), 10)
    for drawn_from, unlike in ((space, False), (short, True), (other, True)):
        graph = lower(drawn_from.random(np.random.default_rng(3)))
        plain, seen = everywhere.predict(graph), calibrated.predict(graph)
        assert seen.total_cycles == plain.total_cycles and seen.unlike == unlike
        more = 0.0025 * sum(n.high - table.overhead.layer_cycles for n in plain.per_node) if unlike else 0.0
        assert seen.high_cycles == pytest.approx(plain.high_cycles + 1.001 * more, rel=1e-6)
        assert (seen.low_cycles < plain.low_cycles) == unlike
        assert ("assumed interval: 0.25 % more" in seen.describe()) == unlike
        assert cost.evaluate(graph, 1).latency_ms == pytest.approx(seen.high_cycles / board.clock_hz * 1e3)
    for drawn_from in (short, other):
        tables = build_tables(drawn_from, cost, samples=2)
        choices = [("ir2", 16)] * len(drawn_from.strides)
        path = [(drawn_from.ops.index("ir2"), drawn_from.channels.index(16))] * len(choices)
        exact = cost.latency_ms(lower(drawn_from.build(choices)))
        assert tables.path_latency_ms(path) == pytest.approx(exact)


def test_the_calibrating_space_is_kept(tmp_path: Path) -> None:
    lut, space = Lut.load(TABLE), SearchSpace.for_input((32, 32, 3), 7, blocks=3)
    path = tmp_path / "edgenas.csv"
    mine = Interval(0.9991, 1.0012, 45, "modelled", "architectures", space=space)
    replace(lut, calibration=mine).save(path)
    assert Lut.load(path).interval == mine
    mine.save(path, lut.identity)
    file = intervals_path(path)
    description = tomllib.loads(file.read_text())
    description["space"]["strides"] = []
    write_toml(file, {k: v for k, v in description.items() if k not in ("checksum", "format")})
    with pytest.raises(LutError, match="no blocks"):
        Lut.load(path)


class Instant:
    """An engine whose sessions answer with the shipped table's rows."""

    name, starts = "edgenas", 1

    def identity(self, board: Board) -> Identity:
        return SHIPPED.identity

    def session(self, board: Board, folder: Path, port: str | None = None) -> Instant:
        return self

    def measure(self, op: OpSpec) -> Measurement:
        row = SHIPPED.rows.get(op.key)
        return Measurement(op, row.cycles, row.instructions, 0, 7) if row else Measurement(op, 1e5, 1, 0, 7)

    def footprint(self, *_: object) -> tuple[object, object]:
        return SHIPPED.flash, SHIPPED.overhead

    def close(self) -> None: ...


@pytest.mark.parametrize(("of_its_models", "kept"), [(True, False), (False, True)])
def test_a_calibration_over_estimates_ends_where_these_are_measured(
    of_its_models: bool, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its factors have the estimates' errors in them: 4 % too many cycles there would be 4 % too few of the sum."""
    assert SHIPPED.calibration is not None and SHIPPED.calibration.space is not None
    models_of = set(SHIPPED.calibration.space.operators())
    fitting = [r.op for r in SHIPPED.rows.values() if not r.refused and (r.op in models_of) == of_its_models]
    rows = {key: row for key, row in SHIPPED.rows.items() if row.op not in fitting[:40]}
    calibration = replace(SHIPPED.calibration, low=0.95, high=0.96)
    base = replace(SHIPPED, rows=rows, calibration=calibration)
    monkeypatch.setitem(profile.__globals__, "engine_named", lambda name: Instant())
    lut = profile(
        load_board("qemu-cortex-m4"), fitting[:40], journal=tmp_path / "j.sqlite", reporter=Reporter(quiet=True),
        base=base,
    )  # fmt: skip
    assert {key: row.cycles for key, row in lut.rows.items()} == {
        k: r.cycles for k, r in SHIPPED.rows.items()
    }
    assert lut.calibration == (calibration if kept else None)
    graph = lower(SHIPPED.calibration.space.random(np.random.default_rng(5)))
    if of_its_models:
        assert lut.predict(graph).high_cycles > SHIPPED.predict(graph).total_cycles


def test_a_table_that_is_extended_tells_the_new_operators_from_those_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = [row.op for row in SHIPPED.rows.values() if not row.refused][:5]
    base = replace(SHIPPED, rows={k: r for k, r in SHIPPED.rows.items() if r.op not in lacking})
    monkeypatch.setitem(profile.__globals__, "engine_named", lambda name: Instant())
    board, journal = load_board("qemu-cortex-m4"), tmp_path / "j.sqlite"
    for ops, had in ((lacking, base), ([], None)):
        profile(board, ops, journal=journal, reporter=Reporter(), base=had)
    extended, anew = (line for line in capsys.readouterr().err.splitlines() if "operators measured" in line)
    told = re.search(r" (\d+) operators measured on qemu-cortex-m4, (\d+) of them before", extended)
    assert told is not None
    total, before = map(int, told.groups())
    assert total - before == 5 and before > 100
    assert anew.endswith("operators measured on qemu-cortex-m4")


def test_a_board_that_would_be_flashed_with_each_model_is_not_checked(tmp_path: Path) -> None:
    """Whatever firmware it has would answer for all of them."""
    board = load_board("nucleo-f446re")
    identity = replace(SHIPPED.identity, board=board.name, clock_hz=board.clock_hz)
    with pytest.raises(ConfigError, match="flashed with each of 20 models"):
        check_table(board, replace(SHIPPED, identity=identity), 20, tmp_path, Reporter(quiet=True))


def test_two_checks_in_one_folder_do_not_run_each_other_s_models(tmp_path: Path) -> None:
    """Each builds its models in the same place there."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another edgenas is at work") as caught:
            check_table(load_board("qemu-cortex-m4"), SHIPPED, 1, tmp_path, Reporter(quiet=True))
    finally:
        os.close(descriptor)
    assert "--out" in caught.value.hint


def test_shipped_tables_say_what_calibrated_them() -> None:
    for path in sorted(asset_dir("luts").glob("*/edgenas.csv")):
        interval = Lut.load(path).interval
        assert interval.space == SearchSpace.for_input((28, 28, 1), 10), path
        assert interval.models >= FEWEST and interval.fewest_layers > 9, path


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (1.1, 1.0), (0.9, math.inf), (0.9, math.nan)])
def test_impossible_factors(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no interval"):
        Interval(low, high, 40, "modelled", "architectures", LEVEL)


def test_the_page_of_a_check_has_every_model_and_both_predictions(tmp_path: Path) -> None:
    import json

    from pipeline.check import points_ms, summarize
    from pipeline.check.models import CheckedModel
    from pipeline.report.scatter import write_check

    cycles = [168_000 * n for n in (3, 5, 9, 14)]
    models = [
        CheckedModel(i, f"model {i}", 100 * c + 7, c * 1.01, c * 1.01, c * 1.01, c, "op", 0.0, 0.0, 0)
        for i, c in enumerate(cycles)
    ]
    points = points_ms(models, 168_000_000)
    assert [p[0] for p in points] == pytest.approx([3.0, 5.0, 9.0, 14.0])
    assert [p[1] for p in points] == pytest.approx([3.03, 5.05, 9.09, 14.14])
    assert [p[2] for p in points] == pytest.approx([3.0, 5.0, 9.0, 14.0])  # MACs are on a line here
    summary = summarize(models, 168_000_000, Interval(0.98, 1.0, 40, "modelled", "models"))
    assert summary["coverage"] == 1.0 and summary["above"] == 0.0
    page = write_check(tmp_path, {"board": "a <b>", "observed_by": "modelled", **summary}, points).read_text()
    assert "a &lt;b&gt;" in page and "100.0 % inside" in page and "latency table" in page
    assert page.count("<use") >= 4 * len(models)  # table and MACs, values and errors
    assert json.loads((tmp_path / "check.json").read_text())["points_ms"] == [list(p) for p in points]


def test_narrow_ends_are_shown_with_digits_that_say_something() -> None:
    narrow = Interval(0.9999953, 1.0000132, 45, "modelled", "models").describe()
    assert "-0.00047 to +0.0013 %" in narrow
    assert "-2.50 to +2.50 %" in Interval.default("modelled").describe()
