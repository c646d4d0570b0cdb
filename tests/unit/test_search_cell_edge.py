"""The edge stage in spaces of cells: budgets, cost, resuming, inheritance, and errors that name what is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from edge_standins import CELLS as SPACE
from edge_standins import CELLS_STAGE, OPTIONS, random_costs, within
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.boards import load_board
from pipeline.errors import ConfigError
from pipeline.latency.lut import Lut
from pipeline.profiler.profile import lut_path
from pipeline.runfile import load_runfile
from pipeline.search import search
from pipeline.search.adaptation import edge_space
from pipeline.search.cell_edge import CellEdge
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.costs import exact_cost
from pipeline.search.effort import cell_passes
from pipeline.search.inherit import inherited_cells
from pipeline.searchinputs import INPUTS, CloudRun, search_inputs
from pipeline.space import OpSpec
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.train.inherit import inherit
from pipeline.train.network import QatNetwork

STAGE = CELLS_STAGE
CLOUD_BUDGETS, TIGHT, CONFIG = STAGE.budgets, STAGE.tight, STAGE.config
adapted, cloud_of = STAGE.adapt, STAGE.cloud


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return STAGE.search(tmp_path_factory.mktemp("cloud") / "search.pt")


@dataclass(frozen=True)
class Slower(MacCost):
    """The same board at a clock so many times slower."""

    times: float = 1.0

    def op_latency_ms(self, op: OpSpec) -> float:
        return self.times * super().op_latency_ms(op)


def slower(times: float) -> Slower:
    usual = MacCost()
    return Slower(times * usual.layer_overhead_ms, times * usual.overhead_ms, usual.mj_per_ms, times)


@pytest.mark.parametrize("name", ["latency_ms", "sram_bytes", "flash_bytes", "parameters", "energy_mj"])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_new_budgets_are_hard(finished: Path, name: str, share: float) -> None:
    budgets = within(name, share)
    result = adapted(finished, budgets).result
    assert result.feasible and result.architecture is not None and result.candidates
    for candidate in result.candidates:
        assert candidate.cost == exact_cost(MacCost(), candidate.architecture)
        assert not budgets.violations(candidate.cost)
    contest = [c for c in result.candidates if c.proxy_accuracy is not None]
    assert len(contest) == OPTIONS.contestants
    assert result.architecture == max(contest, key=lambda c: c.proxy_accuracy or 0).architecture


def test_an_impossible_deadline_is_not_blamed_on_memory(finished: Path) -> None:
    least = [min(getattr(c, name) for c in random_costs()) for name in ("latency_ms", "sram_bytes")]
    assert "SRAM" not in adapted(finished, Budgets(0.3 * least[0], 9 * least[1])).result.reason


def test_the_distribution_moves_to_the_candidates(finished: Path) -> None:
    cloud = cloud_of(finished)
    space = edge_space(SPACE, MacCost(), TIGHT, cloud, CONFIG, 2)
    assert isinstance(space, CellEdge)
    before = space.chances
    pool, _ = space.recentre(OPTIONS.focus, OPTIONS.candidates, np.random.default_rng(0))
    assert np.allclose(space.chances.sum(1), 1)
    assert len(pool) == OPTIONS.candidates and all(map(space.judge.feasible, pool))
    best = space.judge.repair(cloud.selection.ranked()[0], np.log(before))
    assert best in pool
    rows = np.arange(SPACE.positions)
    assert space.chances[rows, best].mean() > before[rows, best].mean() + 0.1
    # samples follow it: as often as the chances say, and within the limits but for some slack
    rng = np.random.default_rng(1)
    drawn = [path for path in (space.near(rng) for _ in range(300)) if path is not None]
    assert len(drawn) > 200
    seen = np.mean([np.equal(path, best).mean() for path in drawn])
    assert seen == pytest.approx(space.chances[rows, best].mean(), abs=0.15)
    assert all(space.judge.roughly_within(path, 1.1) for path in drawn)


def test_a_slower_clock_is_asked_for_what_the_deadline_meant_to_the_cloud(finished: Path) -> None:
    """Four times slower with four times the deadline is the cloud's own condition; with the same deadline another."""
    budgets = replace(CLOUD_BUDGETS, latency_ms=0.4)
    cloud = cloud_of(finished)
    # what the hypernetwork has learnt of deadlines in so few steps is little: weights that know of them
    state = {k: torch.randn(v.shape, generator=torch.manual_seed(0)) for k, v in cloud.relaxation.items()}
    kept = {k: v for k, v in cloud.relaxation.items() if k.startswith("scale")}
    cloud = replace(cloud, relaxation=state | kept)

    def chances(times: float, limit: float) -> Any:
        held = replace(budgets, latency_ms=limit)
        space = edge_space(SPACE, slower(times), held, cloud, CONFIG, 2)
        assert isinstance(space, CellEdge)
        return space.chances

    own = chances(1.0, 0.4)
    assert np.allclose(own, chances(4.0, 1.6), atol=1e-4)
    assert not np.allclose(own, chances(4.0, 0.4), atol=1e-2)
    assert np.allclose(chances(4.0, 0.8), chances(1.0, 0.2), atol=1e-4)


