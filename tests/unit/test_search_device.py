"""Searches where the images are not where tensors are made: nothing may be left on the host."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from placed import Placed, watch_arrays_and_parameters
from search_standins import DATA, SMALL, TINY, MacCost
from torch.overrides import TorchFunctionMode

from pipeline.errors import ConfigError
from pipeline.search import device, retrain, search, trainer
from pipeline.search.device import _Resident
from pipeline.search.edgenas import EdgeNas
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.methods import Task
from pipeline.search.proxies import PROXIES
from pipeline.search.proxyconfig import ProxyConfig
from pipeline.search.sharingconfig import SharingConfig
from pipeline.search.supernet import Supernet
from pipeline.search.targets import one_board
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


@pytest.mark.parametrize(("space", "method"), [(SMALL, "random"), (CELLS, "random")], ids=["blocks", "cells"])
def test_a_gpu_would_repeat_its_results(space: SearchSpace | CellSpace, method: str) -> None:
    """cuDNN may sum in another order each time unless it is told not to; afterwards all is as it was."""
    seen: list[bool] = []
    config = replace(TINY, method=method, proxy_steps=1)
    before = torch.backends.cudnn.deterministic
    search(
        space, DATA, MacCost(), Budgets(), config, seed=0,
        on_step=lambda _: seen.append(torch.backends.cudnn.deterministic),
    )  # fmt: skip
    assert seen and all(seen)
    assert torch.backends.cudnn.deterministic == before


@pytest.mark.parametrize("space", [SMALL, CELLS], ids=["blocks", "cells"])
def test_winners_are_compared_on_the_device(
    space: SearchSpace | CellSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same trainings as on the host, with nothing left there."""
    data = SimpleNamespace(**vars(DATA), x_test=DATA.x_val, y_test=DATA.y_val)
    winner = space.random(np.random.default_rng(0))
    alone = retrain.held_out_accuracy(space, data, winner, steps=3, seed=0, threads=1)

    def resident(data: Any, where: torch.device) -> _Resident:
        names = ("x_train", "y_train", "x_val", "y_val")
        return _Resident(*(torch.as_tensor(getattr(data, name)).to(where) for name in names))

    monkeypatch.setattr(retrain, "resident", resident)
    with Placed() as mode:
        watch_arrays_and_parameters(mode, monkeypatch)
        there = retrain.held_out_accuracy(space, data, winner, steps=3, seed=0, threads=1, device="cpu")
    assert there == alone and not mode.mixed, set(mode.mixed)
    with pytest.raises(ConfigError, match=r"search\.device is 'cuda:99'"):
        retrain.held_out_accuracy(space, data, winner, steps=3, seed=0, threads=1, device="cuda:99")


class Waits(TorchFunctionMode):
    """Counts the calls at which a GPU would be waited for."""

    ASKS: ClassVar = {"item", "tolist", "__float__", "__int__", "__bool__", "__index__", "cpu", "numpy"}

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in self.ASKS
        return func(*args, **(kwargs or {}))


def test_a_gpu_is_waited_for_once_a_step() -> None:
    net, paths = Supernet(SMALL, 0), [[(0, 1)] * 3, [(1, 0)] * 3, [(2, 1)] * 3]
    optimizer = trainer.weight_optimizer(net, 0.1)
    x, y = trainer.tensors(DATA.x_train[:16], DATA.y_train[:16])
    with Waits() as waits:
        trainer.shared_step(net, optimizer, paths, (x, y), 0.1, distill=1.0)
    assert waits.count == 1
    validation = trainer.Validation.of(DATA, 80, 0, batch=10)
    assert len(validation.batches) == 8
    with Waits() as waits:
        validation.accuracy(net, paths[0])
    assert waits.count == 1
    task = Task.prepare(SMALL, DATA, one_board(MacCost(), Budgets()), replace(TINY, paths=4), 0, None, None)
    method = EdgeNas(task)
    with Waits() as waits:
        losses, hits = method.compared(paths, (x, y))
    assert waits.count == 1 and len(losses) == len(hits) == 3


def test_the_check_above_sees_a_network_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    where = torch.device("cpu")
    with Placed() as mode:
        watch_arrays_and_parameters(mode, monkeypatch)
        x = torch.ones(2, 3).to(where)
        torch.nn.Linear(3, 1).to(where)(x)
        assert not mode.mixed
        torch.nn.Linear(3, 1)(x)
    assert mode.mixed
