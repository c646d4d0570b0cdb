"""Checkpoints of a running search: written atomically, read back only by the same search."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pipeline.errors import ConfigError
from pipeline.search.cell_costs import CellTables
from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostTables
from pipeline.search.data import SearchData
from pipeline.space.budgets import Budgets
from pipeline.storage import UNREADABLE, Rhythm, write_bytes

_FORMAT = 2
_CELLS = "2"  # what a supernet of cells computes: 2 standardizes what its classifier reads

Identity: TypeAlias = dict[str, str]


def fingerprint(
    tables: CostTables, data: SearchData, budgets: Budgets, config: SearchConfig, seed: int
) -> Identity:
    """`identity_of` for a space of blocks."""
    table = (
        tables.latency_fixed, tables.sram_offset, tables.flash_fit,
        tables.latency_ms.tobytes(), tables.latency_head.tobytes(),
    )  # fmt: skip
    return identity_of(tables.space.to_json(), table, data, budgets, config, seed) | _guided_by(tables)


def cell_fingerprint(
    tables: CellTables, data: SearchData, budgets: Budgets, config: SearchConfig, seed: int
) -> Identity:
    """`identity_of` for a space of cells."""
    table = (tables.latency_fixed, tables.sram_offset, tables.flash_fit, tables.latency_ms.tobytes())
    identity = identity_of(tables.space.to_json(), table, data, budgets, config, seed)
    return identity | {"supernet of cells": _CELLS} | _guided_by(tables)


def _guided_by(tables: CostTables | CellTables) -> Identity:
    return {"latency predictor": tables.predictor.digest} if tables.predictor is not None else {}


def identity_of(
    space: dict[str, Any],
    table: tuple[Any, ...],
    data: SearchData,
    budgets: Budgets,
    config: SearchConfig,
    seed: int,
) -> Identity:
    """A hash of each thing that changes the outcome, by the name an error calls it; `table`: the costs."""
    images = [torch.as_tensor(x[:: max(1, len(x) // 64)]).cpu().numpy() for x in (data.x_train, data.x_val)]
    labels = [torch.as_tensor(y).cpu().numpy() for y in (data.y_train, data.y_val)]
    return {
        "format": str(_FORMAT),
        "search space": _hash(space),
        "latency table": _hash(repr(table)),
        "data": _hash([[array.shape, _hash(array.tobytes().hex())] for array in (*images, *labels)]),
        "budgets": _hash(asdict(budgets)),
        "settings": _hash(config.outcome),
        "seed": str(seed),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))


class Checkpoint:
    """A file that holds the latest state; `path` None keeps nothing."""

    def __init__(self, path: Path | None, identity: Identity, every_seconds: float) -> None:
        self.path, self.identity = path, identity
        self._every_seconds, self._rhythm = every_seconds, Rhythm(every_seconds)

    def of_training(self, what: str) -> Checkpoint:
        """Of one training within the search, in a file beside this one; `what` tells it from the search's others."""
        name = hashlib.sha256(what.encode()).hexdigest()[:16]
        path = self.path and self.path.with_name(f"{self.path.stem}-training-{name}{self.path.suffix}")
        return Checkpoint(path, {**self.identity, "training": what}, self._every_seconds)

    def discard(self) -> None:
        """What it was kept for is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The stored state; None where there is none (or a torn file).

        Raises ConfigError for a checkpoint of another search, naming what differs: it may be worth keeping.
        """
        if self.path is None or not self.path.is_file():
            return None
        try:
            stored = torch.load(self.path, map_location="cpu", weights_only=True)
        except UNREADABLE:
            return None
        if not isinstance(stored, dict) or "state" not in stored:
            return None
        theirs = stored.get("identity")
        if theirs != self.identity:
            theirs = theirs if isinstance(theirs, dict) else {}
            differing = [name for name, value in self.identity.items() if theirs.get(name) != value]
            raise ConfigError(
                f"{self.path} is the checkpoint of another search: {', '.join(differing)} differ",
                hint="search with what it was made for, give another file, or delete it",
            )
        state: dict[str, Any] = stored["state"]
        return state

    def due(self) -> bool:
        return self.path is not None and self._rhythm.due()

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file atomically. A state with values that are not finite does not replace a good one.

        Raises StorageError where there is no room for it; the last one is kept.
        """
        if self.path is None or not _finite(state):
            return
        content = io.BytesIO()
        torch.save({"identity": self.identity, "state": state}, content)
        write_bytes(self.path, content.getbuffer())
        self._rhythm.written()
