"""What of a run is done already: `state.json` in the run's folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.storage import write_text


def fingerprint(*parts: Any) -> str:
    """Short stable hash of JSON-able values (and bytes)."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:16]


class RunState:
    """Remembers, for every finished stage, the fingerprint of its inputs and how long it took.

    A stage whose inputs are unchanged and whose outputs are still there is not done again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "state.json"
        self._stages: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            try:
                self._stages = json.loads(self._path.read_text(encoding="utf-8"))["stages"]
            except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"{self._path} is damaged: {error}", hint="delete that file; finished stages run again"
                ) from error

    def is_done(self, stage: str, key: str, outputs: list[str]) -> bool:
        """True when `stage` finished with the same inputs and all of `outputs` exist in the folder."""
        entry = self._stages.get(stage)
        return (
            entry is not None
            and entry["key"] == key
            and all((self.folder / name).exists() for name in outputs)
        )

    def finish(self, stage: str, key: str, seconds: float) -> None:
        self._stages[stage] = {"key": key, "seconds": round(seconds, 1)}
        write_text(self._path, json.dumps({"stages": self._stages}, indent=2) + "\n")

    def seconds(self, stage: str) -> float:
        """Wall time that `stage` took when it last ran; 0 when it never did."""
        return float(self._stages.get(stage, {}).get("seconds", 0.0))


def read_json(path: Path) -> Any:
    """What a stage left; raises ConfigError for a damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is damaged: {error}", hint="delete that file; its stage runs again"
        ) from error
