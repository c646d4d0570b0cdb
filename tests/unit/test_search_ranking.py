"""Rank correlations against SciPy; proxies against their definitions, worked out another way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.search import proxies, proxyconfig, search
from pipeline.search.effort import affordable_trainings, edgenas_passes
from pipeline.search.meter import Meter
from pipeline.search.ranking import agreement, agreements, kendall, ranks, spearman
from pipeline.search.supernet import Supernet, convolve
from pipeline.search.trainer import draw_batch
from pipeline.space import Budgets
from pipeline.space.architecture import Architecture
from pipeline.space.search_space import SearchSpace

DW3, WIDE = SMALL.ops.index("dw3"), 1


def batch(size: int = 12):
    return draw_batch(DATA.x_train, DATA.y_train, size, np.random.default_rng(3))


@pytest.mark.parametrize("distinct", [4, 1000])
def test_kendall_and_spearman_are_those_of_scipy(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    for _ in range(20):
        x, y = rng.integers(distinct, size=(2, 25)).astype(float)
        assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        assert np.array_equal(ranks(x), stats.rankdata(x) - 1)


def test_a_score_that_is_the_same_for_all_has_no_order() -> None:
    same = agreement("a", [1.0] * 5, "b", [1.0, 2.0, 3.0, 4.0, 5.0])
    assert math.isnan(same.tau)
    assert same.to_json()["tau"] is None


def test_the_interval_holds_the_tau_and_narrows_with_more_architectures() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (10, 80):
        x = rng.normal(size=n)
        found = agreement("a", x, "b", x + rng.normal(size=n))
        assert found.n == n
        assert found.low < found.tau < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0]


def test_the_interval_covers_the_true_tau() -> None:
    # bivariate normal: tau = 2/pi asin(rho) (Greiner); 95 % nominal, resampling with few points is liberal
    rng, rho, covered = np.random.default_rng(1), 0.6, 0
    truth = 2 / math.pi * math.asin(rho)
    for _ in range(60):
        x = rng.normal(size=30)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=30)
        found = agreement("a", x, "b", y)
        covered += found.low <= truth <= found.high
    assert covered >= 50


def test_only_architectures_that_both_stages_scored_are_compared() -> None:
    found = agreements(
        {
            "a": [1.0, 2.0, 3.0, 4.0, 5.0, None, 7.0],
            "b": [1.0, 2.0, 3.0, 4.0, 6.0, 0.0, None],
            "c": [None, None, None, 1.0, 2.0, 3.0, 4.0],
        }
    )
    assert [(a.first, a.second, a.n, a.tau) for a in found] == [("a", "b", 5, 1.0)]


def test_shape_proxies_are_those_of_the_lowered_graph() -> None:
    space = SearchSpace((8, 8, 1), 4, 8, 1, (2,), channels=(8, 16))
    net, path = Supernet(space, 0), [(DW3, WIDE)]
    stem, depthwise, pointwise, dense = 9 * 8 + 8, 9 * 8 + 8, 8 * 16 + 16, 16 * 4 + 4
    assert proxies.parameters(net, path, batch()) == stem + depthwise + pointwise + dense
    assert proxies.macs(net, path, batch()) == 64 * 72 + 16 * 72 + 16 * 128 + 64


def test_gradient_norm_is_the_steepest_slope() -> None:
    net, path = Supernet(SMALL, 1).double(), [(DW3, WIDE)] * 3
    images = (batch()[0].double(), batch()[1])
    norm = proxies.gradient_norm(net, path, images)
    loss = F.cross_entropy(net(images[0], path), images[1])
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)

    def moved(step: float) -> float:
        with torch.no_grad():
            other = Supernet(SMALL, 1).double()
            for p, g in zip(other.parameters(), gradients, strict=True):
                if g is not None:
                    p += step * g / norm
            return float(F.cross_entropy(other(images[0], path), images[1]))

    assert (moved(1e-5) - moved(-1e-5)) / 2e-5 == pytest.approx(norm, rel=1e-5)


def test_synflow_of_a_chain_is_its_flow_once_per_layer() -> None:
    # every layer of a chain without biases is homogeneous, so each one's |w dR/dw| adds up to R itself
    net, path = Supernet(SMALL, 2), [(DW3, WIDE)] * 3
    x = convolve(torch.ones(1, 1, 8, 8).double(), net.stem.double().abs(), 1)
    for block, stride in zip(net.blocks, SMALL.strides, strict=True):
        c = x.shape[1]
        cut = (block.depthwise.shape[-1] - 3) // 2
        weight = block.depthwise[:c, :, cut : cut + 3, cut : cut + 3].double().abs()
        x = F.conv2d(convolve(x, weight, stride, c), block.pointwise[:16, :c].double().abs())
    flow = F.linear(x.mean((2, 3)), net.classifier[:, :16].double().abs()).sum()
    before = {name: p.clone() for name, p in net.state_dict().items()}
    layers = 1 + 2 * 3 + 1
    assert proxies.synflow(net, path, batch()) == pytest.approx(math.log(layers * flow.item()), rel=1e-9)
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())


def test_synflow_sees_through_gates_and_residuals() -> None:
    net = Supernet(SMALL, 0)
    for op in ("se4", "ir2"):
        value = proxies.synflow(net, [(SMALL.ops.index(op), WIDE)] * 3, batch())
        assert math.isfinite(value)


def test_naswot_counts_the_units_in_which_two_images_agree() -> None:
    skip = SMALL.ops.index("skip")
    net, images = Supernet(SMALL, 4), batch(6)
    # with skips the only active units are the stem's
    on = (F.relu6(net.stem_norm(convolve(images[0], net.stem, 1), 0)) > 0).flatten(1).numpy()
    kernel = np.array([[float((a == b).sum()) for b in on] for a in on])
    expected = np.linalg.slogdet(kernel)[1]
    assert proxies.naswot(net, [(skip, 0)] * 3, images) == pytest.approx(expected, rel=1e-9)


def test_images_that_look_the_same_have_no_determinant() -> None:
    x, y = batch(6)
    assert proxies.naswot(Supernet(SMALL, 4), [(DW3, WIDE)] * 3, (x[:1].repeat(6, 1, 1, 1), y)) == -math.inf


def test_a_shortlist_keeps_the_best_by_mean_rank() -> None:
    net = Supernet(SMALL, 0)
    paths = [((DW3, 0),) * 3, ((DW3, WIDE),) * 3, ((DW3, 0), (DW3, WIDE), (DW3, WIDE))]
    kept = proxies.shortlist(paths, 2, ["parameters", "macs"], net, batch())
    sizes = [proxies.parameters(net, p, batch()) for p in paths]
    assert kept[0] == paths[int(np.argmax(sizes))]
    assert len(kept) == 2
    assert proxies.shortlist(paths, 2, [], net, batch()) == paths[:2]


def test_an_unknown_proxy_is_named() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        proxies.score(["nonsense"], Supernet(SMALL, 0), [(DW3, 0)] * 3, batch())


def test_the_path_names_the_architecture() -> None:
    net = Supernet(SMALL, 0)
    assert isinstance(proxies.architecture_of(net, [(DW3, WIDE)] * 3), Architecture)


def test_the_named_proxies_are_those_there_are() -> None:
    assert tuple(proxies.PROXIES) == proxyconfig.NAMES


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"names": ("macs", "nonsense")}, "nonsense"), ({"pool": 0}, "pool"), ({"pool": 1.5}, "pool")],
)
def test_settings_of_proxies_are_checked(fields, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        proxyconfig.ProxyConfig(**fields)


@pytest.mark.parametrize("names", [("parameters",), ("synflow", "naswot", "gradient_norm")])
def test_proxies_choose_what_random_search_trains_at_the_same_cost(names: tuple[str, ...]) -> None:
    config = replace(TINY, method="random", proxies=proxyconfig.ProxyConfig(names, 4))
    plain = replace(TINY, method="random")
    budgets = Budgets(latency_ms=2.0)
    with Meter() as spent:
        found = search(SMALL, DATA, MacCost(), budgets, config, seed=5)
    anyhow = search(SMALL, DATA, MacCost(), budgets, plain, seed=5)
    planned = edgenas_passes(TINY, len(DATA.x_val))
    assert 0.5 * planned < spent.passes <= planned
    assert len(found.candidates) == affordable_trainings(config, len(DATA.x_val)) <= len(anyhow.candidates)
    if names == ("parameters",):
        sizes = [[c.cost.parameters for c in r.candidates] for r in (found, anyhow)]
        assert min(sizes[0]) > np.mean(sizes[1])
    again = search(SMALL, DATA, MacCost(), budgets, config, seed=5)
    assert again.to_json() == found.to_json()
