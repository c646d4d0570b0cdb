"""Training state on disk: written whole or not at all, and bound to what it belongs to."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from pipeline.data import DataSet
from pipeline.errors import ConfigError
from pipeline.storage import UNREADABLE, write_bytes
from pipeline.train.config import INCIDENTAL

_FORMAT = 3


def fingerprint(description: dict[str, Any], data: DataSet, config: dict[str, Any], seed: int) -> str:
    """Hex digest of everything that determines the outcome of training the network of `description`.

    The validation split is part of it: the history holds accuracies on it, and a quantization may be chosen by it.
    """
    images = hashlib.sha256()
    for array in (data.x_train, data.y_train, data.x_val, data.y_val):
        images.update(array.tobytes())
    content = {
        "format": _FORMAT,
        "architecture": description,
        "data": [data.name, list(data.x_train.shape), images.hexdigest()],
        "config": {key: value for key, value in config.items() if key not in INCIDENTAL},
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write `state` to `file`, replacing it in one step. Raises StorageError (no room); the last one is kept."""
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(file, content.getbuffer())


def read_state(file: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote. Raises ConfigError where it cannot be read."""
    hint = f"delete {file} to train afresh"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ConfigError(f"the checkpoint {file} cannot be read: {error}", hint=hint) from error
    if not isinstance(state, dict) or "identity" not in state:
        raise ConfigError(f"{file} is not a training checkpoint", hint=hint)
    return dict(state)


def load_checkpoint(file: Path, identity: str) -> dict[str, Any]:
    """Read a state that `save_checkpoint` wrote for the training `identity`.

    Raises ConfigError when it is damaged or belongs to another training.
    """
    state = read_state(file)
    if state["identity"] != identity:
        raise ConfigError(
            f"the checkpoint {file} belongs to another architecture, data set, seed or training setting",
            hint=f"delete {file} to train afresh",
        )
    return state
