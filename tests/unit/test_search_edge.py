"""The edge stage on a stand-in board: budgets, cost, resuming, inheritance, and errors that name what is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from edge_standins import BLOCKS_STAGE, OPTIONS, same
from search_standins import DATA, SMALL, TINY, MacCost, images

from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.search import SearchConfig
from pipeline.search.adaptation import adapt, edge_space
from pipeline.search.adaptconfig import AdaptConfig, Spending
from pipeline.search.candidates import Judge, repair
from pipeline.search.checkpoint import Checkpoint
from pipeline.search.costs import build_tables
from pipeline.search.edgepool import repaired
from pipeline.search.edgespace import BlockEdge
from pipeline.search.effort import edgenas_passes
from pipeline.search.inherit import inherited, load_weights
from pipeline.search.result import Candidate
from pipeline.search.sharingconfig import SharingConfig
from pipeline.search.supernet import Supernet
from pipeline.space.architecture import lower, parameters
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.train.checkpoint import read_state
from pipeline.train.inherit import inherit
from pipeline.train.network import QatNetwork

STAGE = BLOCKS_STAGE
CLOUD_BUDGETS, TIGHT = STAGE.budgets, STAGE.tight
adapted, cloud_of = STAGE.adapt, STAGE.cloud


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return STAGE.search(tmp_path_factory.mktemp("cloud") / "search.pt")


@pytest.mark.parametrize(
    "budgets", [TIGHT, Budgets(latency_ms=0.7), Budgets(sram_bytes=4300), Budgets(flash_bytes=7600)]
)
def test_the_new_budgets_are_hard(finished: Path, budgets: Budgets) -> None:
    result = adapted(finished, budgets).result
    assert result.feasible and result.architecture is not None
    for candidate in result.candidates:
        graph = lower(candidate.architecture)
        cost = MacCost().evaluate(graph, parameters(candidate.architecture))
        assert not budgets.violations(cost)
        assert cost == candidate.cost


@pytest.mark.parametrize("capacity", [0.0, 0.02, 1.0])
def test_the_winner_won_the_contest_with_what_the_cloud_adds_for_size(
    finished: Path, capacity: float
) -> None:
    config = replace(TINY, sharing=SharingConfig(capacity=capacity))
    options = replace(OPTIONS, contestants=3)
    result = adapt(SMALL, images(9), MacCost(), TIGHT, config, options, cloud_of(finished), seed=2).result
    contest = [c for c in result.candidates if c.proxy_accuracy is not None]
    assert len(contest) == options.contestants

    def merit(candidate: Candidate) -> float:
        return (candidate.proxy_accuracy or 0) + capacity * math.log2(lower(candidate.architecture).macs)

    assert result.architecture == max(contest, key=merit).architecture
    assert result.candidates[0].architecture == result.architecture


def test_the_default_share_is_below_a_tenth_and_fits_default_searches() -> None:
    from pipeline.search import SearchConfig

    cloud = edgenas_passes(SearchConfig(), 6000)
    spending = Spending.plan(AdaptConfig(), SearchConfig(), cloud, 6000)
    assert spending.passes <= 0.1 * cloud
    assert spending.steps > 20 and spending.contest_steps > 15


def test_contestants_train_side_by_side_with_the_same_outcome(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both contestants are under way at once, and what comes out is what comes out one by one."""
    import threading

    from pipeline.search import edge as module

    options = replace(OPTIONS, contestants=3)
    alone = adapted(finished, options=options)
    together, train_path = threading.Barrier(3, timeout=60), module.train_path

    def meeting(*args: Any, **more: Any) -> None:
        together.wait()  # breaks where one waits for the other's end
        train_path(*args, **more)

    monkeypatch.setattr(module, "train_path", meeting)
    config = replace(TINY, workers=3)
    beside = adapt(SMALL, images(9), MacCost(), TIGHT, config, options, cloud_of(finished), seed=2)
    assert same(alone, beside)


def test_the_course_of_the_tuning_is_kept(finished: Path) -> None:
    outcome = adapted(finished)
    history = outcome.result.history
    assert [row["step"] for row in history] == list(range(outcome.spending.steps))
    assert all(0 < row["train_loss"] < 10 for row in history)


def test_divergence_names_the_rate_in_force(finished: Path) -> None:
    with pytest.raises(ConfigError, match="diverged") as error:
        adapted(finished, options=replace(OPTIONS, learning_rate=1e35))
    assert "lower adapt.learning_rate" in error.value.hint


def test_the_distribution_moves_to_the_candidates(finished: Path) -> None:
    cost, cloud = MacCost(), cloud_of(finished)
    space = edge_space(SMALL, cost, TIGHT, cloud, TINY, 2)
    assert isinstance(space, BlockEdge)
    before = [p.detach().double().log().numpy() for p in space.relaxation.probabilities(TINY.temperature_end)]
    ranked = cloud.selection.ranked(space.bonus)
    best, *_ = repaired(space.judge, ranked, lambda path: repair(space.judge, path, *before))[0]
    pool, _ = space.recentre(OPTIONS.focus, OPTIONS.candidates, np.random.default_rng(0))
    ops, widths = (p.detach().numpy() for p in space.relaxation.probabilities(1.0))
    assert np.allclose(ops.sum(1), 1, atol=1e-5) and np.allclose(widths.sum(1), 1, atol=1e-5)
    judge = Judge(build_tables(SMALL, cost), cost, TIGHT)
    assert all(judge.feasible(path) for path in pool)
    # what the best repaired candidate of the cloud does is likelier than chance, block by block
    assert best in pool
    for block, (op, _) in enumerate(best):
        assert ops[block, op] > 1 / len(SMALL.ops)


