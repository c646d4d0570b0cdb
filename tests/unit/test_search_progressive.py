"""EdgeNAS' progressive evaluation: who gets to the next look, what it costs, and that it can be interrupted."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.report.searched import search_section
from pipeline.search import SearchResult, edgenas, progressive, search
from pipeline.search import selection as selecting
from pipeline.search.candidates import Judge, cheapest_paths, grow
from pipeline.search.costs import build_tables
from pipeline.search.edgenas import EdgeNas
from pipeline.search.effort import edgenas_passes
from pipeline.search.exitsearch import Trained
from pipeline.search.hwdarts import HwDarts
from pipeline.search.hypersearch import HyperSearch
from pipeline.search.meter import Meter
from pipeline.search.methods import Task
from pipeline.search.proxies import score
from pipeline.search.ranking import FEWEST
from pipeline.search.selection import (
    Selection,
    children,
    first_cut_size,
    first_round,
    places,
    starting_paths,
    uniform_paths,
)
from pipeline.search.selectionconfig import SelectionConfig
from pipeline.search.supernet import Supernet
from pipeline.search.targets import one_board
from pipeline.search.trainer import Validation, draw_batch
from pipeline.space import Budgets, lower
from pipeline.space.search_space import SearchSpace

BUDGETS = Budgets(latency_ms=3.0, parameters=3000)
CONFIG = replace(TINY, candidates=10, semifinalists=6)


def searched(config, seed: int = 7) -> EdgeNas:
    task = Task.prepare(SMALL, DATA, one_board(MacCost(), BUDGETS), config, seed, None, None)
    method = EdgeNas(task)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        method.run()
    finally:
        torch.set_num_threads(before)
    return method


@pytest.mark.parametrize("short", [0, 2])
def test_progress_never_passes_its_end(short: int) -> None:
    """More semifinalists than candidates: shared weights look at all of them."""
    seen: list[tuple[int, int]] = []
    config = replace(CONFIG, candidates=1, semifinalists=6, semifinal_steps=short, finalists=1, proxy_steps=1)
    search(SMALL, DATA, MacCost(), BUDGETS, config, seed=7,
           on_step=lambda step: seen.append((step["done"], step["total"])))  # fmt: skip
    assert all(done <= total for done, total in seen)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(("names", "better"), [(("macs",), max), (("parameters",), max)])
def test_the_first_cut_keeps_what_the_proxies_rank_best(monkeypatch, names, better):
    pools = []

    def look(paths, wanted, *rest):
        pools.append((list(paths), wanted))
        return shortlist(paths, wanted, *rest)

    shortlist = progressive.shortlist
    monkeypatch.setattr(progressive, "shortlist", look)
    method = searched(replace(CONFIG, selection=SelectionConfig(names, pool=4)))
    (pool, wanted), cut, judge = pools[0], method.selection.cut, method.judge
    assert len(set(pool)) == len(pool) > 2 * wanted and all(judge.feasible(p) for p in pool)
    assert len(cut) == wanted == first_cut_size(CONFIG) and set(cut) <= set(pool)
    size = {p: judge.macs(p) if names == ("macs",) else judge.exact(p).parameters for p in pool}
    best = sorted(size.values(), reverse=True)[:wanted]
    # The last place may be the most probable architecture's.
    assert [size[p] for p in cut[:-1]] == best[:-1]
    assert method.selection.scored.keys() >= set(cut)


def test_without_proxies_the_first_cut_is_the_most_probable_and_a_draw_of_the_rest():
    second = []
    for seed in range(6):
        method = searched(replace(CONFIG, selection=SelectionConfig(proxies=())), seed)
        judge, cut = method.judge, method.selection.cut
        rng = np.random.default_rng(0)  # the first draw is the most probable, whatever the numbers
        assert cut[0] == starting_paths(judge, method.relaxation, CONFIG.temperature_end, 1, rng)[0][0]
        second.append(cut[1] in cheapest_paths(judge).values())
    assert not all(second)


def test_what_the_first_cut_saw_is_kept_and_compared_with_what_followed():
    names = ("macs", "naswot")
    method = searched(replace(CONFIG, selection=SelectionConfig(names, pool=4)))
    result = method._result(method.selection.ranked()[0], "")
    cut = {method.judge.architecture(path): path for path in method.selection.cut}
    net = Supernet(SMALL, method.task.seed)
    rng = method.task.rng(progressive._LOOK)
    batch = draw_batch(DATA.x_train, DATA.y_train, CONFIG.batch_size, rng)
    assert len(cut) >= FEWEST
    for candidate in result.candidates:
        path = cut.get(candidate.architecture)
        if path is not None:
            assert candidate.proxies == score(names, net, path, batch)
    again = SearchResult.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert again == result
    ranks = search_section(again, seconds=1.0, space_size=1)["ranks"]
    found = {(a["first"], a["second"]): a for a in ranks}
    for first in ("naswot, untrained", "first cut (macs, naswot: mean rank)"):
        pair = found[first, "shared weights"]
        assert pair["n"] == sum(len(c.proxies) == 2 for c in result.candidates) >= len(cut)
        assert pair["low"] <= pair["tau"] <= pair["high"]


def test_a_proxy_without_a_number_is_no_score():
    path = ((0, 0), (0, 0), (0, 0))
    judge = Judge(build_tables(SMALL, MacCost()), MacCost(), BUDGETS)
    selection = Selection({path: 0.5}, looks={path: {"macs": 3.0, "naswot": -math.inf}})
    assert selection.candidates(judge, CONFIG)[0].proxies == {"macs": 3.0}


def test_the_pool_spends_what_the_budgets_leave():
    judge = Judge(build_tables(SMALL, MacCost()), MacCost(), BUDGETS)
    drawn = uniform_paths(judge, 12, np.random.default_rng(0))
    assert len(set(drawn)) == 12 and all(judge.feasible(p) for p in drawn)
    grown = [grow(judge, p, np.random.default_rng(1)) for p in drawn]
    assert all(
        judge.feasible(g) and judge.macs(g) >= judge.macs(p) for p, g in zip(drawn, grown, strict=True)
    )
    assert sum(map(judge.macs, grown)) > sum(map(judge.macs, drawn))
    assert judge.macs(drawn[0]) == lower(judge.architecture(drawn[0])).macs


def test_rounds_share_the_places():
    for count, rounds in ((1, 3), (7, 3), (12, 3), (5, 1)):
        config = replace(TINY, semifinalists=count, selection=SelectionConfig(rounds=rounds))
        assert sum(places(config)) == count and len(places(config)) == min(rounds, count)
        assert max(places(config)) - min(places(config)) <= 1
        assert first_cut_size(config) >= places(config)[0]


def test_half_of_the_first_round_are_the_shared_weights_choice_if_they_have_a_say():
    a, b, c, d, e = (((0, 0), (op, 0)) for op in range(5))
    selection = Selection({a: 0.1, b: 0.2, c: 0.3, d: 0.9, e: 0.8})
    assert first_round(selection, [a, b, c, d, e], 4) == [a, b, d, e]
    assert first_round(selection, [d, e, a], 3) == [d, e, a]
    assert first_round(selection, [a, b, c, d, e], 4, shared=False) == [a, b, c, d]


@pytest.mark.parametrize("shared", [False, True])
def test_contests_start_from_scratch_unless_the_semifinal_is_to_inherit(shared: bool):
    config = replace(CONFIG, selection=SelectionConfig(shared=shared))
    method, seen = searched(config), []
    path = method.selection.cut[0]

    def note(net, *_args, **_kwargs):
        seen.append(net)
        return Trained(0.5)

    with mock.patch.object(edgenas, "train_alone", note):
        validation = Validation.of(DATA, 10, 0)
        method._contest("semifinal", [path], {}, 1, 0, validation)
        method._contest("final", [path], {}, 1, 0, validation)
    fresh = Supernet(SMALL, method.task.seed).state_dict()
    inherited = [
        any(not torch.equal(value, fresh[name]) for name, value in net.state_dict().items()) for net in seen
    ]
    assert inherited == [shared, False]


@pytest.mark.parametrize("method", ["hypernetwork", "hwdarts"])
def test_of_equally_accurate_members_the_largest_wins(method: str):
    with mock.patch.object(edgenas, "train_alone", lambda *_args, **_kwargs: Trained(0.5)):
        result = search(SMALL, DATA, MacCost(), BUDGETS, replace(CONFIG, method=method), seed=7)
    sizes = [lower(c.architecture).macs for c in result.candidates if c.proxy_accuracy is not None]
    assert len(set(sizes)) > 1 and sizes == sorted(sizes, reverse=True)
    assert result.architecture == result.candidates[0].architecture


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", [HyperSearch, HwDarts])
def test_members_of_a_front_start_as_the_contests_do(kind: type[EdgeNas], shared: bool):
    name = {HyperSearch: "hypernetwork", HwDarts: "hwdarts"}[kind]
    config = replace(CONFIG, method=name, selection=SelectionConfig(shared=shared))
    task = Task.prepare(SMALL, DATA, one_board(MacCost(), BUDGETS), config, 7, None, None)
    fresh, inherited = Supernet(SMALL, task.seed).state_dict(), []

    def note(net, *_args, **_kwargs):
        state = net.state_dict()
        inherited.append(any(not torch.equal(value, fresh[name]) for name, value in state.items()))
        return Trained(0.5)

    with mock.patch.object(edgenas, "train_alone", note):
        kind(task).run()
    assert inherited and set(inherited) == {shared}


def test_children_are_new_and_come_from_the_best():
    judge = Judge(build_tables(SMALL, MacCost()), MacCost(), Budgets())
    rng = np.random.default_rng(3)
    paths = [judge.path(SMALL.random(rng)) for _ in range(8)]
    selection = Selection(dict.fromkeys(paths, 0.1), {p: i / 10 for i, p in enumerate(paths)})
    found = children(selection, judge, 10, lambda _: 0.0, rng)
    assert len(set(found)) == len(found) == 10 and not set(found) & set(paths)

    def apart(p, q) -> int:
        return sum(x != y for x, y in zip(p, q, strict=True))

    assert all(min(apart(child, parent) for parent in paths[-3:]) <= 2 for child in found[::2])
    # A bonus can turn the order round.
    turned = children(selection, judge, 10, lambda p: -2 * selection.tried[p], rng)
    assert all(min(apart(child, parent) for parent in paths[:3]) <= 2 for child in turned[::2])


def test_children_do_not_depend_on_which_training_ended_first():
    """Side by side, trainings end in any order; of equals the one that entered first is the parent."""
    judge = Judge(build_tables(SMALL, MacCost()), MacCost(), Budgets())
    paths = uniform_paths(judge, 8, np.random.default_rng(0))
    looked = dict.fromkeys(paths, 0.1)
    found = [
        children(
            Selection(looked, dict.fromkeys(ended, 0.5), rounds=[paths[:4], paths[4:]]),
            judge, 10, lambda _: 0.0, np.random.default_rng(3),
        )
        for ended in (paths, paths[::-1])
    ]  # fmt: skip
    assert found[0] == found[1]


def test_children_are_new_as_networks():
    """Of a space of 4 networks the one that is left, though 5 choices were never looked at."""
    space = SearchSpace((8, 8, 1), 4, 8, 1, (1, 1, 1), ("dw3", "skip"), (8,))
    judge = Judge(build_tables(space, MacCost()), MacCost(), Budgets())
    block, skip = (0, 0), (1, 0)
    known = [(block, skip, skip), (block, skip, block), (skip, skip, skip)]
    assert judge.network(known[0]) == judge.network((skip, skip, block)) != judge.network(known[1])
    assert judge.distinct([*known, (skip, block, skip)]) == known
    selection = Selection(dict.fromkeys(known, 0.1), dict.fromkeys(known, 0.5))
    assert children(selection, judge, 4, lambda _: 0.0, np.random.default_rng(0)) == [(block, block, block)]


def test_every_second_child_is_grown_into_its_budgets():
    judge = Judge(build_tables(SMALL, MacCost()), MacCost(), BUDGETS)
    paths = uniform_paths(judge, 4, np.random.default_rng(0))
    selection, grown = Selection(dict.fromkeys(paths, 0.1), dict.fromkeys(paths, 0.5)), []

    def note(judge, path, rng):
        larger = grow(judge, path, rng)
        grown.append((path, larger))
        return larger

    with mock.patch.object(selecting, "grow", note):
        found = children(selection, judge, 10, lambda _: 0.0, np.random.default_rng(3))
    assert len(found) == 10 and all(judge.feasible(p) for p in found)
    assert set(found[1::2]) <= {larger for _, larger in grown}
    assert sum(judge.macs(larger) > judge.macs(path) for path, larger in grown) > len(grown) / 2


def test_each_round_starts_from_what_trained_before():
    method = searched(CONFIG)
    selection = method.selection
    assert [len(r) for r in selection.rounds] == places(CONFIG) == [2, 2, 2]
    entered = [p for paths in selection.rounds for p in paths]
    assert set(entered) == set(selection.tried) and len(set(entered)) == CONFIG.semifinalists
    assert len(selection.scored) == CONFIG.candidates
    assert set(selection.rounds[0]) <= set(selection.cut)
    assert set(selection.proxied) <= set(selection.tried) and len(selection.proxied) == CONFIG.finalists


@pytest.mark.parametrize("names", [(), ("macs",), ("naswot",), ("macs", "synflow", "gradient_norm")])
def test_the_plan_covers_what_the_looks_cost(names):
    config = replace(CONFIG, selection=SelectionConfig(names))
    with Meter() as spent:
        searched(config)
    planned = edgenas_passes(config, len(DATA.x_val))
    assert 0.8 * planned < spent.passes <= planned
    free = edgenas_passes(replace(config, selection=SelectionConfig(())), len(DATA.x_val))
    assert (planned > free) == bool({"naswot", "synflow", "gradient_norm"} & set(names))


def test_the_same_seed_gives_the_same_search_and_a_restart_between_rounds_changes_nothing(tmp_path):
    config = replace(CONFIG, checkpoint_seconds=1e-9)
    straight = search(SMALL, DATA, MacCost(), BUDGETS, config, seed=3)
    assert search(SMALL, DATA, MacCost(), BUDGETS, config, seed=3).to_json() == straight.to_json()

    class Stop(Exception):
        pass

    # Stopped while each semifinalist trains, so once at least in every round.
    trained, path = 0, tmp_path / "search.pt"
    for _ in range(60):

        def stop(record) -> None:
            nonlocal trained
            if record["phase"] == "semifinal":
                trained += 1
                if trained % 3 == 0:
                    raise Stop

        try:
            resumed = search(SMALL, DATA, MacCost(), BUDGETS, config, seed=3, checkpoint=path, on_step=stop)
            break
        except Stop:
            continue
    assert trained > 6
    assert json.dumps(resumed.to_json()) == json.dumps(straight.to_json())


def test_states_of_before_the_rounds_can_still_be_read():
    path = ((0, 0), (1, 1))
    state = {"scored": [([[0, 0], [1, 1]], 0.5)], "tried": [], "proxied": []}
    assert Selection.from_state(state) == Selection({path: 0.5})
    whole = Selection({path: 0.5}, {path: 0.6}, {}, [path], [[path]], {path: {"macs": 9.0, "naswot": -1.5}})
    assert Selection.from_state(whole.state()) == whole


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"proxies": ("magic",)}, r"selection\.proxies has 'magic'"),
        ({"pool": 0}, r"selection\.pool"),
        ({"rounds": 1.5}, r"selection\.rounds"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(raw, says):
    with pytest.raises(ConfigError, match=says):
        SelectionConfig(**raw)
