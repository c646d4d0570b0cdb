"""The TensorFlow Lite Micro library that the user supplies in $TFLM_ROOT."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ToolError

REFERENCE = "tflm"
CMSIS_NN = "tflm-cmsis-nn"
ENGINES = (REFERENCE, CMSIS_NN)
_ARCHIVE = "libtensorflow-microlite.a"
_HEADER = Path("tensorflow/lite/micro/micro_interpreter.h")
_CMSIS_NN_SYMBOL = b"arm_convolve_s8"
# a tree made by TFLM's project generation, and a checkout in which its make has run
_THIRD_PARTY = ("third_party", "tensorflow/lite/micro/tools/make/downloads")
_NEEDED = {
    "flatbuffers": ("flatbuffers/include", "flatbuffers/flatbuffers.h"),
    "gemmlowp": ("gemmlowp", "fixedpoint/fixedpoint.h"),
    "ruy": ("ruy", "ruy/profiler/instrumentation.h"),
}
_TARGETS = {"rv32": "riscv32"}  # what TFLM calls an instruction set in its folders
_HINT = "docs/tflm.md says what TFLM_ROOT must hold"


@dataclass(frozen=True, slots=True)
class Library:
    """A prebuilt library, its headers, and what the compiler needs besides (`extra_flags`).

    `engine`: "tflm" (reference kernels) or "tflm-cmsis-nn"; `revision`: beginning of the archive's SHA-256.
    """

    path: Path
    engine: str
    revision: str
    includes: tuple[Path, ...]
    extra_flags: tuple[str, ...]


def tflm_root() -> Path | None:
    """The folder named by the environment, if any."""
    value = os.environ.get("TFLM_ROOT")
    return Path(value) if value else None


def find_library(board: Board, engine: str = REFERENCE) -> Library:
    """The library for `board`'s core with the kernels that `engine` names.

    Looked for in `$TFLM_ROOT`: `lib/<core>*/`, `gen/*<core>*/lib/`, then the folder itself and `lib/`. Raises
    ToolError: TFLM_ROOT not set, headers missing, or no such library (with those that are there).
    """
    root = tflm_root()
    if root is None:
        raise ToolError(
            f"engine {engine} needs TensorFlow Lite Micro's library, and TFLM_ROOT is not set", hint=_HINT
        )
    includes = _includes(root.resolve())
    found = [(path, kernels(path)) for path in _archives(root.resolve(), board)]
    for path, kind in found:
        if kind == engine:
            extra = tuple(shlex.split(os.environ.get("TFLM_CXXFLAGS", "")))
            return Library(path, kind, revision(path), includes, extra)
    there = ", ".join(f"{path.relative_to(root.resolve())} ({kind})" for path, kind in found) or "none"
    raise ToolError(
        f"no {_ARCHIVE} for {board.core.name} with the kernels of '{engine}' in {root}",
        hint=f"there is: {there}; {_HINT}",
    )


@lru_cache(maxsize=32)
def kernels(archive: Path) -> str:
    """Which engine the library is: its symbol table tells."""
    return CMSIS_NN if _CMSIS_NN_SYMBOL in archive.read_bytes() else REFERENCE


@lru_cache(maxsize=32)
def revision(archive: Path) -> str:
    return hashlib.sha256(archive.read_bytes()).hexdigest()[:16]


def _archives(root: Path, board: Board) -> Iterator[Path]:
    names = [board.core.name, board.core.isa]
    names += [_TARGETS[name] for name in names if name in _TARGETS]
    seen = set()
    for pattern in [f"lib/{n}*" for n in names] + [f"gen/*{n}*/lib" for n in names] + ["", "lib"]:
        for folder in sorted(root.glob(pattern)) if pattern else [root]:
            path = folder / _ARCHIVE
            if path.is_file() and path not in seen:
                seen.add(path)
                yield path


def _includes(root: Path) -> tuple[Path, ...]:
    if not (root / _HEADER).is_file():
        raise ToolError(f"TFLM_ROOT is {root}, which has no {_HEADER}", hint=_HINT)
    found = [root]
    for name, (folder, header) in _NEEDED.items():
        places = [root / base / folder for base in _THIRD_PARTY]
        place = next((p for p in places if (p / header).is_file()), None)
        if place is None:
            raise ToolError(
                f"{root} has no {name} ({folder}/{header}) in {' or '.join(_THIRD_PARTY)}", hint=_HINT
            )
        found.append(place)
    return tuple(found)
