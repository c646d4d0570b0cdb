"""The latency predictor in spaces of cells: an edge's operator is a one-hot row, which gradients pass."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.boards import load_board
from pipeline.check.models import CheckedModel, drawn
from pipeline.errors import ConfigError, LutError
from pipeline.fit import obtain_predictor
from pipeline.fit import predictor as fit_module
from pipeline.latency.intervals import Interval
from pipeline.latency.predictor import LatencyPredictor, PredictorIdentity, features
from pipeline.progress import Reporter
from pipeline.search import search
from pipeline.search.cell_costs import CellTables
from pipeline.search.cell_hypernetwork import expected_cost
from pipeline.search.costs import exact_cost
from pipeline.search.predictor import errors, fit_predictor
from pipeline.search.predictorconfig import PredictorConfig
from pipeline.space import Budgets
from pipeline.space.cells import CellSpace

SPACE = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)
TABLES = CellTables.of(SPACE, MacCost())
IDENTITY = PredictorIdentity(
    "bench", 168_000_000, "0badcafe", "f1", json.dumps(SPACE.to_json()), "none", "50f7"
)
QUICK = PredictorConfig(steps=120)
CONFIG = replace(TINY, method="hypernetwork")


def random_paths(count: int, seed: int = 0) -> np.ndarray:
    return np.array([SPACE.path(a) for a in drawn(SPACE, count, seed)])


def cached(paths: np.ndarray) -> np.ndarray:
    """A target that the table does not know: each convolution misses its caches."""
    convolutions = (paths == SPACE.ops.index("conv")).sum(1)
    latency: np.ndarray = TABLES.latency_many(paths) * 1.1 * np.exp(0.1 * convolutions)
    return latency


def fitted(observed: np.ndarray, paths: np.ndarray, config: PredictorConfig = QUICK) -> LatencyPredictor:
    return fit_predictor(TABLES, paths, observed, IDENTITY, config, provenance="measured")


def test_many_latencies_are_those_one_by_one() -> None:
    paths = random_paths(40, 3)
    assert TABLES.latency_many(paths) == pytest.approx([TABLES.path_latency_ms(tuple(p)) for p in paths])
    exact = [exact_cost(MacCost(), SPACE.build(tuple(p))).latency_ms for p in paths]
    assert TABLES.latency_many(paths) == pytest.approx(exact, rel=1e-9)


def test_features_are_one_row_an_edge() -> None:
    path = (0, 2, 1, 1, 0, 2)
    row = features(SPACE, [path])
    assert row.shape == (1, 18) and row.dtype == np.float32
    assert [tuple(edge).index(1.0) for edge in row.reshape(6, 3)] == list(path) and row.sum() == 6


@pytest.mark.parametrize("residual", [True, False])
def test_it_learns_what_the_table_does_not_know(residual: bool) -> None:
    paths = random_paths(240)
    predictor = fitted(cached(paths), paths, replace(QUICK, residual=residual))
    assert predictor.errors["fitted"] == 180 and predictor.errors["held_out"] == 60
    fresh = random_paths(200, seed=9)
    got = predictor.latency_many(features(SPACE, fresh), TABLES.latency_many(fresh))
    assert errors(got, cached(fresh))["mape"] < 0.03
    assert predictor.errors["predictor"]["mape"] < 0.03 < 0.15 < predictor.errors["table"]["mape"]


@pytest.mark.parametrize("residual", [True, False])
def test_the_relaxation_agrees_with_the_file_and_with_finite_differences(residual: bool) -> None:
    paths = random_paths(80)
    predictor = fitted(cached(paths), paths, replace(QUICK, residual=residual))
    tables = replace(TABLES, predictor=predictor)
    fresh = random_paths(20, seed=5)
    many = predictor.latency_many(features(SPACE, fresh), TABLES.latency_many(fresh))
    for path, wanted in zip(fresh, many, strict=True):
        gamma = torch.nn.functional.one_hot(torch.tensor(path), 3).float()
        assert expected_cost(tables, gamma).latency_ms.item() == pytest.approx(wanted, rel=1e-4)
        # what the front end takes is not the predictor's to say
        more = replace(tables, latency_fixed=tables.latency_fixed + 7.0, front_end_ms=7.0)
        assert expected_cost(more, gamma).latency_ms.item() == pytest.approx(wanted + 7.0, rel=1e-4)
    soft = torch.softmax(torch.randn(6, 3, generator=torch.manual_seed(0), dtype=torch.float64), 1)
    assert torch.autograd.gradcheck(
        lambda gamma: expected_cost(tables, gamma).latency_ms, soft.requires_grad_()
    )


MODELLED = Interval.default("modelled")


@dataclass(frozen=True)
class BoardCost(MacCost):
    """The stand-in's costs with a real board's name: what `obtain_predictor` asks of a CostModel."""

    predictor: LatencyPredictor | None = None
    board = load_board("qemu-cortex-m4")
    lut = SimpleNamespace(key="0badcafe", identity=SimpleNamespace(firmware_revision="f1"))
    interval: Interval = MODELLED

    def sums_key(self, ops: Any) -> str:
        return "50f7"

    def without_sound(self) -> BoardCost:
        return self


def test_one_is_fitted_to_random_cell_networks_and_is_of_that_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(board: Any, lut: Any, count: int, *_: Any, seed: int, targets: Any, space: Any) -> Any:
        asked.append(space)
        cycles = cached(random_paths(count, seed)) * board.clock_hz / 1e3
        return [
            CheckedModel(i, a.describe(), 0, 0.0, 0.0, 0.0, float(c), "", 0.0, 0.0, 0)
            for i, (a, c) in enumerate(zip(drawn(space, count, seed), cycles, strict=True))
        ]

    monkeypatch.setattr(fit_module, "check_table", run)
    config, quiet = replace(QUICK, models=80), Reporter(quiet=True)
    found: Any = obtain_predictor(SPACE, BoardCost(), config, tmp_path, quiet)
    assert found.errors["predictor"]["mape"] < 0.06 < found.errors["table"]["mape"]
    assert obtain_predictor(SPACE, BoardCost(), config, tmp_path, quiet).digest == found.digest
    assert asked == [SPACE]
    (kept,) = tmp_path.glob("*.npz")
    for other in (replace(SPACE, nodes=1), SMALL):
        with pytest.raises(LutError, match="space is"):
            obtain_predictor(other, BoardCost(), replace(config, file=str(kept)), tmp_path, quiet)


def test_a_search_is_guided_by_the_predictor_and_judged_by_the_table() -> None:
    paths = random_paths(80)
    cost = BoardCost(predictor=fitted(cached(paths), paths))
    budgets = Budgets(latency_ms=float(np.median(TABLES.latency_many(paths))))
    config = replace(CONFIG, latency="predictor")
    guided = search(SPACE, DATA, cost, budgets, config, seed=0)
    plain = search(SPACE, DATA, cost, budgets, CONFIG, seed=0)
    # The same undecided architecture to start with, of which the predictor expects more.
    assert 1.15 < guided.history[0]["latency_ms"] / plain.history[0]["latency_ms"] < 1.6
    # what the predictor says has moved the hypernetwork
    assert guided.history[-1]["entropy"] != plain.history[-1]["entropy"]
    for result in (guided, plain):
        assert result.feasible
        assert all(not budgets.violations(c.cost) for c in result.candidates)
        assert all(c.cost == exact_cost(cost, c.architecture) for c in result.candidates)


def test_a_checkpoint_of_another_predictor_is_refused(tmp_path: Path) -> None:
    paths = random_paths(40)
    config = replace(CONFIG, latency="predictor")
    costs = [BoardCost(predictor=fitted(factor * cached(paths), paths)) for factor in (1, 2)]
    path = tmp_path / "search.pt"
    search(SPACE, DATA, costs[0], Budgets(), config, seed=0, checkpoint=path)
    with pytest.raises(ConfigError, match="latency predictor differ"):
        search(SPACE, DATA, costs[1], Budgets(), config, seed=0, checkpoint=path)


def test_where_no_gradient_follows_it_the_setting_is_refused() -> None:
    for method in ("random", "evolution"):
        with pytest.raises(ConfigError, match=r"search\.latency has no effect with method"):
            search(
                SPACE, DATA, MacCost(), Budgets(), replace(CONFIG, method=method, latency="predictor"), seed=0
            )
    with pytest.raises(ConfigError, match="cost model has none"):
        search(SPACE, DATA, MacCost(), Budgets(), replace(CONFIG, latency="predictor"), seed=0)
