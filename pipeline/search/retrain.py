"""One and the same training from scratch for the winners of every method, so that they compare."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.config import SearchConfig
from pipeline.search.data import SearchData
from pipeline.search.device import computing, resident
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import AnyPath, Net, Validation, train_path
from pipeline.space.architecture import Architecture
from pipeline.space.cells import CellArchitecture, CellSpace
from pipeline.space.search_space import SearchSpace

_BATCH, _RATE = 96, 0.2
_STREAM = 77


def held_out_accuracy(
    space: SearchSpace | CellSpace,
    data: Any,
    architecture: Architecture,
    *,
    steps: int,
    seed: int,
    threads: int,
    device: str = "cpu",
) -> float:
    """Fraction of the test split that `architecture` classifies correctly after `steps` from scratch, in float32.

    Initial weights and batches depend on `seed` alone; no method's settings enter. `data` is a SearchData
    with a test split, which no search looks at. Raises ConfigError where this machine has no such device.
    """
    with computing(SearchConfig(threads=threads, device=device, mixed_precision=False)) as where:
        net, path = _untrained(space, architecture, 1000 + seed)
        net = net.to(where)
        images: SearchData = SimpleNamespace(
            x_train=data.x_train, y_train=data.y_train, x_val=data.x_test, y_val=data.y_test
        )
        images = resident(images, where)
        train_path(
            net, path, images, steps=steps, batch_size=_BATCH, lr=_RATE,
            rng=np.random.default_rng([seed, _STREAM]), on_step=lambda _: None,
        )  # fmt: skip
        return Validation.of(images, len(data.x_test), seed).accuracy(net, path)


def _untrained(space: SearchSpace | CellSpace, architecture: Architecture, seed: int) -> tuple[Net, AnyPath]:
    """A supernet with first weights, of which only what `architecture` needs is used, and its path."""
    if isinstance(space, CellSpace):
        assert isinstance(architecture, CellArchitecture)
        return CellSupernet(space, seed), space.path(architecture)
    return Supernet(space, seed), path_of(space, architecture)


def path_of(space: SearchSpace, architecture: Architecture) -> list[tuple[int, int]]:
    """(operator index, width index) of each block; a skip's width is 0."""
    return [
        (space.ops.index(b.op), 0 if b.op == "skip" else space.channels.index(b.channels))
        for b in architecture.blocks
    ]
