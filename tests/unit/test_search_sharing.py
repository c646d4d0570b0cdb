"""Weights that start near the identity, and contests whose accuracies are corrected for size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.search import search
from pipeline.search.selection import Selection
from pipeline.search.sharingconfig import SharingConfig
from pipeline.search.supernet import Supernet
from pipeline.space import Budgets, lower
from pipeline.space.search_space import SearchSpace

SPACE = SearchSpace((8, 8, 1), 4, 16, 1, (1,), channels=(8, 16, 24))
X = torch.rand(32, 16, 8, 8, generator=torch.Generator().manual_seed(3))


def normal(x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize("op", ["dw3", "dw5", "dw7"])
def test_a_block_of_large_identity_passes_its_input_through_its_nonlinearities(op: str) -> None:
    block = Supernet(SPACE, 0, identity=1e5).blocks[0]
    expected = F.relu6(normal(F.relu6(normal(X))))
    torch.testing.assert_close(block(X, op, 16), expected, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(block(X, op, 8), expected[:, :8], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(block(X, op, 24)[:, :16], expected, atol=2e-3, rtol=1e-3)


def test_so_do_the_inverted_residuals() -> None:
    block = Supernet(SPACE, 0, identity=1e5).blocks[0]
    expected = normal(F.relu6(normal(F.relu6(normal(X)))))
    for op in ("ir2", "ir4", "ir6"):
        torch.testing.assert_close(block(X, op, 16), X + expected, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(block(X, op, 8), expected[:, :8], atol=2e-3, rtol=1e-3)


def test_a_moderate_identity_makes_the_choices_of_a_block_alike() -> None:
    def likeness(identity: float) -> float:
        block = Supernet(SPACE, 1, identity=identity).blocks[0]
        with torch.no_grad():
            plain, inverted = block(X, "dw3", 16), block(X, "ir4", 8)[:, :8]
        pairs = zip(plain[:, :8].transpose(0, 1), inverted.transpose(0, 1), strict=True)
        return sum(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) for a, b in pairs) / 8

    unrelated, near = likeness(0.0), likeness(2.0)
    assert abs(unrelated) < 0.2 and near > unrelated + 0.2


def test_no_identity_is_the_random_start_and_spaces_without_an_operator_family_have_none() -> None:
    plain, none = Supernet(SPACE, 5), Supernet(SPACE, 5, identity=0.0)
    for a, b in zip(plain.parameters(), none.parameters(), strict=True):
        assert torch.equal(a, b)
    for ops in (("dw3", "skip"), ("ir2",)):
        narrow = Supernet(replace(SPACE, ops=ops), 0, 2.0)
        assert narrow(torch.rand(2, 1, 8, 8), [(0, 1)]).shape == (2, 4)


def test_a_bonus_orders_contestants_and_nothing_else() -> None:
    small, large, unproven = ((0, 0),), ((0, 1),), ((1, 1),)
    selection = Selection({small: 0.1, large: 0.2, unproven: 0.9}, {small: 0.50, large: 0.49})
    size = {small: 1.0, large: 2.0, unproven: 9.0}
    assert selection.ranked() == [small, large, unproven]
    assert selection.ranked(lambda path: 0.02 * size[path]) == [large, small, unproven]


@pytest.mark.parametrize(("capacity", "identity"), [(0.0, 0.0), (0.02, 2.0), (10.0, 0.0)])
def test_the_winner_has_the_best_accuracy_corrected_for_its_size(capacity: float, identity: float) -> None:
    config = replace(TINY, sharing=SharingConfig(identity, capacity))
    result = search(SMALL, DATA, MacCost(), Budgets(), config, seed=2)
    final = [c for c in result.candidates if c.proxy_steps == config.proxy_steps]
    merits = [(c.proxy_accuracy or 0) + capacity * math.log2(lower(c.architecture).macs) for c in final]
    assert len(final) == config.finalists and merits == sorted(merits, reverse=True)
    assert result.architecture == final[0].architecture
    if capacity == 10.0:
        tried = [c for c in result.candidates if c.proxy_steps]
        assert lower(final[0].architecture).macs == max(lower(c.architecture).macs for c in tried)


@pytest.mark.parametrize("name", ["identity", "capacity"])
@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, "2", True])
def test_settings_without_meaning_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"search.sharing.{name}"):
        SharingConfig(**{name: value})  # type: ignore[arg-type]
