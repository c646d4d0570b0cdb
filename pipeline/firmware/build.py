"""Compile a rendered firmware folder with CMake and Ninja."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import BudgetError, ConfigError, ToolError
from pipeline.firmware.elf import Sizes, read_sizes

_BUILD_TIMEOUT_S = 300.0
_LOG_LINES = 25
_OVERFLOW = re.compile(r"region `(\w+)' overflowed by (\d+) bytes")
_PACKAGES = {
    "gcc": "gcc libc6-dev",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "cmake": "cmake",
    "ninja": "ninja-build",
}
_NO_PACKAGE = "install it from its maker, or correct core.toolchain in the board's file"
_UNUSABLE = re.compile(r"[\[\];|$\"\\*?\n]")  # globs, lists, variables and strings of CMake and Ninja
_COMPILER = "compiler.txt"  # in a build folder: path and version of what compiled it


@dataclass(frozen=True, slots=True)
class Build:
    """A linked firmware and what it takes."""

    elf: Path
    build_id: bytes
    sizes: Sizes

    @property
    def flash_bytes(self) -> int:
        return self.sizes.flash_bytes

    @property
    def static_ram_bytes(self) -> int:
        return self.sizes.static_ram_bytes

    @property
    def stack_bytes(self) -> int:
        return self.sizes.stack_bytes

    @property
    def sram_bytes(self) -> int:
        """Static RAM (arena included) and reserved stack: what an SRAM budget is held against."""
        return self.sizes.sram_bytes


def require_tool(program: str) -> str:
    """Path of `program`; raises ToolError where it is missing, with the package to install if Debian has one."""
    found = shutil.which(program)
    if found is None:
        package = _PACKAGES.get(program)
        hint = f"sudo apt install {package}" if package else _NO_PACKAGE
        raise ToolError(f"{program} is not installed", hint=hint)
    return found


def compiler_version(program: str) -> str:
    """First line of `program --version`; it names the packaging as well. Raises ToolError: no such compiler."""
    path = require_tool(program)
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{program} --version does not end") from error
    if done.returncode != 0 or not done.stdout:
        raise ToolError(f"{program} --version failed: {done.stderr.strip()[:200]}", hint="install it again")
    return done.stdout.splitlines()[0].strip()


def plain_name(text: str) -> str:
    """`text` as a folder's name that CMake and Ninja can work in."""
    return _UNUSABLE.sub("_", text)


def check_path(folder: Path) -> None:
    """Raises ConfigError where CMake or Ninja would take a part of the path for an instruction."""
    if found := _UNUSABLE.search(str(folder.resolve())):
        raise ConfigError(
            f"firmware cannot be built in {folder.resolve()}: CMake stumbles over {found[0]!r} in a path",
            hint="choose another folder, or another name for one on the way",
        )


def build(folder: Path, board: Board, *, link_flags: Sequence[str] = ()) -> Build:
    """Configures and compiles `folder` (from `render_app` or `render_bench`), with extra `link_flags`.

    The same sources, flags and compiler give the same bytes and the same build id. Raises ConfigError (a path that
    CMake cannot take), ToolError (a missing tool, with the package to install; a failed compilation, with the log's
    tail and path) and BudgetError (the program does not fit the board's flash or SRAM, with the bytes that are
    missing).
    """
    check_path(folder)
    for program in ("cmake", "ninja"):
        require_tool(program)
    gcc = f"{board.core.toolchain}gcc"
    compiler = f"{require_tool(gcc)}\n{compiler_version(gcc)}\n"
    out = folder / "build"
    log = folder / "build.log"
    text = ""
    _drop_if_stale(out, folder, compiler)
    if not (out / "build.ninja").is_file():
        command = ["cmake", "-G", "Ninja", "-S", str(folder.resolve()), "-B", str(out)]
        command.append(f"-DCMAKE_EXE_LINKER_FLAGS={' '.join(link_flags)}")
        text += _run(command, log, text, board)
        (out / _COMPILER).write_text(compiler, encoding="utf-8")
    text += _run(["ninja", "-C", str(out)], log, text, board)
    log.write_text(text, encoding="utf-8")
    elf = out / "firmware.elf"
    sizes = read_sizes(elf, board)
    return Build(elf, sizes.build_id, sizes)


def _drop_if_stale(out: Path, folder: Path, compiler: str) -> None:
    """CMake refuses a build folder whose sources have moved, and ignores a changed toolchain file. It goes on with
    the compiler that it found at first, and Ninja compiles nothing again for another one.

    It holds nothing that cannot be made again.
    """
    cache, kept = out / "CMakeCache.txt", out / _COMPILER
    if cache.is_file():
        if not kept.is_file() or kept.read_text(encoding="utf-8") != compiler:
            shutil.rmtree(out)
            return
        if (folder / "toolchain.cmake").stat().st_mtime_ns > cache.stat().st_mtime_ns:
            shutil.rmtree(out)
            return
        home = f"CMAKE_HOME_DIRECTORY:INTERNAL={folder.resolve()}"
        if home not in cache.read_text(encoding="utf-8", errors="replace").splitlines():
            shutil.rmtree(out)


def _run(command: list[str], log: Path, before: str, board: Board) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=_BUILD_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{command[0]} took more than {_BUILD_TIMEOUT_S:g} s in {log.parent}") from error
    if done.returncode == 0:
        return done.stdout
    log.write_text(before + done.stdout, encoding="utf-8")
    overflows = dict(_OVERFLOW.findall(done.stdout))
    if overflows:
        raise _does_not_fit({region: int(count) for region, count in overflows.items()}, board)
    tail = "\n".join(done.stdout.splitlines()[-_LOG_LINES:])
    raise ToolError(f"building the firmware failed:\n{tail}", hint=f"the whole log: {log}")


def _does_not_fit(overflows: dict[str, int], board: Board) -> BudgetError:
    sizes = {"FLASH": board.memory.flash.bytes, "SRAM": board.memory.sram.bytes}
    parts = [
        f"{region.lower() if region == 'FLASH' else region} by {count} bytes (it has {sizes.get(region, 0)})"
        for region, count in sorted(overflows.items())
    ]
    return BudgetError(
        f"the firmware does not fit {board.name}: it exceeds {' and '.join(parts)}",
        hint="a smaller model, or a board with more memory",
    )
