"""Where data sets are looked for, and downloads that are checked and kept."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from pipeline.errors import DataError

ENVIRONMENT = "EDGENAS_DATA"
_CHECKOUT = Path(__file__).resolve().parents[2]


def usual_places() -> list[Path]:
    """$EDGENAS_DATA where it is set, and `../shared/data` next to the checkout and the current folder."""
    places = [Path(os.environ[ENVIRONMENT])] if os.environ.get(ENVIRONMENT) else []
    return [*places, _CHECKOUT.parent / "shared" / "data", Path.cwd().parent / "shared" / "data"]


def cache_dir() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/edgenas, else ~/.cache/edgenas."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgenas"


def download(url: str, md5: str, file: Path, *, timeout_s: float) -> bytes:
    """The content of `url`, from `file` if it is there already and whole, else fetched and kept there.

    Raises DataError for another checksum, OSError where there is no connection (urllib's errors are OSErrors).
    """
    if file.is_file() and _md5(raw := file.read_bytes()) == md5:
        return raw
    with urllib.request.urlopen(url, timeout=timeout_s) as response:
        raw = response.read()
    if _md5(raw) != md5:
        raise DataError(f"{url} has another checksum than the published one")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".part")
    partial.write_bytes(raw)
    partial.replace(file)
    return raw


def _md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()