def test_candidates_leave_less_of_the_limits_unused_than_repairs_do(finished: Path) -> None:
    """The cloud's, repaired for half its deadline, stop where they fit; half of the pool goes on from there."""
    half = replace(CLOUD_BUDGETS, latency_ms=1.5)
    space = edge_space(SMALL, MacCost(), half, cloud_of(finished), TINY, 2)
    pool, _ = space.recentre(OPTIONS.focus, OPTIONS.candidates, np.random.default_rng(0))
    assert sum(space.judge.exact(path).latency_ms > 0.9 * 1.5 for path in pool) >= len(pool) // 2


def test_missing_and_damaged_checkpoints(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        cloud_of(tmp_path / "nothing.pt")
    torn = tmp_path / "torn.pt"
    torn.write_bytes(finished.read_bytes()[:500])
    with pytest.raises(ConfigError, match=r"is damaged: [^\n]{1,90}\n") as error:
        cloud_of(torn)
    assert "delete search.json" in error.value.hint  # the finished stage would not run again
    torn.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"is damaged: [^\n]+\n"):
        cloud_of(torn)


@pytest.mark.parametrize(
    "content", [b"", b"torn", b"\x80\x02", b"(lp0", b"PK\x03\x04" + bytes(40), b"\xff" * 9]
)
def test_bytes_that_are_no_checkpoint_end_with_a_message(tmp_path: Path, content: bytes) -> None:
    """torch stumbles over them in half a dozen ways."""
    file = tmp_path / "some.pt"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged"):
        cloud_of(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_weights(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_state(file)
    assert Checkpoint(file, {}, 1.0).load() is None  # a search begins anew


def test_another_space_and_other_data_are_refused(finished: Path) -> None:
    wider = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1), channels=(8, 24))
    with pytest.raises(ConfigError, match=r"another search space: classifier is 4x16 there and 4x24 here"):
        adapted(finished, space=wider)
    longer = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1, 1), channels=(8, 16))
    with pytest.raises(ConfigError, match=r"another search space: blocks\.3\.\w+ is missing there and \d"):
        adapted(finished, space=longer)
    with pytest.raises(DataError, match="the space wants"):
        adapted(finished, data=images(0, shape=(8, 8, 3)))


def test_a_share_too_small_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match="too few for 6 candidates"):
        adapted(finished, options=replace(OPTIONS, share=0.01))


def test_contestants_are_candidates() -> None:
    with pytest.raises(ConfigError, match=r"adapt\.contestants = 3 is more than adapt\.candidates = 2"):
        AdaptConfig(candidates=2, contestants=3)


def test_inherited_weights_compute_what_the_supernet_computes() -> None:
    """Every operator of the space, both strides, residuals: the lowered network in training mode is the path."""
    space = SearchSpace((9, 9, 2), 5, 8, 1, (1, 2, 1, 2), channels=(8, 16))
    net = Supernet(space, 3)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in net.parameters():  # scales and shifts of 1 and 0 would hide a mix-up
            parameter.add_(torch.from_numpy(rng.normal(size=tuple(parameter.shape)).astype("f4")) * 0.1)
    judge = Judge(build_tables(space, MacCost()), MacCost(), Budgets())
    x = torch.from_numpy(rng.random((6, 2, 9, 9)).astype("f4"))
    used = set()
    for _ in range(40):
        path = judge.path(space.random(rng))
        used |= {space.ops[op] for op, _ in path}
        network = QatNetwork(judge.architecture(path)).train()
        inherit(network, inherited(net, path))
        with torch.no_grad():
            assert torch.allclose(network(x), net(x, path), atol=2e-4)
    assert used == set(space.ops)
    with pytest.raises(ModelError, match="do not fit"):
        inherit(QatNetwork(judge.architecture(path)), inherited(net, path)[:-1])


def test_the_clouds_cost_counts_the_tables_that_set_it(finished: Path, tmp_path: Path) -> None:
    """What `search_inputs.json` gives back costs what the cloud's own settings cost."""
    from pipeline.latency.lut import Lut
    from pipeline.profiler.profile import lut_path
    from pipeline.runfile import load_runfile
    from pipeline.searchinputs import INPUTS, CloudRun, search_inputs

    text = 'board = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 50\n[search.sharing]\nsandwich = 2\n'
    text += '[search.selection]\npool = 9\nproxies = ["naswot"]\n[search.hyper]\nboards = ["nucleo-f446re"]\n'
    (tmp_path / "run.toml").write_text(text)
    run = load_runfile(tmp_path / "run.toml")
    folder = tmp_path / "cloud"
    (folder / "checkpoints").mkdir(parents=True)
    checkpoint = folder / "checkpoints" / "search.pt"
    checkpoint.write_bytes(finished.read_bytes())
    data: Any = SimpleNamespace(name="bars", x_val=DATA.x_val)
    table = Lut.load(lut_path(run.board)).identity
    inputs = search_inputs(run, "edgenas", SMALL, data, table, checkpoint)
    (folder / INPUTS).write_text(json.dumps(inputs))
    cloud = CloudRun.open(folder).search
    told = (cloud.sharing, cloud.selection, cloud.hyper)
    assert told == (run.search.sharing, run.search.selection, run.search.hyper)
    assert edgenas_passes(cloud, 80) == edgenas_passes(run.search, 80) != edgenas_passes(SearchConfig(), 80)
    # a run of before these tables has none
    for table in ("sharing", "selection", "hyper"):
        del inputs["search"][table]
    (folder / INPUTS).write_text(json.dumps(inputs))
    assert CloudRun.open(folder).search == SearchConfig()
    inputs["search"]["sharing"] = "wrong"
    (folder / INPUTS).write_text(json.dumps(inputs))
    with pytest.raises(ConfigError, match="is damaged"):
        CloudRun.open(folder)
