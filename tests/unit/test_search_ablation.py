"""EdgeNAS without one of its parts: the part is really off, and budgets hold all the same."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.search import edgenas, search
from pipeline.search.ablation import AblationConfig, MacProxy
from pipeline.search.penalty import Penalty
from pipeline.search.relaxation import Expected
from pipeline.space import Budgets, lower, parameters
from pipeline.space.opspec import OpSpec


class ByteCost(MacCost):
    """A board where moving bytes is what takes time: multiply-accumulates tell little of it."""

    def op_latency_ms(self, op: OpSpec) -> float:
        return (0.2 * op.macs + 60 * op.out_bytes) / 168e3


def test_what_is_switched_off_is_off() -> None:
    budgets = Budgets(latency_ms=1.0, parameters=2000)
    off = replace(TINY, ablation=AblationConfig(latency_penalty=False))
    assert set(Penalty.start(budgets, off).limits) == {"parameters"}
    fixed = replace(TINY, ablation=AblationConfig(adaptive=False))
    broken = Expected(*(torch.tensor(v) for v in (2.0, 0.0, 0.0, 3000.0)))
    for config, moves in ((fixed, False), (TINY, True)):
        penalty = Penalty.start(budgets, config)
        before = penalty.record()
        penalty.update(broken)
        assert all((after > before[name]) == moves for name, after in penalty.record().items())
    with pytest.raises(ConfigError, match=r"ablation\.guide"):
        AblationConfig(guide="flops")


def test_without_the_penalty_the_relaxation_stays_slower() -> None:
    """From a start beyond the limit: the penalty brings the answer below it, the data alone do not."""
    budgets = Budgets(latency_ms=0.6)
    config = replace(TINY, steps=80, architecture_lr=0.1)
    free = replace(config, ablation=AblationConfig(latency_penalty=False))
    with mock.patch.object(edgenas, "anchor_path", lambda judge: ((SMALL.ops.index("ir6"), 1),) * 3):
        bound, unbound = (search(SMALL, DATA, MacCost(), budgets, c, seed=0) for c in (config, free))
    assert bound.relaxed is not None and unbound.relaxed is not None
    assert bound.relaxed.cost.latency_ms <= 0.6 * 1.1 < 0.6 * 1.5 < unbound.relaxed.cost.latency_ms
    assert unbound.cost is not None and unbound.cost.latency_ms <= 0.6


def test_the_proxy_is_a_line_through_multiply_accumulates() -> None:
    proxy, rng = MacProxy(MacCost(), SMALL, 0), np.random.default_rng(3)
    for _ in range(20):
        graph = lower(SMALL.random(rng))
        total = sum(proxy.op_latency_ms(node.op) for node in graph.nodes) + proxy.overhead_ms
        cost = proxy.evaluate(graph, 17)
        assert cost.latency_ms == pytest.approx(total)
        exact = MacCost().evaluate(graph, 17)
        assert (cost.sram_bytes, cost.flash_bytes, cost.parameters) == (
            exact.sram_bytes, exact.flash_bytes, 17,
        )  # fmt: skip
        assert cost.latency_ms == pytest.approx(exact.latency_ms, rel=0.6)


@pytest.mark.parametrize("seed", range(4))
def test_guided_by_macs_budgets_are_still_those_of_the_table(seed: int) -> None:
    cost, config = ByteCost(), replace(TINY, ablation=AblationConfig(guide="macs"))
    drawn = SMALL.random(np.random.default_rng(seed))
    budgets = Budgets(latency_ms=cost.evaluate(lower(drawn), 0).latency_ms)
    result = search(SMALL, DATA, cost, budgets, config, seed=seed)
    assert result.feasible and "candidates broke a budget" in result.notes[-1]
    finalists = [c for c in result.candidates if c.proxy_steps == TINY.proxy_steps]
    assert len(finalists) >= TINY.finalists
    assert result.architecture == result.candidates[0].architecture
    assert result.candidates[0] in finalists and result.candidates[0].proxy_accuracy is not None
    assert all(c.shared_accuracy is not None for c in result.candidates)
    for candidate in result.candidates:
        exact = cost.evaluate(lower(candidate.architecture), parameters(candidate.architecture))
        assert candidate.cost == exact and not budgets.violations(exact)
    again = search(SMALL, DATA, cost, budgets, replace(config, workers=2), seed=seed)
    assert again.to_json() == result.to_json()
    assert result.relaxed is not None
    assert result.relaxed.cost == cost.evaluate(
        lower(result.relaxed.architecture), parameters(result.relaxed.architecture)
    )
