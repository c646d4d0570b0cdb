"""Where the package's data files live: the checkout's top level, or inside the installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def asset_dir(name: str) -> Path:
    """Folder `name` (`firmware`, `boards` or `luts`) of the checkout or of the installed package."""
    bundled = _PACKAGE / "_assets" / name
    return bundled if bundled.is_dir() else _PACKAGE.parent / name
