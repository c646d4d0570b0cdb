"""The latency predictor: fitted where there is something to learn, exact as a file, and of one identity."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.boards import load_board
from pipeline.check.models import CheckedModel, drawn
from pipeline.errors import ConfigError, LutError
from pipeline.fit import fit_to_target, obtain_predictor, predictor_identity
from pipeline.fit import predictor as fit_module
from pipeline.latency.cost import CostModel
from pipeline.latency.intervals import Interval
from pipeline.latency.lut import Lut
from pipeline.latency.predictor import LatencyPredictor, PredictorIdentity, features
from pipeline.profiler import lut_path
from pipeline.progress import Reporter
from pipeline.runinputs import RunInputs
from pipeline.search import SearchConfig, search
from pipeline.search.candidates import Judge
from pipeline.search.costs import build_tables
from pipeline.search.predictor import errors, fit_predictor, predicted_latency
from pipeline.search.predictorconfig import PredictorConfig
from pipeline.search.relaxation import Relaxation
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.tomltable import MOST_RATE

TABLES = build_tables(SMALL, MacCost())
JUDGE = Judge(TABLES, MacCost(), Budgets())
IDENTITY = PredictorIdentity(
    "bench", 168_000_000, "0badcafe", "f1", json.dumps(SMALL.to_json()), "none", "50f7"
)
QUICK = PredictorConfig(steps=120)


def random_paths(space: SearchSpace, count: int, seed: int = 0) -> np.ndarray:
    return np.array([JUDGE.path(a) for a in drawn(space, count, seed)])


def cached(paths: np.ndarray) -> np.ndarray:
    """A target that the table does not know: each `ir` block misses its caches."""
    table = TABLES.latency_many(paths)
    inverted = np.isin(paths[:, :, 0], [i for i, op in enumerate(SMALL.ops) if op.startswith("ir")])
    return table * 1.1 * np.exp(0.15 * inverted.sum(1))


def fitted(observed, paths: np.ndarray, config: PredictorConfig = QUICK) -> LatencyPredictor:
    return fit_predictor(TABLES, paths, observed, IDENTITY, config, provenance="measured")


# -- tables in batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [SMALL, SearchSpace((28, 28, 1), 10), replace(SMALL, stem_channels=12)])
def test_many_latencies_are_those_one_by_one(space):
    tables = build_tables(space, MacCost())
    judge = Judge(tables, MacCost(), Budgets())
    paths = [judge.path(a) for a in drawn(space, 60, 3)]
    assert tables.latency_many(paths) == pytest.approx([tables.path_latency_ms(p) for p in paths], rel=1e-12)
    assert tables.latency_many(paths) == pytest.approx([judge.exact(p).latency_ms for p in paths], rel=1e-9)
    # The width of a skip has no effect.
    skip, last = space.ops.index("skip"), len(space.channels) - 1
    wide = [[(op, last if op == skip else width) for op, width in path] for path in paths]
    assert (tables.latency_many(wide) == tables.latency_many(paths)).all()
    assert (features(space, wide) == features(space, paths)).all()


# -- fitting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [True, False])
def test_it_learns_what_the_table_does_not_know(residual):
    paths = random_paths(SMALL, 240)
    predictor = fitted(cached(paths), paths, replace(QUICK, residual=residual))
    assert predictor.errors["fitted"] == 180 and predictor.errors["held_out"] == 60
    fresh = random_paths(SMALL, 200, seed=9)
    got = predictor.latency_many(features(SMALL, fresh), TABLES.latency_many(fresh))
    error = errors(got, cached(fresh))
    if residual:
        assert error["mape"] < 0.02 and predictor.errors["predictor"]["mape"] < 0.02
        assert predictor.errors["table"]["mape"] > 0.15
    else:
        spread = errors(np.full(len(fresh), np.median(cached(paths))), cached(fresh))
        assert error["mape"] < 0.5 * spread["mape"] and error["spearman"] > 0.9


def test_it_leaves_a_table_alone_that_only_noise_separates_from_the_target():
    paths = random_paths(SMALL, 120)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.01, len(paths)))
    predictor = fitted(TABLES.latency_many(paths) * noise, paths)
    fresh = random_paths(SMALL, 200, seed=9)
    table = TABLES.latency_many(fresh)
    assert errors(predictor.latency_many(features(SMALL, fresh), table), table)["mape"] < 0.004


def test_stated_errors_are_those_of_the_held_out_models():
    paths = random_paths(SMALL, 80)
    observed = cached(paths)
    predictor = fitted(observed, paths)
    held = slice(60, None)
    got = predictor.latency_many(features(SMALL, paths[held]), TABLES.latency_many(paths[held]))
    stated = predictor.errors["predictor"]
    assert stated["mae_ms"] == pytest.approx(np.mean(np.abs(got - observed[held])))
    assert stated["mape"] == pytest.approx(np.mean(np.abs(got - observed[held]) / observed[held]))
    assert stated["spearman"] == pytest.approx(spearmanr(got, observed[held]).statistic)
    assert stated["kendall"] == pytest.approx(kendalltau(got, observed[held]).statistic)
    # What is held out takes no part in the fit.
    other = observed.copy()
    other[held] *= 3.0
    assert fitted(other, paths).digest == predictor.digest
    changed = observed.copy()
    changed[0] *= 3.0
    assert fitted(changed, paths).digest != predictor.digest


def test_a_fit_that_diverges_says_so():
    paths = random_paths(SMALL, 40)
    with pytest.raises(ConfigError, match="fit diverged") as error:
        fitted(cached(paths), paths, replace(QUICK, lr=MOST_RATE))
    assert "search.predictor.lr" in error.value.hint


def test_too_few_models_are_refused():
    paths = random_paths(SMALL, 11)
    with pytest.raises(ConfigError, match="11 models are too few"):
        fitted(cached(paths), paths)


# -- differentiating ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [True, False])
def test_the_relaxation_agrees_with_the_file_and_with_finite_differences(residual):
    paths = random_paths(SMALL, 80)
    predictor = fitted(cached(paths), paths, replace(QUICK, residual=residual))
    relaxation = Relaxation(replace(TABLES, predictor=predictor))
    fresh = random_paths(SMALL, 20, seed=5)
    many = predictor.latency_many(features(SMALL, fresh), TABLES.latency_many(fresh))
    for path, wanted in zip(fresh, many, strict=True):
        ops = torch.nn.functional.one_hot(torch.tensor(path[:, 0]), len(SMALL.ops)).float()
        widths = torch.nn.functional.one_hot(torch.tensor(path[:, 1]), len(SMALL.channels)).float()
        assert relaxation.expected_from(ops, widths).latency_ms.item() == pytest.approx(wanted, rel=1e-4)
    ops = torch.softmax(torch.randn(3, len(SMALL.ops), generator=torch.Generator().manual_seed(0)), 1)
    widths = torch.softmax(torch.randn(3, 2, generator=torch.Generator().manual_seed(1)), 1)
    double = replace(
        predictor, layers=tuple((w.astype(np.float64), b.astype(np.float64)) for w, b in predictor.layers)
    )
    skip = SMALL.ops.index("skip")
    arguments = (ops.double().requires_grad_(), widths.double().requires_grad_(),
                 torch.tensor(2.0, dtype=torch.float64, requires_grad=True))  # fmt: skip

    def latency(o: torch.Tensor, w: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return predicted_latency(double, o, w, table, skip) + 0.0 * table

    assert torch.autograd.gradcheck(latency, arguments)


# -- files and identity ------------------------------------------------------------------------------------


def test_a_file_gives_the_same_predictions_back(tmp_path):
    paths = random_paths(SMALL, 80)
    predictor = fitted(cached(paths), paths)
    path = tmp_path / "deep" / "p.npz"
    predictor.save(path)
    again = LatencyPredictor.load(path)
    x, table = features(SMALL, paths), TABLES.latency_many(paths)
    assert (again.latency_many(x, table) == predictor.latency_many(x, table)).all()
    assert again.digest == predictor.digest and again.errors == predictor.errors
    assert (again.identity, again.provenance, again.models) == (IDENTITY, "measured", 80)
    again.check(IDENTITY)


FIELDS = tuple(f.name for f in fields(PredictorIdentity))


@pytest.mark.parametrize("name", FIELDS)
def test_a_predictor_of_something_else_is_refused_by_name(name):
    paths = random_paths(SMALL, 20)
    predictor = fitted(cached(paths), paths)
    wanted = replace(IDENTITY, **{name: 1 if name == "clock_hz" else "another"})
    with pytest.raises(LutError, match=rf"something else: {name} is") as error:
        predictor.check(wanted)
    assert sum(f"{other} is" in error.value.message for other in FIELDS) == 1
    alone = replace(predictor, residual=False)
    if name in ("calibration", "rows"):  # of the table, which it does without
        alone.check(wanted)
    else:
        with pytest.raises(LutError, match=rf"{name} is"):
            alone.check(wanted)


def test_the_identity_holds_whatever_the_tables_sums_and_the_models_latencies_follow_from():
    board = load_board("qemu-cortex-m4")
    lut = Lut.load(lut_path(board))
    space = SearchSpace.for_input((28, 28, 1), 10)
    inside = next(op for op in space.operators() if lut.row(op))
    outside = next(row.op for row in lut.rows.values() if row.op not in space.operators())

    def changed(op):
        return {**lut.rows, op.key: replace(lut.rows[op.key], p95=2 * lut.rows[op.key].p95)}

    def differing(other):
        mine, theirs = (asdict(predictor_identity(space, CostModel(board, each))) for each in (lut, other))
        return [name for name in FIELDS if mine[name] != theirs[name]]

    assert lut.calibration is not None
    assert differing(replace(lut, calibration=None)) == ["calibration"]
    wider = replace(lut.calibration, high=1.1)
    assert differing(replace(lut, calibration=wider)) == ["calibration"]
    # told apart even where the text rounds the difference away
    near = replace(lut.calibration, high=lut.calibration.high + 1e-12)
    assert near.describe() == lut.calibration.describe()
    assert differing(replace(lut, calibration=near)) == ["calibration"]
    assert differing(replace(lut, identity=replace(lut.identity, firmware_revision="x"))) == ["firmware"]
    assert differing(replace(lut, identity=replace(lut.identity, compiler="x"))) == ["lut"]
    assert differing(replace(lut, overhead=replace(lut.overhead, inference_cycles=1e6))) == ["rows"]
    assert differing(replace(lut, rows=changed(inside))) == ["rows"]
    assert differing(replace(lut, rows=changed(outside))) == []


def test_files_that_are_no_predictor_are_refused(tmp_path):
    path = tmp_path / "p.npz"
    with pytest.raises(LutError, match="no latency predictor at"):
        LatencyPredictor.load(path)
    paths = random_paths(SMALL, 20)
    predictor = fitted(cached(paths), paths)
    predictor.save(path)
    whole = path.read_bytes()
    for broken in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(LutError, match="is no latency predictor"):
            LatencyPredictor.load(path)
    # the archive's directory says that an entry is encrypted, compressed by another method, or of another version
    entry = whole.index(b"PK\1\2")
    for at, value in ((8, 1), (10, 97), (6, 255)):
        path.write_bytes(whole[: entry + at] + bytes([value]) + whole[entry + at + 1 :])
        with pytest.raises(LutError, match="is no latency predictor"):
            LatencyPredictor.load(path)
    arrays = dict(np.load(io.BytesIO(whole)))
    head = json.loads(str(arrays["head"]))
    del head["digest"]
    np.savez(path, **(arrays | {"head": np.array(json.dumps(head))}))
    with pytest.raises(LutError, match="is no latency predictor"):
        LatencyPredictor.load(path)
    arrays["w0"] = arrays["w0"] + 1
    np.savez(path, **arrays)
    with pytest.raises(LutError, match="digest"):
        LatencyPredictor.load(path)
    head = json.loads(str(arrays["head"])) | {"format": 99}
    np.savez(path, **(arrays | {"head": np.array(json.dumps(head))}))
    with pytest.raises(LutError, match="format 99"):
        LatencyPredictor.load(path)


# -- from a target -----------------------------------------------------------------------------------------


MODELLED = Interval.default("modelled")


@dataclass(frozen=True)
class BoardCost(MacCost):
    """The stand-in's costs with a real board's name: what `obtain_predictor` asks of a CostModel."""

    predictor: LatencyPredictor | None = None
    board = load_board("qemu-cortex-m4")
    lut = SimpleNamespace(key="0badcafe", identity=SimpleNamespace(firmware_revision="f1"))
    interval: Interval = MODELLED

    def sums_key(self, ops):
        return "50f7"

    def without_sound(self):
        return self


@pytest.fixture
def target(monkeypatch):
    """A target that answers at once; calls are counted."""
    calls = []

    def run(board, lut, count, folder, reporter, *, seed, targets, space):
        calls.append(count)
        paths = random_paths(space, count, seed)
        cycles = cached(paths) * board.clock_hz / 1e3
        return [
            CheckedModel(i, a.describe(), 0, 0.0, 0.0, 0.0, float(c), "", 0.0, 0.0, 0)
            for i, (a, c) in enumerate(zip(drawn(space, count, seed), cycles, strict=True))
        ]

    monkeypatch.setattr(fit_module, "check_table", run)
    return calls


def test_a_predictor_is_fitted_once_and_again_where_its_file_is_torn(tmp_path, target):
    config, quiet = replace(QUICK, models=80), Reporter(quiet=True)
    first = obtain_predictor(SMALL, BoardCost(), config, tmp_path, quiet)
    assert first.errors["predictor"]["mape"] < 0.1 < first.errors["table"]["mape"]
    assert first.provenance == "modelled"  # QEMU's
    assert obtain_predictor(SMALL, BoardCost(), config, tmp_path, quiet).digest == first.digest
    assert target == [80]
    (kept,) = tmp_path.glob("*.npz")
    kept.write_bytes(b"torn")
    assert obtain_predictor(SMALL, BoardCost(), config, tmp_path, quiet).digest == first.digest
    obtain_predictor(SMALL, BoardCost(), replace(config, residual=False), tmp_path, quiet)
    assert target == [80, 80, 80]
    # Under another calibration of the table it is fitted anew, and a file is refused, but for one that does without.
    calibrated = BoardCost(
        interval=Interval.calibrate([1.0] * 40, [0.9] * 40, [0.9] * 40, "modelled", "models")
    )
    obtain_predictor(SMALL, calibrated, config, tmp_path, quiet)
    assert target == [80] * 4
    with pytest.raises(LutError, match="calibration is assumed interval"):
        obtain_predictor(SMALL, calibrated, replace(config, file=str(kept)), tmp_path, quiet)
    # Given as a file it must be of this space, table and board.
    file = replace(config, file=str(kept))
    assert obtain_predictor(SMALL, BoardCost(), file, tmp_path / "x", quiet).digest == first.digest
    narrow = replace(SMALL, channels=(8,))
    with pytest.raises(LutError, match="space is"):
        obtain_predictor(narrow, BoardCost(), file, tmp_path, quiet)
    assert target == [80] * 4


def test_a_run_fits_a_predictor_without_the_command_line(tmp_path, target):
    settings = SimpleNamespace(search=SimpleNamespace(predictor=replace(QUICK, file="another.npz")))
    run = RunInputs(settings, tmp_path / "run", None, Reporter(quiet=True))
    run.__dict__ |= {"space": SMALL, "table_cost": BoardCost()}
    path = tmp_path / "new" / "m4.npz"
    found = run.fit_predictor(path, models=80, alone=True)
    assert LatencyPredictor.load(path).digest == found.digest
    assert target == [80] and not found.residual
    with pytest.raises(ConfigError, match=r"--out: .*new is a folder"):
        run.fit_predictor(path.parent)
    assert target == [80]


def test_a_board_that_must_be_flashed_for_each_model_is_refused(tmp_path, target):
    cost = BoardCost()
    cost_of_real = SimpleNamespace(
        board=replace(cost.board, emulator=None), lut=cost.lut, interval=cost.interval, sums_key=cost.sums_key
    )
    with pytest.raises(ConfigError, match="flashed with each"):
        fit_to_target(SMALL, cost_of_real, QUICK, tmp_path, Reporter(quiet=True))
    assert predictor_identity(SMALL, cost_of_real).lut == "0badcafe" and target == []


# -- in a search -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["edgenas", "hwdarts"])
def test_a_search_is_guided_by_the_predictor_and_judged_by_the_table(method):
    paths = random_paths(SMALL, 80)
    cost = BoardCost(predictor=fitted(cached(paths), paths))
    config = replace(TINY, method=method, latency="predictor")
    budgets = Budgets(latency_ms=2.0)
    guided = search(SMALL, DATA, cost, budgets, config, seed=0)
    plain = search(SMALL, DATA, cost, budgets, replace(config, latency="lut"), seed=0)
    # The same undecided architecture to start with, of which the predictor expects more.
    ratio = guided.history[0]["latency_ms"] / plain.history[0]["latency_ms"]
    assert 1.15 < ratio < 1.6
    for result in (guided, plain):
        assert result.cost.latency_ms <= 2.0
        assert all(c.cost.latency_ms <= 2.0 for c in result.candidates)


def test_a_checkpoint_of_another_predictor_is_refused(tmp_path):
    paths = random_paths(SMALL, 40)
    config = replace(TINY, latency="predictor")
    costs = [BoardCost(predictor=fitted(factor * cached(paths), paths)) for factor in (1, 2)]
    path = tmp_path / "search.pt"
    search(SMALL, DATA, costs[0], Budgets(latency_ms=3.0), config, seed=0, checkpoint=path)
    with pytest.raises(ConfigError, match="latency predictor differ"):
        search(SMALL, DATA, costs[1], Budgets(latency_ms=3.0), config, seed=0, checkpoint=path)


def test_settings_without_meaning_are_named():
    for raw, says in (
        ({"models": 3}, "search.predictor.models"),
        ({"held_out": 1.0}, "search.predictor.held_out"),
        ({"lr": 0.0}, "search.predictor.lr"),
        ({"decay": -1.0}, "search.predictor.decay"),
    ):
        with pytest.raises(ConfigError, match=says):
            PredictorConfig(**raw)
    with pytest.raises(ConfigError, match=r"search\.latency"):
        SearchConfig(latency="guess")
    with pytest.raises(ConfigError, match="cost model has none"):
        search(SMALL, DATA, MacCost(), Budgets(), replace(TINY, latency="predictor"), seed=0)
