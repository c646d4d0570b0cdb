"""Where a run's report comes from: versions, data, table, machine, settings."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.data import DataSet
from pipeline.latency.lut import Lut
from pipeline.profiler.identity import current_identity
from pipeline.runfile import RunFile


def provenance(settings: RunFile, data: DataSet, lut: Lut) -> dict[str, Any]:
    """The report's table of origins, in the order in which it is shown."""
    return {
        "edgenas": __version__,
        "git revision": _git_revision(),
        "data": f"{data.name} from {data.source}",
        "seed": settings.seed,
        **{f"LUT {name}": value for name, value in asdict(lut.identity).items()},
        "latency interval": lut.interval.describe(),
        "identity of this machine": current_identity(settings.board).hash,
        "packages": ", ".join(_versions("torch", "numpy", "ai-edge-litert", "tflite-micro")),
        "host": f"Python {platform.python_version()}, {platform.machine()}",
        "run file": json.dumps(settings.to_json()),
    }


def _git_revision() -> str:
    """Of edgenas' own checkout; a repository around an installed edgenas is somebody else's."""
    here = Path(__file__).resolve().parents[1]
    try:
        top = _git(here, "rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != here:
            return "not a checkout"
        return _git(here, "describe", "--always", "--dirty", "--abbrev=12") or "not a checkout"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    """What git says; empty where it fails."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()


def _versions(*names: str) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found
