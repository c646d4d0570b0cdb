"""Where the kernels' C sources are."""

from __future__ import annotations

from pathlib import Path

from pipeline.assets import asset_dir


def include_dir() -> Path:
    """Folder to put on the include path for `edgenas/kernels.h`."""
    return asset_dir("firmware") / "engine" / "include"


def kernel_sources() -> list[Path]:
    """All kernel C files, sorted; unused ones are dropped by the linker (--gc-sections)."""
    return sorted((asset_dir("firmware") / "engine" / "portable").glob("*.c"))


def kernel_headers() -> list[Path]:
    """Headers that lie beside the kernel sources."""
    return sorted((asset_dir("firmware") / "engine" / "portable").glob("*.h"))
