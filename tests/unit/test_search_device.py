"""Searches where the images are not where tensors are made: nothing is left on the host or waited for idly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from placed import THERE, There, stand_in
from search_standins import DATA, SMALL, TINY, MacCost, images

from pipeline.errors import ConfigError
from pipeline.search import Request, SearchResult, ask_family, device, retrain, search, trainer
from pipeline.search.ablation import AblationConfig
from pipeline.search.adaptation import adapt
from pipeline.search.adaptconfig import AdaptConfig
from pipeline.search.cell_hypersearch import CellHyperSearch
from pipeline.search.cloud import Cloud
from pipeline.search.edgenas import EdgeNas
from pipeline.search.exitconfig import ExitConfig
from pipeline.search.hyperconfig import HyperConfig
from pipeline.search.inherit import load_weights, save_weights
from pipeline.search.methods import Task
from pipeline.search.proxies import PROXIES
from pipeline.search.proxyconfig import ProxyConfig
from pipeline.search.sharingconfig import SharingConfig
from pipeline.search.supernet import Supernet
from pipeline.search.targets import one_board
from pipeline.space import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.train import device as train_device
from pipeline.train.device import exact_arithmetic, memory_as_error

# The stand-in costs a tenth of a millisecond a call: few and short trainings.
LITTLE = replace(
    TINY, warmup_steps=2, steps=3, candidates=4, ranking_images=20, semifinalists=2, semifinal_steps=2,
    finalists=1, proxy_steps=2,
)  # fmt: skip
EVERY_PROXY = ProxyConfig(names=tuple(PROXIES), pool=2)
WITH_EXITS = replace(SMALL, exits=(0, 1))
HYPER = HyperConfig(hidden=8, family=2)
CELLS = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)


def searched(
    space: SearchSpace | CellSpace, checkpoint: Path | None = None, on_step: Any = None, **settings: Any
) -> SearchResult:
    config = replace(LITTLE, **settings)
    return search(space, DATA, MacCost(), Budgets(), config, seed=0, checkpoint=checkpoint, on_step=on_step)


@pytest.mark.parametrize(
    ("space", "settings"),
    [
        (SMALL, {"method": "edgenas"}),
        (SMALL, {"method": "edgenas", "gradient": "straight-through", "workers": 2}),
        (SMALL, {"method": "edgenas", "sharing": SharingConfig(sandwich=1, distill=0.5)}),
        (SMALL, {"method": "edgenas", "ablation": AblationConfig(guide="macs")}),
        (WITH_EXITS, {"method": "edgenas", "exits": ExitConfig(expected_latency_ms=0.8, search=True)}),
        (SMALL, {"method": "random", "proxies": EVERY_PROXY}),
        (SMALL, {"method": "evolution"}),
        (SMALL, {"method": "mobilenetv2"}),
        (SMALL, {"method": "hwdarts"}),
        (SMALL, {"method": "hypernetwork", "hyper": HYPER}),
        (CELLS, {"method": "random"}),
        (CELLS, {"method": "evolution"}),
        (CELLS, {"method": "hypernetwork", "hyper": HYPER}),
        (CELLS, {"method": "hwdarts"}),
        (CELLS, {"method": "hwdarts", "gradient": "straight-through"}),
    ],
    ids=lambda value: value.get("method") if isinstance(value, dict) else "",
)
def test_a_search_on_the_device_is_the_one_on_the_host(
    space: SearchSpace | CellSpace, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it meets a tensor of the other place, and it ends alike: random numbers are the host's."""
    host = searched(space, **settings)
    with stand_in(monkeypatch) as gpu:
        there = searched(space, **settings)
    assert gpu.calls > 500
    assert there.feasible and there.to_json() == host.to_json()


class Stop(Exception):
    """Interrupts a search."""