def test_inherited_weights_compute_what_the_supernet_computes() -> None:
    """Every operator, both strides, cells that widen and cells that do not."""
    space = CellSpace((9, 9, 2), 5, 4, 1, channels=(4, 8, 8), strides=(1, 2, 2), nodes=2)
    net = CellSupernet(space, 3)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in net.parameters():  # scales and shifts of 1 and 0 would hide a mix-up
            parameter.add_(torch.from_numpy(rng.normal(size=tuple(parameter.shape)).astype("f4")) * 0.1)
    x = torch.from_numpy(rng.random((6, 2, 9, 9)).astype("f4"))
    for _ in range(20):
        path = space.random_path(rng)
        network = QatNetwork(space.build(path)).train()
        inherit(network, inherited_cells(net, path))
        with torch.no_grad():
            assert torch.allclose(network(x), net(x, path), atol=2e-4)


def test_what_was_learnt_is_handed_on(finished: Path) -> None:
    outcome = adapted(finished)
    assert outcome.result.architecture is not None
    network = QatNetwork(outcome.result.architecture)
    inherit(network, outcome.weights)
    assert torch.equal(network.layers[0].weight, outcome.weights[0]["weight"])


def test_a_cloud_of_another_space_is_refused(finished: Path, tmp_path: Path) -> None:
    wider = replace(SPACE, channels=(4, 12))
    with pytest.raises(ConfigError, match="another search space: classifier is 4x8 there and 4x12 here"):
        adapted(finished, space=wider)
    with pytest.raises(ConfigError, match=r"another search space: .* there and .* here"):
        adapted(finished, space=replace(SPACE, ops=("conv", "identity")))
    with pytest.raises(ConfigError, match="another search space: stem is 4x1x3x3 there and 8x1x3x3 here"):
        adapted(finished, space=SMALL)
    blocks = tmp_path / "blocks.pt"
    search(SMALL, DATA, MacCost(), Budgets(latency_ms=3.0), TINY, seed=1, checkpoint=blocks)
    with pytest.raises(ConfigError, match=r"another search space: .* there and"):
        adapted(blocks)


def test_a_checkpoint_of_an_earlier_version_is_no_start(finished: Path, tmp_path: Path) -> None:
    older = tmp_path / "older.pt"
    stored = torch.load(finished, weights_only=True)
    for key in ("told", "shared"):
        del stored["state"][key]
    torch.save(stored, older)
    with pytest.raises(ConfigError, match="left by an earlier version") as error:
        cloud_of(older)
    assert error.value.hint.startswith("delete it and search.json")


def test_a_family_has_no_candidate_of_the_search_that_it_was_not_asked_for(finished: Path) -> None:
    """They are kept for the edge stage; `ask` ranks anew for its own limits."""
    from pipeline.search import Request, ask_family
    from pipeline.search.targets import one_board

    kept = {tuple(path) for path, _ in torch.load(finished, weights_only=True)["state"]["shared"]}
    assert kept
    target = one_board(MacCost(), CLOUD_BUDGETS)[0]
    asked = replace(target, budgets=within("latency_ms", 0.05))
    found = ask_family(SPACE, DATA, [target], CONFIG, Request(asked, members=2), seed=1, checkpoint=finished)
    assert 0 < len(found.candidates) <= 2


