"""Searches where the images are not where tensors are made: nothing may be left on the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from placed import Placed, watch_arrays_and_parameters
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.search import device, search
from pipeline.search.device import _Resident
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.proxies import PROXIES
from pipeline.search.proxyconfig import ProxyConfig
from pipeline.search.sharingconfig import SharingConfig
from pipeline.space import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace

EVERY_PROXY = ProxyConfig(names=tuple(PROXIES), pool=2)


CELLS = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)


@pytest.mark.parametrize(
    ("space", "method", "settings"),
    [
        (SMALL, "edgenas", {}),
        (SMALL, "edgenas", {"gradient": "straight-through"}),
        (SMALL, "edgenas", {"sharing": SharingConfig(sandwich=1)}),
        (SMALL, "random", {"proxies": EVERY_PROXY}),
        (SMALL, "evolution", {}),
        (SMALL, "mobilenetv2", {}),
        (SMALL, "hwdarts", {}),
        (SMALL, "hypernetwork", {"hyper": HyperConfig(hidden=8, family=2)}),
        (CELLS, "random", {}),
        (CELLS, "evolution", {}),
        (CELLS, "hypernetwork", {"hyper": HyperConfig(hidden=8, family=2)}),
    ],
)
def test_no_tensor_is_left_on_the_host(
    space: SearchSpace | CellSpace, method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def resident(data: Any, where: torch.device) -> _Resident:
        """As for a GPU."""
        names = ("x_train", "y_train", "x_val", "y_val")
        return _Resident(*(torch.as_tensor(getattr(data, name)).to(where) for name in names))

    monkeypatch.setattr(device, "resident", resident)
    with Placed() as mode:
        watch_arrays_and_parameters(mode, monkeypatch)
        found = search(space, DATA, MacCost(), Budgets(), replace(TINY, method=method, **settings), seed=0)
    assert found.feasible
    assert len(mode.kept) > 1000
    assert not mode.mixed, set(mode.mixed)


def test_the_check_above_sees_a_network_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    where = torch.device("cpu")
    with Placed() as mode:
        watch_arrays_and_parameters(mode, monkeypatch)
        x = torch.ones(2, 3).to(where)
        torch.nn.Linear(3, 1).to(where)(x)
        assert not mode.mixed
        torch.nn.Linear(3, 1)(x)
    assert mode.mixed
