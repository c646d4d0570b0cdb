"""Energy of an inference: the board's current, figures, and budgets that no method breaks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from search_standins import DATA, SEARCHES, SMALL, TINY, MacCost

from pipeline.adapt import EdgeRun, Options
from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.boards.power import UNCERTAINTY, Power
from pipeline.errors import ConfigError
from pipeline.figures import Figure
from pipeline.firmware import render_app, render_bench
from pipeline.latency.condition import at_clock
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.profiler import current_identity
from pipeline.profiler.footprint import sample_graph
from pipeline.progress import Reporter
from pipeline.report.document import energy_figure
from pipeline.report.verdict import budget_checks, budget_figures
from pipeline.run import Run
from pipeline.runfile import load_runfile
from pipeline.search import search
from pipeline.search.energy import unknown_current, with_energy
from pipeline.single import open_model
from pipeline.space import Budgets, Cost, OpGraph
from pipeline.space.architecture import lower, parameters

POWER = Power(3.0, 40.0, 168_000_000, "a meter", 0.1)
RUN = """\
board = "qemu-cortex-m4"
[budgets]
latency_ms = 50.0
"""
ENERGY = "[energy]\nvoltage_v = 3.0\ncurrent_ma = 40.0\nreference = 'a meter'\n"


@dataclass(frozen=True)
class Unknown(MacCost):
    """A board of which nobody knows what it draws."""

    def evaluate(self, graph: OpGraph, weights: int) -> Cost:
        return replace(MacCost.evaluate(self, graph, weights), energy_mj=None)


def test_arithmetic() -> None:
    # 3 V x 40 mA = 120 mW; 50 ms of it are 6 mJ
    assert POWER.energy_mj(50.0) == pytest.approx(6.0)
    assert (POWER.at_least_mj(50.0), POWER.at_most_mj(50.0)) == pytest.approx((5.4, 6.6))


def board_file(tmp_path: Path, power: str) -> str:
    text = (asset_dir("boards") / "qemu-cortex-m4.toml").read_text()
    path = tmp_path / "board.toml"
    path.write_text(f"{text}\n[power]\n{power}\n")
    return str(path)


def test_a_board_file_says_what_the_board_draws(tmp_path: Path) -> None:
    good = 'voltage_v = 3.3\ncurrent_ma = 40.0\nreference = "DS0, table 1"'
    board = load_board(board_file(tmp_path, good))
    assert board.running == Power(3.3, 40.0, board.clock_hz, "DS0, table 1", UNCERTAINTY)
    assert at_clock(board, 84_000_000).running is None  # of that clock nothing is known
    other = load_board(board_file(tmp_path, good + "\nclock_hz = 84_000_000"))
    assert other.running is None
    assert at_clock(other, 84_000_000).running == other.power


@pytest.mark.parametrize(
    ("power", "complaint"),
    [
        ("voltage_v = 3.3\ncurrent_ma = 40.0", "power.reference"),
        ('voltage_v = 3.3\nreference = "x"', "power.current_ma"),
        ('voltage_v = 0\ncurrent_ma = 40.0\nreference = "x"', "power.voltage_v"),
        ('voltage_v = 3.3\ncurrent_ma = -1\nreference = "x"', "power.current_ma"),
        ('voltage_v = 3.3\ncurrent_ma = 1\nreference = " "', "power.reference"),
        ('voltage_v = 3.3\ncurrent_ma = 1\nreference = "x"\nuncertainty = 1.5', "power.uncertainty"),
        (
            'voltage_v = 3.3\ncurrent_ma = 1\nreference = "x"\nuncertainty_above = 11',
            "power.uncertainty_above",
        ),
        ('voltage_v = 3.3\ncurrent_ma = 1\nreference = "x"\nvolts = 3', "power.volts"),
    ],
)
def test_mistakes_in_it_are_named(tmp_path: Path, power: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_board(board_file(tmp_path, power))


def test_a_run_file_may_say_it_and_an_energy_budget_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN + "energy_mj = 2.5\n")
    with pytest.raises(ConfigError, match=r"run.toml:4: 'budgets.energy_mj' cannot be held") as error:
        load_runfile(path)
    assert "[energy]" in error.value.hint
    path.write_text(RUN + "energy_mj = 2.5\n" + ENERGY)
    run = load_runfile(path)
    assert run.budgets.energy_mj == 2.5
    assert run.board.running == Power(3.0, 40.0, run.board.clock_hz, "a meter", UNCERTAINTY)
    path.write_text(RUN + "energy_mj = 0\n" + ENERGY)
    with pytest.raises(ConfigError, match=r"energy_mj. is 0"):
        load_runfile(path)


def test_a_current_at_another_clock_is_told_from_none(tmp_path: Path) -> None:
    half = at_clock(replace(load_board("qemu-cortex-m4"), power=POWER), 84_000_000)
    with pytest.raises(ConfigError, match=r"that at 168 MHz \(a meter\), and it runs at 84 MHz") as error:
        raise unknown_current(half)
    assert "clock_hz = 84000000 in [energy]" in error.value.hint
    path = tmp_path / "run.toml"
    path.write_text(RUN + "energy_mj = 2.5\n" + ENERGY + "clock_hz = 84_000_000\n")
    with pytest.raises(
        ConfigError, match=r"run.toml:4: .* that at 84 MHz \(a meter\), and it runs at 168 MHz"
    ):
        load_runfile(path)
    # the edge stage has a clock of its own, which the command line may give: compared once that is known
    path.write_text(path.read_text() + "[adapt]\ncloud = 'cloud'\n")
    assert load_runfile(path).board.running is None
    clocked = tmp_path / "edge"
    run = EdgeRun.open(path, runs=clocked, quiet=True)
    with pytest.raises(ConfigError, match="that at 84 MHz"):
        run.configure(Options())
    run = EdgeRun.open(path, runs=clocked, quiet=True)
    with pytest.raises(ConfigError, match="there is no run folder"):  # the current was no obstacle
        run.configure(Options(clock_hz=84_000_000))


def test_a_load_takes_its_part_of_the_energy_as_of_the_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN + "energy_mj = 2.5\n" + ENERGY + "[adapt]\ncloud = 'cloud'\nlatency_scale = 1.25\n")
    run = EdgeRun(load_runfile(path), tmp_path, None, Reporter(quiet=True))
    board = run.settings.board
    run.__dict__["cost"] = CostModel(board, Lut.load(asset_dir("luts") / board.name / "edgenas.csv"))
    assert (run.held_budgets.latency_ms, run.held_budgets.energy_mj) == (40.0, 2.0)
    # the report says what it was made of
    run.settings = replace(run.settings, budgets=run.held_budgets)
    run.__dict__["cloud"] = SimpleNamespace(folder=tmp_path, identity="it")
    monkeypatch.setattr(Run, "_add_search_and_training", lambda *_: None)
    monkeypatch.setattr(
        run, "effort", lambda: {"passes": 1, "cloud_passes": 1, "seconds": 1.0, "cloud_seconds": 1.0}
    )
    document: dict[str, Any] = {"budgets": budget_figures(run.settings.budgets), "provenance": {}}
    run._add_search_and_training(document, {})
    notes = [document["budgets"][name]["note"] for name in ("latency_ms", "energy_mj")]
    assert notes == [
        f"of an idle device: {given} (given) / a load of 1.25 (given)" for given in ("50 ms", "2.5 mJ")
    ]
    assert "note" not in document["budgets"]["sram_bytes"]


def test_cost_model_and_figure() -> None:
    board = replace(load_board("qemu-cortex-m4"), power=POWER)
    lut = Lut.load(asset_dir("luts") / board.name / "edgenas.csv")
    graph = sample_graph()
    cost = CostModel(board, lut).evaluate(graph, 1)
    assert cost.energy_mj == pytest.approx(1.1 * 3.0 * 40.0 * cost.latency_ms / 1e3)
    assert CostModel(load_board(board.name), lut).evaluate(graph, 1).energy_mj is None
    figure = energy_figure(POWER, Figure(50.0, "ms", "measured", n=7, low=49.0, high=52.0))
    assert (figure.value, figure.low, figure.high) == pytest.approx((6.0, 0.9 * 5.88, 1.1 * 6.24))
    assert figure.provenance == "estimated" and figure.unit == "mJ" and figure.n == 7
    assert "measured" in figure.note and "a meter" in figure.note


def test_more_may_lie_above_than_below() -> None:
    power = replace(POWER, uncertainty=0.2, uncertainty_above=1.5)
    energy = power.energy_mj(50.0)
    assert (power.at_least_mj(50.0), power.at_most_mj(50.0)) == pytest.approx((0.8 * energy, 2.5 * energy))
    assert "(-20/+150 %)" in power.describe() and "(+-10 %)" in POWER.describe()


def test_what_is_not_known_breaks_a_budget() -> None:
    assert Budgets(energy_mj=1.0).violations(Cost(1.0, 1, 1, 1)) == {"energy_mj": float("inf")}
    assert Budgets(energy_mj=1.0).violations(Cost(1.0, 1, 1, 1, energy_mj=1.5)) == {"energy_mj": 0.5}
    assert Budgets(energy_mj=1.0).violations(Cost(1.0, 1, 1, 1, energy_mj=1.0)) == {}
    with pytest.raises(ConfigError, match="no energy budget can be held"):
        with_energy(Budgets(energy_mj=1.0), Unknown(), SMALL)
    with pytest.raises(ConfigError, match=r"what qemu-cortex-m4 draws .* not known"):
        open_model(Path("x.tflite"), "qemu-cortex-m4", energy_mj=1.0)


def test_it_is_a_latency_limit_too() -> None:
    # 6.6 mJ are what 50 ms take at most
    assert with_energy(Budgets(energy_mj=6.6), MacCost(), SMALL).latency_ms == pytest.approx(50.0)
    assert with_energy(Budgets(latency_ms=20.0, energy_mj=6.6), MacCost(), SMALL).latency_ms == 20.0
    assert with_energy(Budgets(latency_ms=90.0, energy_mj=6.6), MacCost(), SMALL).latency_ms == pytest.approx(
        50.0
    )


def energies() -> list[float]:
    rng = np.random.default_rng(0)
    graphs = [lower(SMALL.random(rng)) for _ in range(100)]
    return sorted(MacCost().evaluate(graph, 0).energy_mj or 0.0 for graph in graphs)


@pytest.mark.parametrize("method", SEARCHES)
def test_no_method_breaks_it(method: str) -> None:
    limit = energies()[25]
    budgets = Budgets(latency_ms=1e3, energy_mj=limit)
    result = search(SMALL, DATA, MacCost(), budgets, replace(TINY, method=method), seed=1)
    assert result.feasible, result.reason
    found = MacCost().evaluate(lower(result.architecture), parameters(result.architecture))
    assert found.energy_mj is not None and found.energy_mj <= limit
    assert all(c.cost.energy_mj is not None and c.cost.energy_mj <= limit for c in result.candidates)


def test_an_impossible_one_is_named_and_not_the_latency_that_follows_from_it() -> None:
    budgets = Budgets(latency_ms=1e3, energy_mj=1e-4)
    for method in ("edgenas", "random"):
        result = search(SMALL, DATA, MacCost(), budgets, replace(TINY, method=method), seed=1)
        assert not result.feasible
        assert "energy" in result.reason and "mJ" in result.reason and "latency" not in result.reason
    # a deadline that is the tighter of the two is named as such
    result = search(SMALL, DATA, MacCost(), Budgets(latency_ms=1e-4, energy_mj=1e-4), TINY, seed=1)
    assert "latency" in result.reason and "energy" in result.reason


def test_a_model_that_takes_too_much_breaks_its_budget() -> None:
    (broken,) = budget_checks(
        Budgets(energy_mj=2.0), Cost(1.0, 1, 1, 1, energy_mj=3.0), {"energy_mj": "a guess"}
    )
    assert not broken["ok"]
    assert broken["detail"] == "energy_mj is 3.0000 mJ (a guess), 50.0 % over its budget of 2.0"
    (kept,) = budget_checks(Budgets(energy_mj=2.0), Cost(1.0, 1, 1, 1, energy_mj=2.0))
    assert kept["ok"]


# what others measured on the board during inference, in mA (MLPerf Tiny 0.5 to 1.2, the extremes of 44 medians)
PUBLISHED_MA = {"nucleo-l4r5zi": (19.43, 30.66)}


NUCLEO = ["nucleo-f446re", "nucleo-f767zi", "nucleo-h743zi2", "nucleo-l4r5zi"]


@pytest.mark.parametrize("name", [*NUCLEO, "stm32f407-discovery"])
def test_boards_ship_what_they_draw_as_an_estimate(name: str) -> None:
    board = load_board(name)
    power = board.running
    assert power is not None and power.above >= UNCERTAINTY and len(power.reference) > 40
    figure = energy_figure(power, Figure(10.0, "ms", "measured"))
    assert figure.provenance == "estimated"
    assert figure.value == pytest.approx(power.voltage_v * power.current_ma * 0.01)
    assert figure.low is not None and figure.high is not None and figure.low < figure.value < figure.high
    for published in PUBLISHED_MA.get(name, ()):
        assert -power.uncertainty < published / power.current_ma - 1.0 < power.above


@pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None, reason="needs arm-none-eabi-gcc")
def test_the_current_changes_neither_identity_nor_firmware(tmp_path: Path) -> None:
    board = load_board("nucleo-l4r5zi")
    dark = replace(board, power=None)
    assert current_identity(board) == current_identity(dark)
    model = {"model.h": "/* nothing */\n", "model.c": "/* nothing */\n"}
    trees = []
    for number, one in enumerate((board, dark)):
        folder = tmp_path / str(number)
        render_app(model, one, Budgets(), folder / "app", 1.0)
        render_bench(one, folder / "bench")
        trees.append({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert trees[0] and trees[0] == trees[1]