@pytest.mark.parametrize("stop", [4, 8])  # while weights are shared; while one architecture trains alone
@pytest.mark.parametrize("begins_there", [True, False])
def test_a_checkpoint_goes_on_at_the_other_place(
    begins_there: bool, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = searched(SMALL)
    file, seen = tmp_path / "search.pt", iter(range(1000))
    settings = {"checkpoint": file, "checkpoint_seconds": 1e-9}

    def interrupt(_: Any) -> None:
        if next(seen) == stop:
            raise Stop

    def begin() -> None:
        with pytest.raises(Stop):
            searched(SMALL, on_step=interrupt, **settings)

    if begins_there:
        with stand_in(monkeypatch):
            begin()
        assert searched(SMALL, **settings).to_json() == whole.to_json()
    else:
        begin()
        with stand_in(monkeypatch):
            assert searched(SMALL, **settings).to_json() == whole.to_json()


@pytest.mark.parametrize(
    ("space", "settings"),
    [(SMALL, {}), (CELLS, {"method": "hypernetwork", "hyper": HYPER})],
    ids=["blocks", "cells"],
)
def test_the_edge_stage_on_the_device_is_the_one_on_the_host(
    space: SearchSpace | CellSpace, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud, config = tmp_path / "search.pt", replace(LITTLE, **settings)

    def adapted() -> tuple[Any, Path]:
        state = Cloud.load(cloud, "", LITTLE.temperature_end, LITTLE.warmup_steps + LITTLE.steps, 80)
        options = AdaptConfig(share=0.6, candidates=4, contestants=2)
        found = adapt(space, images(9), MacCost(), Budgets(), config, options, state, seed=2)
        save_weights(tmp_path / "weights.pt", found.weights)
        return found.result, tmp_path / "weights.pt"

    with stand_in(monkeypatch):
        searched(space, cloud, **settings)  # a cloud with a GPU, a device without
        there, file = adapted()
        learnt = load_weights(file)
    host, file = adapted()
    assert there.feasible and there.to_json() == host.to_json()
    for a, b in zip(learnt, load_weights(file), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("space", [SMALL, CELLS], ids=["blocks", "cells"])
def test_a_family_is_asked_for_on_the_device(
    space: SearchSpace | CellSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file = replace(LITTLE, method="hypernetwork", hyper=HYPER), tmp_path / "search.pt"
    targets = one_board(MacCost(), Budgets())
    searched(space, file, method="hypernetwork", hyper=HYPER)
    request = Request(targets[0], train_steps=2, trained=1, members=2)
    host = ask_family(space, DATA, targets, config, request, seed=0, checkpoint=file)
    with stand_in(monkeypatch) as gpu:
        there = ask_family(space, DATA, targets, config, request, seed=0, checkpoint=file)
    assert gpu.calls > 100 and there.to_json() == host.to_json()


@pytest.mark.parametrize("space", [SMALL, CELLS], ids=["blocks", "cells"])
def test_winners_are_compared_on_the_device(
    space: SearchSpace | CellSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same trainings as on the host, with nothing left there."""
    data = SimpleNamespace(**vars(DATA), x_test=DATA.x_val, y_test=DATA.y_val)
    winner = space.random(np.random.default_rng(0))
    alone = retrain.held_out_accuracy(space, data, winner, steps=3, seed=0, threads=1)
    with stand_in(monkeypatch) as gpu:
        there = retrain.held_out_accuracy(space, data, winner, steps=3, seed=0, threads=1, device="cpu")
    assert there == alone and gpu.calls > 100
    with pytest.raises(ConfigError, match=r"search\.device is 'cuda:99'"):
        retrain.held_out_accuracy(space, data, winner, steps=3, seed=0, threads=1, device="cuda:99")


@pytest.mark.parametrize("space", [SMALL, CELLS], ids=["blocks", "cells"])
def test_a_gpu_would_repeat_its_results(space: SearchSpace | CellSpace) -> None:
    """cuDNN may sum in another order each time unless it is told not to; afterwards all is as it was."""
    seen: list[bool] = []
    before = torch.backends.cudnn.deterministic
    searched(space, method="random", on_step=lambda _: seen.append(torch.backends.cudnn.deterministic))
    assert seen and all(seen)
    assert torch.backends.cudnn.deterministic == before


def test_float32_is_whole_also_where_the_machine_asks_for_less() -> None:
    products = torch.backends.cuda.matmul
    before = products.allow_tf32
    products.allow_tf32 = True
    try:
        with exact_arithmetic():
            assert not products.allow_tf32 and not torch.backends.cudnn.allow_tf32
        assert products.allow_tf32
    finally:
        products.allow_tf32 = before


def test_a_gpu_is_waited_for_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [[(0, 1)] * 3, [(1, 0)] * 3, [(2, 1)] * 3]
    with stand_in(monkeypatch) as gpu:
        task = Task.prepare(
            SMALL, DATA, one_board(MacCost(), Budgets()), replace(TINY, paths=4), 0, None, None
        )
        method = EdgeNas(task)
        assert isinstance(method.net.stem, There)
        gpu.clear()
        x, y = trainer.draw_batch(task.data.x_train, task.data.y_train, 16, np.random.default_rng(0))
        assert gpu.count == 0 and isinstance(x, There) and isinstance(y, There), gpu.where
        trainer.shared_step(method.net, method.weights, paths, (x, y), 0.1, distill=1.0)
        assert gpu.count == 1, gpu.where
        validation = trainer.Validation.of(task.data, 80, 0, batch=10)
        assert len(validation.batches) == 8
        gpu.clear()
        validation.accuracy(method.net, paths[0])
        assert gpu.count == 1, gpu.where
        gpu.clear()
        losses, hits = method.compared(paths, (x, y))
        assert gpu.count == 1 and len(losses) == len(hits) == 3, gpu.where
        gpu.clear()
        surrogate, _, _ = method._straight_through(1.0, np.random.default_rng(0), (x, y))
        assert gpu.count == 3, gpu.where  # the gates of operators and of widths, then the loss
        assert not isinstance(surrogate, There)
        for name in ("gradient_norm", "synflow"):
            gpu.clear()
            PROXIES[name](method.net, paths[0], (x, y))
            assert gpu.count == 1, gpu.where


def test_a_step_with_all_operators_of_cells_waits_little(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(LITTLE, method="hypernetwork", hyper=HYPER)
    with stand_in(monkeypatch) as gpu:
        data = device.resident(DATA, THERE)
        method = CellHyperSearch(
            CELLS, data, one_board(MacCost(), Budgets()), config, 0, None, None, THERE
        )  # fmt: skip
        gpu.clear()
        method._train_step()
    # there: the gates, the loss' gradient; back: the loss, the gates' gradient, whether the weights' is finite
    assert gpu.count == 5, gpu.where


def test_the_stand_in_refuses_what_a_gpu_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in(monkeypatch) as gpu:
        x = torch.ones(2, 3).to(THERE)
        there = torch.nn.Linear(3, 1).to(THERE)
        there(x).sum().backward()
        assert isinstance(there.weight.grad, There) and isinstance(torch.zeros(2, device=THERE) + 1, There)
        with pytest.raises(RuntimeError, match="same device"):
            torch.nn.Linear(3, 1)(x)
        with pytest.raises(RuntimeError, match="same device"):
            torch.stack([x[0], torch.ones(3)])
        with pytest.raises(RuntimeError, match="same device"):
            torch.ones(2, 3)[torch.zeros(1, dtype=torch.long).to(THERE)]
        with pytest.raises(RuntimeError, match="same device"):
            torch.zeros(()).add_(x.sum())
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()
        with pytest.raises(RuntimeError, match="deterministic"):
            x.cumsum(0)
        assert (x * torch.tensor(2.0)).sum().item() == 12.0  # numbers may come from anywhere
        gpu.clear()
        x[torch.tensor([0, 1])]
        assert float(x.sum()) == 6.0 and x.tolist() == [[1.0] * 3] * 2
        assert gpu.waits == {"index.Tensor": 1, "_local_scalar_dense.default": 1, "to the host": 1}


def test_a_gpu_whose_memory_is_used_up_is_told() -> None:
    full = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.80 GiB"

    def step(_: Any) -> None:
        raise torch.cuda.OutOfMemoryError(full)

    with pytest.raises(ConfigError, match="memory is used up: CUDA out of memory") as error:
        searched(SMALL, method="random", on_step=step)
    assert "search.batch_size" in error.value.hint and "search.workers" in error.value.hint
    with pytest.raises(ConfigError) as error, memory_as_error("train.batch_size"):
        step(None)
    assert "train.batch_size" in error.value.hint


def test_a_gpu_that_is_there_and_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another user alone, or too old for this build: found out before hours of work, with the setting to change."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def busy() -> None:
        raise RuntimeError(
            "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors ..."
        )

    monkeypatch.setattr(torch.cuda, "_lazy_init", busy)
    for name in ("auto", "cuda", "cuda:1"):
        with pytest.raises(ConfigError, match=r"cannot be used: .*busy or unavailable") as error:
            train_device.choose(name)
        assert 'train.device = "cpu"' in error.value.hint
    with pytest.raises(ConfigError, match="this machine has 2 CUDA devices"):
        train_device.choose("cuda:2")


def test_a_driver_that_torch_cannot_use_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="this machine has 0 CUDA devices"):
        device.choose("cuda")


def test_seeding_a_network_leaves_the_generators_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seeded.clear()
    a, b = Supernet(SMALL, 1), Supernet(SMALL, 1)
    assert torch.equal(a.stem, b.stem) and not seeded
    assert torch.equal(torch.rand(3), expected)  # what the caller draws does not change either
