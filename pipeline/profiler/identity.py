"""The identity that a table measured here and now would have."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.errors import ToolError
from pipeline.firmware.build import require_tool
from pipeline.firmware.render import COMPILE_FLAGS
from pipeline.latency.lut import Identity
from pipeline.latency.timing import timing_model

ENGINE = "edgenas"
# What an operator's cycles come from; all else of firmware/ shapes the application around it.
_MEASURING = ("engine", "bench", "emulator")
_SOURCE_SUFFIXES = (".c", ".h", ".S", ".j2")


def current_identity(board: Board) -> Identity:
    """Identity of measurements of `board` with the sources and the compiler at hand.

    Raises ToolError: no compiler; ConfigError: no such timing model.
    """
    model = timing_model(board.core.timing)
    code, data = board.memory.flash.wait_states, board.memory.sram.wait_states
    return Identity(
        board=board.name,
        clock_hz=board.clock_hz,
        memory=f"code in flash, {code} wait states; data in SRAM, {data} wait states",
        engine=ENGINE,
        engine_revision=_revision(measuring=True),
        firmware_revision=_revision(measuring=False),
        compiler=_compiler_version(f"{board.core.toolchain}gcc"),
        flags=" ".join((*board.core.cflags, *COMPILE_FLAGS)),
        timing=f"{model.NAME} {model.VERSION}",
        counter=board.counter.counts,
    )


def _revision(*, measuring: bool) -> str:
    """Hash over the firmware's sources, those that measure or the others."""
    root = asset_dir("firmware")
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        wanted = path.is_file() and path.suffix in _SOURCE_SUFFIXES
        if wanted and (relative.parts[0] in _MEASURING) == measuring:
            digest.update(f"{relative.as_posix()}\0".encode())
            digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:16]


@cache
def _compiler_version(program: str) -> str:
    """First line of `program --version`; it names the packaging as well."""
    path = require_tool(program)
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{program} --version does not end") from error
    if done.returncode != 0 or not done.stdout:
        raise ToolError(f"{program} --version failed: {done.stderr.strip()[:200]}", hint="install it again")
    return done.stdout.splitlines()[0].strip()
