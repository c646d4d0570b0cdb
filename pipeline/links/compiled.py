"""Helpers in C that run on this machine: compiled on first use and kept under a hash of their sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ToolError

FLAGS = ("-std=gnu11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")


def cache_folder() -> Path:
    """Where compiled helpers are kept for this user; need not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgenas"


def shared_library(name: str, folder: Path, sources: Sequence[str], what: str) -> Path:
    """`sources` of `folder` (headers among them) as a shared library; `what` is its name in complaints.

    Raises ToolError: no C compiler on this machine, or it failed; nothing can be kept in the cache folder.
    """
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for source in sources:
        digest.update((folder / source).read_bytes())
    library = cache_folder() / f"{name}-{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise ToolError(f"no C compiler on this machine to build {what}", hint="apt install gcc")
    code = [str(folder / source) for source in sources if source.endswith(".c")]
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        # of this call alone: threads and processes that need it at the same time each make it
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=library.parent) as own:
            fresh = Path(own) / library.name
            command = [compiler, *FLAGS, *code, "-o", str(fresh)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode != 0:
                raise ToolError(
                    f"cannot compile {what}: {done.stderr.strip()[-800:]}", hint=" ".join(command)
                )
            fresh.replace(library)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"compiling {what} took over two minutes") from error
    except OSError as error:
        raise ToolError(
            f"{what} cannot be kept in {library.parent}: {error.strerror}",
            hint="set XDG_CACHE_HOME to a folder that you may write to",
        ) from error
    return library
