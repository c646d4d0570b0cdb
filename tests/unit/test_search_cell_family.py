"""One hypernetwork of a cell space for several boards and limits: conditions, exact checks, asking it later."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from search_standins import DATA, TINY, MacCost, assert_exact
from typer.testing import CliRunner

from pipeline import stages
from pipeline.cli.main import app
from pipeline.errors import ConfigError
from pipeline.latency.lut import Lut
from pipeline.search import Candidate, Request, SearchConfig, SearchResult, Target, ask_family, search_for
from pipeline.search.cell_costs import CellJudge, CellTables
from pipeline.search.cell_hypersearch import CellHyperSearch, cell_ranges
from pipeline.search.conditions import Condition, draw_complexity, leaning
from pipeline.search.costs import exact_cost
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.hyperfamily import sweep
from pipeline.search.ranking import spearman
from pipeline.search.targets import cell_features
from pipeline.space import Budgets, OpSpec
from pipeline.space.cells import CellSpace

torch.set_num_threads(1)
SPACE = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)
WEIGHTS = HyperConfig(boards=("slow", "pools"), hidden=16, condition_weight=10.0, spend_weight=3.0)
CONFIG = replace(TINY, method="hypernetwork", candidates=20, semifinalists=4, hyper=WEIGHTS)


@dataclass(frozen=True)
class Pools(MacCost):
    """Another core: pooling dear, all else cheap, and faster by `speed`."""

    speed: float = 1.0

    def op_latency_ms(self, op: OpSpec) -> float:
        return (12.0 if op.kind == "max_pool" else 0.5) * super().op_latency_ms(op) / self.speed


def middle(cost: MacCost) -> float:
    rng = np.random.default_rng(1)
    return float(np.median([exact_cost(cost, SPACE.random(rng)).latency_ms for _ in range(60)]))


SLOW = Target("slow", MacCost(), Budgets(latency_ms=middle(MacCost())), 84e6)
POOLS = Target("pools", Pools(), Budgets(latency_ms=0.8 * middle(Pools())), 400e6)
THIRD = Target("third", Pools(speed=0.5), Budgets(latency_ms=middle(Pools(speed=0.5))), 200e6)


def run(path: Path | None = None, config: SearchConfig = CONFIG, **more) -> SearchResult:
    boards = more.pop("targets", (SLOW, POOLS))
    return search_for(SPACE, DATA, boards, config, seed=1, checkpoint=path, **more)


def ask(path: Path, request: Request) -> SearchResult:
    return ask_family(SPACE, DATA, (SLOW, POOLS), CONFIG, request, seed=1, checkpoint=path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, SearchResult]:
    path = tmp_path_factory.mktemp("search") / "cells.pt"
    return path, run(path)


@pytest.fixture(scope="module")
def controlled() -> CellHyperSearch:
    """Trained for long enough to tell conditions apart, no budget in the way."""
    config = replace(CONFIG, warmup_steps=0, steps=150, batch_size=4)
    boards = tuple(replace(board, budgets=Budgets()) for board in (SLOW, POOLS))
    search = CellHyperSearch(SPACE, DATA, boards, config, 0, None, None)
    search.train()
    return search


@pytest.mark.parametrize("place", [0, 1])
def test_a_tighter_latency_makes_the_members_faster(controlled: CellHyperSearch, place: int) -> None:
    """Those that the logits give: samples that no budget repairs."""
    search, board = controlled, controlled.boards[place]
    free, rng = board.judge.within(Budgets()), np.random.default_rng(0)
    means = []
    for share in (0.1, 0.9):
        limits = board.ranges.at((share, 1.0, 1.0))
        search.relaxation.ask(Condition(leaning(3, None), limits, place))
        drawn = [search.relaxation.repaired(free, rng) for _ in range(60)]
        means.append(np.mean([free.exact(path).latency_ms for path in drawn]))
    spread = board.ranges.high[0] - board.ranges.low[0]
    assert means[0] < means[1] - 0.1 * spread, means


def test_s_and_the_latency_asked_for_both_count(controlled: CellHyperSearch) -> None:
    rng, relaxation, rows = np.random.default_rng(1), controlled.relaxation, []
    with torch.no_grad():
        for i in range(200):
            limits = controlled.boards[i % 2].ranges.at((rng.random(), 1.0, 1.0))
            s = draw_complexity(3, rng)
            relaxation.ask(Condition(s, limits, i % 2))
            latency = float(relaxation.expected().latency_ms)
            rows.append((i % 2, *s, *map(float, relaxation.shares()), limits.latency_ms, latency))
    seen = np.array(rows)
    for op in range(3):
        assert spearman(list(seen[:, 1 + op]), list(seen[:, 4 + op])) < 0
    for place in (0, 1):
        own = seen[seen[:, 0] == place]
        assert spearman(list(own[:, 7]), list(own[:, 8])) > 0.4


def test_the_sweep_keeps_to_each_condition(controlled: CellHyperSearch) -> None:
    board = controlled.boards[0]
    asked = [Condition(leaning(3, None), board.ranges.at((share, 1.0, 1.0))) for share in (0.2, 0.4)]
    found, _ = sweep(controlled.relaxation, board, asked, 12, np.random.default_rng(0))
    limit = asked[1].budgets.latency_ms
    assert found and limit and all(board.judge.exact(path).latency_ms <= limit for path in found)


def test_growing_adds_weights_and_keeps_the_budgets() -> None:
    judge = CellJudge(CellTables.of(SPACE, SLOW.cost), SLOW.cost, SLOW.budgets)
    least = (2,) * SPACE.positions
    grown = judge.grown(least, np.random.default_rng(0))
    assert judge.feasible(grown) and judge.exact(grown).parameters > judge.exact(least).parameters


def test_ranges_reach_from_nothing_on_the_edges_to_the_dearest_operator_on_all() -> None:
    judge = CellJudge(CellTables.of(SPACE, SLOW.cost), SLOW.cost, Budgets())
    ranges = cell_ranges(judge, 0)
    ends = [judge.exact((op,) * SPACE.positions).latency_ms for op in (2, 0)]
    assert (ranges.low[0], ranges.high[0]) == pytest.approx(tuple(ends))
    assert cell_ranges(judge.within(Budgets(latency_ms=0.9 * ends[1])), 0).high[0] == 0.9 * ends[1]


def test_relaxed_memory_is_in_the_right_order() -> None:
    """It only guides; the planner decides."""
    from pipeline.search.cell_hypernetwork import expected_cost

    tables, rng, rows = CellTables.of(SPACE, SLOW.cost), np.random.default_rng(2), []
    for _ in range(60):
        path = tuple(int(op) for op in rng.choice(3, size=SPACE.positions, p=rng.dirichlet(np.ones(3))))
        exact = exact_cost(SLOW.cost, SPACE.build(path))
        gates = torch.nn.functional.one_hot(torch.tensor(path), 3).double()
        relaxed = expected_cost(tables, gates)
        rows.append((exact.sram_bytes, relaxed.sram_bytes, exact.flash_bytes, relaxed.flash_bytes))
    sram, about, flash, line = (list(map(float, column)) for column in zip(*rows, strict=True))
    assert spearman(sram, about) > 0.4 and spearman(flash, line) > 0.9


def test_one_run_serves_both_boards_within_the_budgets_of_each(trained) -> None:
    _, result = trained
    assert_exact(result, SLOW)
    assert_exact(result, POOLS)
    assert result.candidates[0].board == "slow" and result.architecture == result.candidates[0].architecture
    assert {int(record["board"]) for record in result.history} == {0, 1}
    own = [c for c in result.candidates if c.proxy_accuracy is not None]
    assert {c.board for c in own} == {"slow", "pools"} and {c.proxy_steps for c in own} == {3}
    assert [front.board for front in result.fronts] == ["slow", "pools"]
    assert SearchResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_board_without_a_member_says_why() -> None:
    result = run(targets=(SLOW, replace(POOLS, budgets=Budgets(latency_ms=1e-3))))
    assert result.feasible and not result.fronts[1].members
    assert "latency" in result.fronts[1].reason and not result.fronts[0].reason


def test_an_interrupted_run_for_two_boards_ends_alike(tmp_path: Path, trained) -> None:
    path = tmp_path / "cells.pt"

    class Stop(Exception):
        pass

    often = replace(CONFIG, checkpoint_seconds=1e-9)
    for phase, done in (("warm-up", 3), ("search", 7), ("own training", 17)):

        def stop(progress, phase=phase, done=done):
            if progress["phase"] == phase and progress["done"] >= done:
                raise Stop

        with pytest.raises(Stop):
            run(path, often, on_step=stop)
    seen: list[int] = []
    assert run(path, often, on_step=lambda p: seen.append(p["done"])) == trained[1]
    assert seen[0] > 10


def test_a_checkpoint_of_another_conditioning_is_refused(tmp_path: Path, trained) -> None:
    path = tmp_path / "cells.pt"
    path.write_bytes(trained[0].read_bytes())
    for targets in ((SLOW, THIRD), (SLOW,), (SLOW, replace(POOLS, budgets=Budgets(latency_ms=9.0)))):
        with pytest.raises(ConfigError, match="boards differ"):
            run(path, targets=targets)
    # what a version whose hypernetwork saw S alone wrote
    stored = torch.load(path, weights_only=True)
    del stored["identity"]["boards"]
    torch.save(stored, path)
    with pytest.raises(ConfigError, match="boards differ"):
        run(path)


@pytest.mark.parametrize("target", [SLOW, POOLS, THIRD], ids=lambda t: t.name)
@pytest.mark.parametrize("share", [0.8, 1.3])
def test_asking_again_trains_nothing_and_keeps_the_limits(trained, target: Target, share: float) -> None:
    """Also for a board that was not trained for, and beyond the limits that were."""
    path, _ = trained
    before = path.read_bytes()
    limit = share * float(target.budgets.latency_ms or 0)
    request = Request(replace(target, budgets=Budgets(latency_ms=limit)), members=6)
    result = ask(path, request)
    assert_exact(result, request.target)
    assert {c.board for c in result.candidates} == {target.name}
    assert all(c.proxy_accuracy is None for c in result.candidates)
    assert result == ask(path, request) and path.read_bytes() == before


def test_requests_that_cannot_be_met_say_so(trained, tmp_path: Path) -> None:
    result = ask(trained[0], Request(replace(SLOW, budgets=Budgets(latency_ms=1e-3))))
    assert not result.feasible and "latency" in result.reason
    with pytest.raises(ConfigError, match="no trained hypernetwork"):
        ask(tmp_path / "none.pt", Request(SLOW))
    trained_alone = ask(trained[0], Request(SLOW, members=6, trained=2, train_steps=4))
    assert [c.proxy_steps for c in trained_alone.candidates[:3]] == [4, 4, 0]


def test_size_decides_which_members_are_trained(trained) -> None:
    """Not shared weights, which order cells the wrong way round after so few steps."""

    def macs(candidate: Candidate) -> int:
        return candidate.architecture.lower().macs

    answer = ask(trained[0], Request(SLOW, members=6, trained=2, train_steps=4)).candidates
    chosen = sorted(macs(c) for c in answer if c.proxy_accuracy is not None)
    assert chosen == sorted(map(macs, answer))[-2:]
    # in the search, of each half by latency of what the board can run
    found = [c for c in trained[1].candidates if c.board == "slow"]
    entered = {c.architecture for c in found if c.proxy_accuracy is not None}
    found.sort(key=lambda c: c.cost.latency_ms, reverse=True)
    half = (len(found) + 1) // 2
    for group in (found[:half], found[half:]):
        assert any(macs(c) == max(map(macs, group)) for c in group if c.architecture in entered)


def test_features_tell_speed_from_kind() -> None:
    """A board that is only faster differs in speed alone; another core differs in its operators."""
    slow, twice, pools = (
        cell_features(CellTables.of(SPACE, cost), clock)
        for cost, clock in (
            (MacCost(0.0, 0.0), 84e6), (Pools(0.0, 0.0, speed=2.0), 168e6), (Pools(0.0, 0.0), 84e6)
        )
    )  # fmt: skip
    assert twice[0] - pools[0] == pytest.approx(np.log(2))
    assert pools[1] - twice[1] == pytest.approx(np.log(2))
    assert twice[2:] == pytest.approx(pools[2:])
    assert np.abs(slow[2:] - pools[2:]).max() > 0.3


RUNFILE = """\
name = "cells"
board = "qemu-cortex-m4"
[data]
name = "digits"
limit = 100
[budgets]
latency_ms = 1000.0
[space]
kind = "cells"
nodes = 3
stem_channels = 8
stem_stride = 1
channels = [16]
strides = [1]
[search]
method = "hypernetwork"
warmup_steps = 2
steps = 3
batch_size = 8
candidates = 6
ranking_images = 16
semifinalists = 2
proxy_steps = 2
threads = 1
[search.hyper]
boards = ["qemu-cortex-m7"]
"""
LUTS = Path(__file__).parents[2] / "luts"


def test_the_command_answers_for_a_cell_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's board and one that it was not trained for, with tighter limits than the search had."""
    monkeypatch.setattr(stages, "obtain_lut", lambda board, *_: Lut.load(LUTS / board.name / "edgenas"))
    file, runs = tmp_path / "run.toml", tmp_path / "runs"
    file.write_text(RUNFILE)

    def command(*words: str):
        return CliRunner().invoke(
            app, [words[0], str(file), "--runs", str(runs), *words[1:]], catch_exceptions=True
        )

    early = command("family")
    assert isinstance(early.exception, ConfigError) and "no trained hypernetwork" in str(early.exception)
    from pipeline.run import Run

    found = Run.open(file, runs=runs, quiet=True).search()
    assert {c.board for c in found.candidates} == {"qemu-cortex-m4", "qemu-cortex-m7"}
    slowest = max(c.cost.latency_ms for c in found.candidates if c.board == "qemu-cortex-m4")
    for board in ("qemu-cortex-m4", "qemu-rv32"):
        limit = 0.7 * slowest if board == "qemu-cortex-m4" else slowest
        said = command(
            "family", "--board", board, "--latency-ms", f"{limit}", "--penalize", "pool=0.5", "--json"
        )
        assert said.exit_code == 0, said.output
        told = json.loads(said.stdout)
        assert told["candidates"] and told["seconds"] >= 0
        assert all(c["board"] == board and c["cost"]["latency_ms"] <= limit for c in told["candidates"])
        kept = json.loads(Path(told["written"]).read_text())
        assert kept["feasible"] and kept["asked"]["penalties"] == {"pool": 0.5}
        assert SearchResult.from_json(kept).candidates
