"""Search in cell spaces: exact costs, hard budgets, resuming, determinism."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from search_standins import DATA, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.runfile import load_runfile
from pipeline.search import SearchResult, cell_hypersearch, search
from pipeline.search.cell_baselines import CellEvolution
from pipeline.search.cell_costs import CellJudge, CellTables
from pipeline.search.cell_hypernetwork import expected_cost
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.costs import exact_cost
from pipeline.search.effort import affordable_cell_trainings, cell_passes
from pipeline.search.hwdartsconfig import HwDartsConfig
from pipeline.search.settings import CELL_METHODS, refused_for_cells
from pipeline.search.targets import one_board
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace

SPACE = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)
COST = MacCost()
ANY = Budgets()
CONFIG = replace(TINY, method="hypernetwork")


class Interruption(Exception):
    pass


def costs() -> list:
    rng = np.random.default_rng(1)
    return [exact_cost(COST, SPACE.random(rng)) for _ in range(60)]


def run(method: str = "hypernetwork", budgets: Budgets = ANY, **options) -> SearchResult:
    return search(SPACE, DATA, COST, budgets, replace(CONFIG, method=method), seed=5, **options)


@pytest.mark.parametrize("seed", range(4))
def test_relaxed_latency_is_exact_where_choices_are_one_hot(seed: int) -> None:
    tables = CellTables.of(SPACE, COST)
    path = SPACE.random_path(np.random.default_rng(seed))
    gamma = torch.nn.functional.one_hot(torch.tensor(path), 3).double()
    exact = exact_cost(COST, SPACE.build(path))
    relaxed = expected_cost(tables, gamma)
    assert float(relaxed.latency_ms) == pytest.approx(exact.latency_ms, rel=1e-9)
    assert float(relaxed.parameters) == pytest.approx(exact.parameters, rel=1e-12)
    weights = tables.weights_fixed + tables.weights[np.arange(len(path)), path].sum()
    assert weights == exact.parameters


def test_a_path_is_what_one_hot_gates_compute() -> None:
    net, path = CellSupernet(SPACE, 0), SPACE.random_path(np.random.default_rng(2))
    x = torch.rand(6, 1, 8, 8)
    gates = torch.nn.functional.one_hot(torch.tensor(path), 3).float()
    assert torch.allclose(net(x, path), net(x, gates), atol=1e-5)


@pytest.mark.parametrize("method", CELL_METHODS)
@pytest.mark.parametrize("name", ["latency_ms", "sram_bytes", "flash_bytes", "parameters", "energy_mj"])
def test_budgets_are_hard(method: str, name: str) -> None:
    values = sorted(getattr(c, name) for c in costs())
    budgets = Budgets(**{name: values[len(values) // 5]})
    result = run(method, budgets)
    assert result.feasible and result.candidates
    for candidate in result.candidates:
        assert candidate.cost == exact_cost(COST, candidate.architecture)
        assert not budgets.violations(candidate.cost)


def test_impossible_budgets_are_named() -> None:
    result = run(budgets=Budgets(parameters=10))
    assert not result.feasible and "parameters" in result.reason and result.architecture is None
    result = run(budgets=Budgets(energy_mj=1e-5))
    assert not result.feasible and "energy" in result.reason and "latency" not in result.reason


def test_repair_replaces_edges_until_it_fits() -> None:
    least = exact_cost(COST, SPACE.build((2,) * SPACE.positions))
    budgets = Budgets(latency_ms=1.3 * least.latency_ms, sram_bytes=least.sram_bytes)
    judge = CellJudge(CellTables.of(SPACE, COST), COST, budgets)
    assert judge.violation((0,) * SPACE.positions) > 0
    assert judge.feasible(judge.repair((0,) * SPACE.positions, np.zeros((SPACE.positions, 3))))


@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("hypernetwork", 5),
        ("hypernetwork", 12),
        ("random", 7),
        ("evolution", 4),
        ("evolution", 14),
        ("hwdarts", 3),
        ("hwdarts", 9),
        ("hwdarts", 14),
        ("hwdarts", 22),
    ],
)
def test_resumed_search_equals_the_uninterrupted_one(method: str, at: int, tmp_path) -> None:
    whole = run(method)
    options = {"checkpoint": tmp_path / "c.pt"}

    def stop(progress) -> None:
        if progress["done"] == at:
            raise Interruption

    config = replace(CONFIG, method=method, checkpoint_seconds=1e-9)
    with pytest.raises(Interruption):
        search(SPACE, DATA, COST, Budgets(), config, seed=5, on_step=stop, **options)
    assert (tmp_path / "c.pt").is_file()
    first = []
    again = search(
        SPACE, DATA, COST, Budgets(), config, seed=5, on_step=lambda p: first.append(p["done"]), **options
    )
    assert first[0] > 1
    assert again == whole
    assert SearchResult.from_json(again.to_json()) == again


@pytest.mark.parametrize(
    ("poisoned", "where"),
    [
        ("stem", "the stem"),
        ("widen.1", "cell 2, the convolution before it"),
        ("depthwise.1", "cell 1, the input to node 2 (conv)"),
        ("pointwise.5", "cell 2, node 1 to node 2 (conv)"),
        ("classifier_bias", "the classifier"),
    ],
)
@pytest.mark.parametrize("gates", [False, True])
def test_first_nonfinite_names_the_poisoned_layer(poisoned: str, where: str, gates: bool) -> None:
    net, x = CellSupernet(SPACE, 0), torch.rand(6, 1, 8, 8)
    choice = torch.full((SPACE.positions, 3), 1 / 3) if gates else (0,) * SPACE.positions
    assert net.first_nonfinite(x, choice) == ""
    with torch.no_grad():
        net.get_parameter(poisoned).fill_(float("nan"))
    assert net.first_nonfinite(x, choice) == where
    assert net.first_nonfinite(x * float("nan"), choice) == "the images"
    assert net.first_nonfinite(x, torch.full((SPACE.positions, 3), float("nan"))) == "the hypernetwork"


def test_a_contest_whose_last_step_diverges_is_no_result() -> None:
    with pytest.raises(ConfigError, match="diverged"):
        search(
            SPACE, DATA, COST, ANY, replace(CONFIG, method="random", proxy_steps=1, weight_lr=3e37), seed=5
        )


def test_a_hypernetwork_that_diverges_is_named() -> None:
    wild = replace(CONFIG, hyper=replace(CONFIG.hyper, lr=3e37))
    with pytest.raises(ConfigError, match="hypernetwork") as error:
        search(SPACE, DATA, COST, ANY, wild, seed=5)
    assert "search.hyper.lr" in (error.value.hint or "")


def test_a_loss_that_the_conditions_make_infinite_is_not_blamed_on_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    regular = cell_hypersearch.regularizer
    monkeypatch.setattr(cell_hypersearch, "regularizer", lambda *asked: regular(*asked) * float("inf"))
    with pytest.raises(ConfigError, match="first in what chooses among the operators") as error:
        search(SPACE, DATA, COST, ANY, CONFIG, seed=5)
    assert "search.hyper.lr" in (error.value.hint or "")


def test_a_setting_that_only_the_other_method_reads_is_refused() -> None:
    config = replace(CONFIG, method="random", hyper=replace(CONFIG.hyper, kappa=0.3))
    with pytest.raises(ConfigError, match=r"search\.hyper\.kappa has no effect with method 'random'"):
        search(SPACE, DATA, COST, ANY, config, seed=5)


def test_blocks_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match="cell spaces"):
        run("edgenas")


IGNORED = {
    "method": "edgenas", "workers": 2,
    "proxies.names": ("macs",), "selection.rounds": 2, "sharing.sandwich": 1, "ablation.adaptive": False,
}  # fmt: skip


@pytest.mark.parametrize("key", IGNORED)
@pytest.mark.parametrize("method", CELL_METHODS)
def test_a_setting_that_cells_cannot_follow_is_refused(key: str, method: str, tmp_path: Path) -> None:
    table, _, name = key.rpartition(".")
    config, value = replace(CONFIG, method=method), IGNORED[key]
    inner = replace(getattr(config, table), **{name: value}) if table else value
    config = replace(config, **{table or name: inner})
    refused = table or key
    with pytest.raises(ConfigError, match=rf"search\.{refused} .*cell") as error:
        search(SPACE, DATA, COST, ANY, config, seed=5)
    assert error.value.hint
    # A run file is refused with the line, before anything is done.
    text = json.dumps(list(value) if isinstance(value, tuple) else value)
    path = tmp_path / "a.toml"
    head = 'name = "a"\nboard = "qemu-cortex-m4"\n[space]\nkind = "cells"\n[budgets]\nlatency_ms = 50.0\n'
    section = f"[search.{table}]\n" if table else ""
    chosen = "" if key == "method" else f'method = "{method}"\n'
    path.write_text(f"{head}[search]\n{chosen}{section}{name} = {text}\n")
    with pytest.raises(ConfigError, match=rf"a\.toml:\d+: 'search\.{refused}' .*cell"):
        load_runfile(path)


def test_settings_that_make_no_difference_are_taken() -> None:
    assert refused_for_cells(replace(CONFIG, mu=0.3, finalists=1, threads=2)) is None


@pytest.mark.parametrize("ops", [("conv", "pool", "identity"), ("conv", "identity")])
def test_all_methods_cost_the_same(ops: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    space = replace(SPACE, ops=ops)
    counted, apply = [0], CellSupernet._apply_op

    def counting(net: CellSupernet, edge: int, x: torch.Tensor, op: str) -> torch.Tensor:
        counted[0] += len(x) * (3 if torch.is_grad_enabled() else 1)
        return apply(net, edge, x, op)

    monkeypatch.setattr(CellSupernet, "_apply_op", counting)
    config = replace(CONFIG, steps=20)
    passes = {}
    for method in CELL_METHODS:
        counted[0] = 0
        own = {"hwdarts": HwDartsConfig((0.0, 1.0))} if method == "hwdarts" else {}
        result = search(space, DATA, COST, ANY, replace(config, method=method, **own), seed=5)
        passes[method] = counted[0] / space.positions
        if method in ("random", "evolution"):
            wanted = affordable_cell_trainings(config, len(ops), len(DATA.x_val))
            assert len(result.candidates) == len(result.history) == wanted > 4
    one = 3 * config.batch_size * config.proxy_steps + len(DATA.x_val)
    assert passes["hypernetwork"] == cell_passes(config, len(ops), len(DATA.x_val))
    assert 0 <= passes["hypernetwork"] - passes["random"] < one
    assert passes["evolution"] == passes["random"]
    # of a small space several lambdas may give one path, which trains once
    assert 0.8 < passes["hwdarts"] / passes["hypernetwork"] <= 1


def test_a_baselines_course_is_the_best_so_far_against_its_cost() -> None:
    result = run("evolution")
    own = [record["own_accuracy"] for record in result.history]
    assert sorted(own) == sorted(c.proxy_accuracy for c in result.candidates)
    assert [record["best_accuracy"] for record in result.history] == [
        max(own[: n + 1]) for n in range(len(own))
    ]
    one = 3 * CONFIG.batch_size * CONFIG.proxy_steps + len(DATA.x_val)
    assert [record["passes"] for record in result.history] == [n * one for n in range(1, len(own) + 1)]


def test_a_mutation_changes_one_edge_and_reaches_every_operator() -> None:
    method = CellEvolution(
        SPACE,
        DATA,
        one_board(COST, ANY),
        replace(CONFIG, method="evolution"),
        0,
        None,
        None,
        torch.device("cpu"),
    )
    rng, path = np.random.default_rng(0), (1,) * SPACE.positions
    seen = set()
    for _ in range(200):
        other = method.mutated(path, rng)
        (changed,) = np.flatnonzero(np.not_equal(path, other))
        seen.add((int(changed), other[changed]))
    assert len(seen) == 2 * SPACE.positions


def test_children_come_from_a_population_whose_oldest_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, method="evolution", steps=20, population=3, tournament=2)
    parents, mutated = [], CellEvolution.mutated
    trained: list[list] = []

    def watching(self: CellEvolution, path, rng):
        if not parents or parents[-1][0] != len(self.asked):
            parents.append((len(self.asked), path))
            trained.append(list(self.asked))
        return mutated(self, path, rng)

    monkeypatch.setattr(CellEvolution, "mutated", watching)
    search(SPACE, DATA, COST, ANY, config, seed=5)
    assert len(parents) > 4
    for (_, parent), asked in zip(parents, trained, strict=True):
        assert parent in asked[-3:]


def test_run_file_gives_the_published_space() -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist_cells.toml"
    space = load_runfile(example).space
    assert space.build((28, 28, 1), 10) == CellSpace((28, 28, 1), 10)
    with pytest.raises(ConfigError, match="exits"):
        replace(space, exits=(0,)).build((28, 28, 1), 10)
