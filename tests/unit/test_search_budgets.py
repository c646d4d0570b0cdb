"""Budgets are hard: a hundred searches with random budgets and seeds, checked against the whole space."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from search_standins import DATA, SEARCHES, SMALL, TINY, MacCost

from pipeline.search import search
from pipeline.search.candidates import UNITS
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.settings import read_by
from pipeline.space import Budgets, Cost, lower, parameters

RUNS = 100
QUICK = replace(TINY, warmup_steps=1, steps=2, batch_size=8, candidates=4, ranking_images=20, semifinalists=1,
                semifinal_steps=1, finalists=1, proxy_steps=2, hyper=HyperConfig(family=4))  # fmt: skip
LABELS = {label for _unit, label in UNITS.values()}


@pytest.fixture(scope="module")
def everything() -> list[Cost]:
    """The exact cost of every architecture of the space."""
    cost = MacCost()
    drawn = (SMALL.build(choice) for choice in itertools.product(SMALL.options, repeat=len(SMALL.strides)))
    return [cost.evaluate(lower(a), parameters(a)) for a in drawn]


def random_budgets(rng: np.random.Generator, everything: list[Cost]) -> Budgets:
    """Each budget is absent, or at a random quantile of the space; some lie below its smallest network."""
    limits: dict[str, float | int] = {}
    for field in fields(Budgets):
        if rng.random() < 0.25:
            continue
        values = np.array([getattr(c, field.name) for c in everything])
        limit = float(np.quantile(values, rng.random() ** 2)) * rng.uniform(0.97, 1.1)
        limits[field.name] = limit if field.name in ("latency_ms", "energy_mj") else int(limit)
    return Budgets(**limits)


def test_no_run_breaks_a_budget_and_failures_name_the_tightest(everything):
    met = 0
    for number in range(RUNS):
        rng = np.random.default_rng([number, 0xB0D])
        budgets, method = random_budgets(rng, everything), SEARCHES[number % len(SEARCHES)]
        result = search(SMALL, DATA, MacCost(), budgets, read_by(QUICK, method), seed=number)
        possible = any(not budgets.violations(c) for c in everything)
        case = f"run {number}, {method}, {budgets}: {result.reason}"
        if result.feasible:
            met += 1
            exact = MacCost().evaluate(lower(result.architecture), parameters(result.architecture))
            assert budgets.violations(exact) == {}, case
            assert all(budgets.violations(c.cost) == {} for c in result.candidates), case
            continue
        assert result.architecture is None and any(label in result.reason for label in LABELS), case
        # The fixed family may fail where the space has something; a search may not.
        assert method == "mobilenetv2" or not possible, case
        for name in fields(Budgets):
            limit, label = getattr(budgets, name.name), UNITS[name.name][1]
            if limit is not None and limit < min(getattr(c, name.name) for c in everything):
                # a latency limit that lies above the energy budget's is not the one that is broken
                implied = (budgets.energy_mj or np.inf) / MacCost().mj_per_ms
                assert label in result.reason or (label == "latency" and implied <= limit), case
    assert RUNS / 4 < met < RUNS, "the budgets must be neither trivial nor hopeless"
