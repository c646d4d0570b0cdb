"""What of a run is done already: `state.json` in the run's folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import ConfigError, StorageError
from pipeline.storage import write_text

T = TypeVar("T")

EARLIER = "earlier"  # in a run's folder: what another search, training or validation of it left


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
        self._unfinished: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            try:
                state = json.loads(self._path.read_text(encoding="utf-8"))
                self._stages = _entries(state["stages"])
                self._unfinished = _entries(state.get("unfinished", {}))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
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
        self._unfinished.pop(stage, None)
        self._write()

    def interrupt(self, stage: str, key: str, seconds: float) -> None:
        """Keep what an unfinished `stage` has taken so far; where not even that can be written, it is not kept."""
        self._unfinished[stage] = {"key": key, "seconds": round(seconds, 1)}
        with suppress(StorageError):
            self._write()

    def spent(self, stage: str, key: str) -> float:
        """Seconds that interrupted tries with the same inputs took."""
        entry = self._unfinished.get(stage)
        return float(entry["seconds"]) if entry is not None and entry["key"] == key else 0.0

    def _write(self) -> None:
        unfinished = {"unfinished": self._unfinished} if self._unfinished else {}
        write_text(self._path, json.dumps({"stages": self._stages, **unfinished}, indent=2) + "\n")

    def set_aside(self, outdated: Iterable[str], copied: Iterable[str] = ()) -> Path | None:
        """Move what is `outdated` into a new folder, `earlier/1` and so on, and copy what belongs to it but stays.

        Names are of files or folders in the run's folder; those that are not there are passed over. Returns the
        new folder, None where nothing was outdated.
        """
        found = [name for name in outdated if (self.folder / name).exists()]
        if not found:
            return None
        number = 1
        while (place := self.folder / EARLIER / str(number)).exists():
            number += 1
        place.mkdir(parents=True)
        for name in copied:
            if (self.folder / name).is_file():
                shutil.copy2(self.folder / name, place / name)
        for name in found:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).rename(place / name)
        return place

    def seconds(self, stage: str) -> float:
        """Wall time that `stage` took when it last ran, interrupted tries included; 0 when it never did."""
        return float(self._stages.get(stage, {}).get("seconds", 0.0))


def _entries(raw: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Raises ValueError, KeyError, TypeError or AttributeError for what is no stage's key and time."""
    return {
        name: {"key": str(entry["key"]), "seconds": float(entry["seconds"])} for name, entry in raw.items()
    }


def read_as(path: Path, make: Callable[[Any], T]) -> T:
    """What a stage left, as `make` reads it; raises ConfigError for a damaged file."""
    raw = read_json(path)
    try:
        return make(raw)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged, or of another edgenas: it lacks or misstates {error}",
            hint="delete that file; its stage runs again",
        ) from error


def read_json(path: Path, *needed: str) -> Any:
    """What a stage left; raises ConfigError for a damaged file, or one without the keys that are `needed`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if lacking := [key for key in needed if key not in found]:
            raise ValueError(f"it has no {', '.join(map(repr, lacking))}")
    except (OSError, ValueError, TypeError) as error:  # ValueError: JSON's and Unicode's, too
        raise ConfigError(
            f"{path} is damaged: {error}", hint="delete that file; its stage runs again"
        ) from error
    return found
