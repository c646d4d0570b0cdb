"""One hypernetwork for several boards: conditions, exact checks, fronts, and asking it later."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from search_standins import DATA, SMALL, TINY, MacCost, assert_exact

from pipeline.cli.family import _table
from pipeline.errors import ConfigError
from pipeline.familystage import FamilyAnswer, FamilyQuestion
from pipeline.search import Request, SearchResult, Target, ask_family, complexity_of, search_for
from pipeline.search.costs import build_tables
from pipeline.search.energy import with_energy
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.hypernetwork import BoardScale
from pipeline.search.targets import board_features
from pipeline.space import Budgets, OpSpec

BUDGETS = Budgets(latency_ms=3.0, parameters=3000)
CONFIG = replace(
    TINY,
    method="hypernetwork",
    candidates=24,
    semifinalists=6,
    hyper=HyperConfig(boards=("slow", "fast"), hidden=8),
)


@dataclass(frozen=True)
class Wide(MacCost):
    """Another core: depthwise operators dear, all else cheap, and faster by `speed`."""

    speed: float = 1.0

    def op_latency_ms(self, op: OpSpec) -> float:
        factor = 4.0 if op.kind.startswith("depthwise") else 0.5
        return factor * super().op_latency_ms(op) / self.speed


SLOW = Target("slow", MacCost(), BUDGETS, 84e6)
FAST = Target("fast", Wide(), replace(BUDGETS, latency_ms=1.5), 400e6)
THIRD = Target("third", Wide(speed=0.5), replace(BUDGETS, latency_ms=2.0), 200e6)


def run(path: Path | None = None, config=CONFIG, **more) -> SearchResult:
    boards = more.pop("targets", (SLOW, FAST))
    return search_for(SMALL, DATA, boards, config, seed=1, checkpoint=path, **more)


def ask(path: Path, request: Request, config=CONFIG) -> SearchResult:
    return ask_family(SMALL, DATA, (SLOW, FAST), config, request, seed=1, checkpoint=path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, SearchResult]:
    path = tmp_path_factory.mktemp("search") / "hyper.pt"
    return path, run(path)


def test_one_run_serves_both_boards_within_the_budgets_of_each(trained):
    _, result = trained
    assert_exact(result, SLOW)
    assert_exact(result, FAST)
    assert result.candidates[0].board == "slow" and result.architecture == result.candidates[0].architecture
    assert {int(record["board"]) for record in result.history} == {0, 1}
    # both boards have members that trained alone, all for as long
    own = [c for c in result.candidates if c.proxy_accuracy is not None]
    assert {c.board for c in own} == {"slow", "fast"} and len({c.proxy_steps for c in own}) == 1


def test_the_table_of_a_family_says_where_its_figures_come_from(trained):
    _, result = trained
    answer = FamilyAnswer(FamilyQuestion(), result, "slow", 4.0, Path("slow.json"), 1.0, "modelled")
    table = _table(answer)
    assert [str(column.header).partition("\n")[2] for column in table.columns] == [
        "(modelled)", "(modelled)", "(modelled)", "", "(measured)", ""
    ]  # fmt: skip
    assert "at most 4 ms (given)" in str(table.title)
    accuracies = list(table.columns[4].cells)
    # 60 % of the supernet are no promise of what the network reaches once it is trained
    for candidate, told in zip(result.candidates, accuracies, strict=True):
        own = candidate.proxy_accuracy is not None
        assert told.endswith(f"after {candidate.proxy_steps} steps" if own else "with shared weights")
    assert len({text.split(" % ")[1] for text in accuracies}) == 2


def test_what_is_asked_names_the_answer():
    assert (
        FamilyQuestion().file_name("slow")
        == FamilyQuestion(board="slow.toml").file_name("slow")
        == "slow.json"
    )
    asked = [
        FamilyQuestion(latency_ms=20.0),
        FamilyQuestion(latency_ms=20.000000001),  # as printed by :g it is the same
        FamilyQuestion(sram_bytes=20), FamilyQuestion(flash_bytes=20), FamilyQuestion(parameters=20),
        FamilyQuestion(penalties={"ir6": 0.5}), FamilyQuestion(penalties={"ir6": 0.25, "dw3": 0.25}),
        FamilyQuestion(members=8), FamilyQuestion(train_steps=20),
    ]  # fmt: skip
    names = [question.file_name("slow") for question in asked]
    assert len(set(names)) == len(asked) and "slow.json" not in names
    assert names[0] == "slow-20ms.json" and names[-3] == "slow-dw3=0.25-ir6=0.25.json"
    assert asked[5].file_name("slow") == FamilyQuestion("x", penalties={"ir6": 0.5}).file_name("slow")
    with pytest.raises(ConfigError, match="--latency-ms is -1"):
        FamilyQuestion(latency_ms=-1.0)


def test_the_result_has_a_front_per_board_and_survives_json(trained):
    _, result = trained
    assert [front.board for front in result.fronts] == ["slow", "fast"]
    for front in result.fronts:
        latencies = [c.cost.latency_ms for c in front.members]
        accuracies = [c.proxy_accuracy for c in front.members]
        assert latencies == sorted(latencies) and accuracies == sorted(accuracies) and front.members
        assert all(c in result.candidates for c in front.members)
    raw = json.loads(json.dumps(result.to_json()))
    assert SearchResult.from_json(raw) == result
    # what an earlier version wrote
    del raw["fronts"]
    for candidate in raw["candidates"]:
        del candidate["board"]
    old = SearchResult.from_json(raw)
    assert old.fronts == [] and {c.board for c in old.candidates} == {""}


def test_an_interrupted_run_for_two_boards_ends_alike(tmp_path: Path, trained):
    path = tmp_path / "hyper.pt"

    class Stop(Exception):
        pass

    for phase, done in (("search", 7), ("ranking", 13)):

        def stop(progress, phase=phase, done=done):
            if progress["phase"] == phase and progress["done"] >= done:
                raise Stop

        with pytest.raises(Stop):
            run(path, replace(CONFIG, checkpoint_seconds=1e-9), on_step=stop)
    assert run(path, replace(CONFIG, checkpoint_seconds=1e-9)) == trained[1]


def test_a_board_without_a_member_says_why(tmp_path: Path):
    impossible = replace(FAST, budgets=Budgets(latency_ms=1e-3))
    result = run(targets=(SLOW, impossible))
    assert result.feasible and not result.fronts[1].members
    assert "latency" in result.fronts[1].reason and not result.fronts[0].reason


def test_a_checkpoint_of_other_boards_is_refused(tmp_path: Path):
    path = tmp_path / "hyper.pt"
    run(path)
    with pytest.raises(ConfigError, match="boards"):
        run(path, targets=(SLOW, THIRD))


@pytest.mark.parametrize("target", [SLOW, FAST, THIRD], ids=lambda t: t.name)
@pytest.mark.parametrize("share", [0.5, 1.0, 1.5])
def test_asking_again_trains_nothing_and_keeps_the_limits(trained, target: Target, share: float):
    """Also for a board that was not trained for, and beyond the limits that were."""
    path, _ = trained
    before = path.read_bytes()
    limit = share * float(target.budgets.latency_ms or 0)
    request = Request(replace(target, budgets=replace(target.budgets, latency_ms=limit)), members=8)
    result = ask(path, request)
    assert_exact(result, request.target)
    assert {c.board for c in result.candidates} == {target.name}
    assert all(c.proxy_accuracy is None for c in result.candidates)
    assert result == ask(path, request) and path.read_bytes() == before


@pytest.mark.parametrize(
    "changed",
    [replace(SLOW, cost=Wide(speed=0.2), clock_hz=42e6), replace(SLOW, cost=MacCost(layer_overhead_ms=0.1))],
    ids=["clock and table", "table"],
)
def test_a_board_that_only_has_the_name_of_a_trained_one_is_held_to_its_own_costs(trained, changed: Target):
    result = ask(trained[0], Request(replace(changed, budgets=Budgets(latency_ms=4.0)), members=6))
    assert result.candidates
    assert_exact(result, replace(changed, budgets=Budgets(latency_ms=4.0)))


@pytest.mark.parametrize("target", [SLOW, THIRD], ids=lambda t: t.name)
def test_a_limit_of_energy_asks_for_the_latency_that_it_leaves(trained, target: Target):
    energy = Budgets(energy_mj=0.07)
    both = with_energy(energy, target.cost, SMALL)
    assert both.latency_ms is not None
    found = [ask(trained[0], Request(replace(target, budgets=b), members=8)) for b in (energy, both)]
    assert_exact(found[0], replace(target, budgets=energy))
    assert found[0] == found[1]


def test_asking_for_the_impossible_names_the_budget(trained):
    result = ask(trained[0], Request(replace(SLOW, budgets=Budgets(latency_ms=1e-3))))
    assert not result.feasible and "latency" in result.reason


def test_the_best_can_train_alone(trained):
    result = ask(trained[0], Request(SLOW, members=6, trained=2, train_steps=3))
    assert [c.proxy_steps for c in result.candidates[:3]] == [3, 3, 0]


def test_asking_before_the_training_is_done_says_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="no trained hypernetwork") as caught:
        ask(tmp_path / "none.pt", Request(SLOW))
    assert "edgenas search" in caught.value.hint


def test_s_is_made_from_a_few_penalties():
    assert complexity_of(["a", "b", "c"], {}) is None
    assert complexity_of(["a", "b", "c"], {"b": 0.5}) == pytest.approx((0.25, 0.5, 0.25))
    for wrong in ({"d": 0.1}, {"a": 1.5}, {"a": 0.7, "b": 0.7}, {"a": 0.1, "b": 0.1, "c": 0.1}):
        with pytest.raises(ConfigError):
            complexity_of(["a", "b", "c"], wrong)


def test_board_features_tell_speed_from_kind():
    """A board that is only faster differs in speed alone; another core differs in its operators."""
    slow = board_features(build_tables(SMALL, MacCost(0.0, 0.0)), 84e6)
    twice = board_features(build_tables(SMALL, Wide(0.0, 0.0, speed=2.0)), 168e6)
    wide = board_features(build_tables(SMALL, Wide(0.0, 0.0)), 84e6)
    assert twice[0] - wide[0] == pytest.approx(np.log(2)) and wide[1] - twice[1] == pytest.approx(np.log(2))
    assert twice[2:] == pytest.approx(wide[2:])
    assert np.abs(slow[2:] - wide[2:]).max() > 0.3
    scale = BoardScale([slow, wide])
    assert torch.allclose(scale(slow) + scale(wide), torch.zeros(len(slow)), atol=1e-5)
    assert scale(100 * slow).abs().max() <= 3.0


def test_a_board_named_twice_is_refused():
    with pytest.raises(ConfigError, match="boards"):
        HyperConfig(boards=("a", "a"))