RUN = """\
board = "qemu-cortex-m4"
[budgets]
latency_ms = 50
[search]
method = "hypernetwork"
steps = 77
[search.hyper]
hidden = 12
[space]
kind = "cells"
stem_channels = 4
channels = [4, 8]
strides = [1, 2]
nodes = 2
"""


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN)
    run = load_runfile(tmp_path / "run.toml")
    folder = tmp_path / "cloud"
    (folder / "checkpoints").mkdir(parents=True)
    checkpoint = folder / "checkpoints" / "search.pt"
    checkpoint.write_bytes(finished.read_bytes())
    data: Any = SimpleNamespace(name="bars", x_val=DATA.x_val)
    inputs = search_inputs(run, "hypernetwork", SPACE, data, table().identity, checkpoint)
    (folder / INPUTS).write_text(json.dumps(inputs))
    return folder


def table() -> Lut:
    return Lut.load(lut_path(load_board("qemu-cortex-m4")))


def test_the_folder_of_a_search_of_cells_says_what_the_edge_stage_needs(folder: Path) -> None:
    cloud = CloudRun.open(folder)
    assert cloud.space == SPACE
    assert (cloud.search.steps, cloud.search.hyper.hidden) == (77, 12)
    assert cloud.passes == cell_passes(cloud.search, 3, 80)
    cloud.check(SPACE, table().identity)
    with pytest.raises(ConfigError, match=r"another search space: nodes 3 \(there 2\)"):
        cloud.check(replace(SPACE, nodes=3), table().identity)
    with pytest.raises(ConfigError, match=r"another search space: kind blocks \(there cells\)"):
        cloud.check(SMALL, table().identity)
    with pytest.raises(ConfigError, match=r"another search space: kind cells \(there blocks\)"):
        replace(cloud, space=SMALL).check(SPACE, table().identity)


@pytest.mark.parametrize(("method", "ok"), [("hypernetwork", True), ("random", False), ("edgenas", False)])
def test_of_cells_only_the_hypernetworks_search_is_a_start(folder: Path, method: str, ok: bool) -> None:
    inputs = json.loads((folder / INPUTS).read_text())
    (folder / INPUTS).write_text(json.dumps(inputs | {"method": method}))
    if ok:
        CloudRun.open(folder)
        return
    with pytest.raises(ConfigError, match=f"'{method}' in a space of cells, not with 'hypernetwork'"):
        CloudRun.open(folder)


def test_a_damaged_space_is_no_traceback(folder: Path) -> None:
    inputs = json.loads((folder / INPUTS).read_text())
    for broken in ({"kind": "cells"}, {"kind": "nothing"}, {**inputs["space"], "more": 1}, [], None):
        (folder / INPUTS).write_text(json.dumps(inputs | {"space": broken}))
        with pytest.raises(ConfigError):
            CloudRun.open(folder)


def test_an_edge_run_file_names_cells_without_the_clouds_settings(tmp_path: Path) -> None:
    """Of its [search] nothing counts that cells could refuse; a run that searches itself is still refused."""
    text = RUN.replace('method = "hypernetwork"\n', "workers = 2\n").replace(
        "[search.hyper]\nhidden = 12\n", ""
    )
    path = tmp_path / "edge.toml"
    path.write_text(text + '[adapt]\ncloud = "cloud"\n')
    assert load_runfile(path).space.build((8, 8, 1), 4) == SPACE
    path.write_text(text)
    with pytest.raises(ConfigError, match="does not know cell spaces"):
        load_runfile(path)


def test_a_hypernetwork_of_several_boards_serves_the_runs(tmp_path: Path) -> None:
    from pipeline.search import Target, search_for

    path = tmp_path / "search.pt"
    boards = [
        Target("a", MacCost(), CLOUD_BUDGETS, 1e8),
        Target("b", slower(3.0), Budgets(latency_ms=2.0), 5e7),
    ]
    assert search_for(SPACE, DATA, boards, CONFIG, seed=1, checkpoint=path).feasible
    result = adapted(path).result
    assert result.feasible
    assert all(not TIGHT.violations(c.cost) for c in result.candidates)
    assert isinstance(edge_space(SPACE, MacCost(), TIGHT, cloud_of(path), CONFIG, 2), CellEdge)
