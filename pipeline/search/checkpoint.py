"""Checkpoints of a running search: written atomically, read back only by the same search."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostTables
from pipeline.search.data import SearchData
from pipeline.space.budgets import Budgets

_FORMAT = 1


def fingerprint(
    tables: CostTables, data: SearchData, budgets: Budgets, config: SearchConfig, seed: int
) -> str:
    """Changes with whatever changes the outcome: space, costs, data, budgets, settings, seed."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("checkpoint_seconds", "threads")}
    head = [_FORMAT, tables.space.to_json(), asdict(budgets), settings, seed, tables.flash_fit]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(repr((tables.latency_fixed, tables.sram_offset)).encode())
    digest.update(tables.latency_ms.tobytes())
    for array in (data.x_train, data.x_val):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array[:: max(1, len(array) // 64)]).tobytes())
    for labels in (data.y_train, data.y_val):
        digest.update(np.ascontiguousarray(labels).tobytes())
    return digest.hexdigest()


class Checkpoint:
    """A file that holds the latest state; `path` None keeps nothing."""

    def __init__(self, path: Path | None, identity: str, every_seconds: float) -> None:
        self.path, self.identity, self.every_seconds = path, identity, every_seconds
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The stored state; None where there is none, or one of another search or of a torn file."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            stored = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
            return None
        if not isinstance(stored, dict) or stored.get("identity") != self.identity:
            return None
        state: dict[str, Any] = stored["state"]
        return state

    def due(self) -> bool:
        return self.path is not None and time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, state: dict[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        torch.save({"identity": self.identity, "state": state}, part)
        os.replace(part, self.path)  # noqa: PTH105 - the atomic rename is the point
        self._saved_at = time.monotonic()
