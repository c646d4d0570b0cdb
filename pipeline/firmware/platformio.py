"""A PlatformIO project around a rendered firmware folder: the same program as CMake's, built by `pio run`.

Two environments: the board's own, which uses PlatformIO's registry and can upload, and `local`, which compiles
with the cross-compilers of this machine and needs no network.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.errors import ConfigError, ToolError
from pipeline.firmware.elf import read_sizes
from pipeline.firmware.image import write_bin, write_hex
from pipeline.firmware.render import environment
from pipeline.wire.messages import BUILD_ID_BYTES

# [flashers.platformio] of a board file: key -> default, None where it must be given. `ini`: further lines of the
# board's environment.
SETTINGS: dict[str, str | None] = {"platform": None, "board": None, "upload_protocol": "", "ini": ""}
# What PlatformIO 6.2 asks its registry for, in its own numbering of SCons 4.11.1.
_SCONS = {"name": "tool-scons", "version": "4.41101.0", "system": "*"}
_SOURCE_FOLDERS_NOT = ("build", "platformio")
_TIMEOUT_S = 300.0
_TAIL_LINES = 25


def write_project(folder: Path, board: Board, *, title: str = "Firmware") -> Path:
    """Adds `platformio.ini` and the folder `platformio` to a rendered firmware folder; returns the former.

    Raises ConfigError: `folder` is not a rendered one, or its program runs under an operating system.
    """
    if board.port.hosted:
        raise ConfigError(f"{board.name} runs its program under an operating system: nothing for PlatformIO")
    recipe = _recipe(folder, board)
    given = board.flashers.get("platformio")
    settings = {key: given.get(key) or default or "" for key, default in SETTINGS.items()} if given else None
    template = environment().get_template("platformio.ini.j2")
    _write(folder / "platformio.ini", _tidy(template.render(
        board=board, title=title, folders=recipe["folders"], settings=settings,
    )))  # fmt: skip
    home, ours = folder / "platformio", asset_dir("firmware") / "platformio"
    _write(home / "recipe.json", json.dumps(recipe, indent=2) + "\n")
    for name in ("compile.py", "link.py"):
        _write(home / name, (ours / name).read_text(encoding="utf-8"))
    _write_local_platform(home / "local", board)
    _write_core(home / "core")
    return folder / "platformio.ini"


def stage_firmware(folder: Path, elf: Path) -> None:
    """Lays `elf` out for `pio run -t nobuild -t upload`: as ELF, raw binary and Intel HEX."""
    staged = folder / "platformio" / "staged"
    staged.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(elf, staged / "firmware.elf")
    write_bin(elf, staged / "firmware.bin")
    write_hex(elf, staged / "firmware.hex")


def build_local(folder: Path, board: Board) -> Path:
    """Builds the environment `local` of a project from `write_project`; returns the ELF.

    Uses no network. Raises ToolError: PlatformIO or SCons is not installed, or the build fails.
    """
    for module in ("platformio", "SCons"):
        if importlib.util.find_spec(module) is None:
            raise ToolError(f"{module} is not installed", hint="pip install 'edgenas[platformio]'")
    command = [sys.executable, "-m", "platformio", "run", "-d", str(folder), "-e", "local"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=_TIMEOUT_S, env=offline_environment(folder), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"PlatformIO took more than {_TIMEOUT_S:g} s in {folder}") from error
    log = folder / "platformio.log"
    log.write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
        raise ToolError(f"PlatformIO could not build the firmware:\n{tail}", hint=f"the whole log: {log}")
    elf = folder / ".pio" / "build" / "local" / "firmware.elf"
    read_sizes(elf, board)  # raises where it is no ELF
    return elf


def offline_environment(folder: Path) -> dict[str, str]:
    """Variables under which `pio run -e local` in `folder` asks nothing of the network."""
    return {
        **os.environ,
        "PLATFORMIO_CORE_DIR": str((folder / "platformio" / "core").resolve()),
        "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no",
        "PLATFORMIO_SETTING_CHECK_PLATFORMIO_INTERVAL": "3650",
    }


def _recipe(folder: Path, board: Board) -> dict[str, Any]:
    """Flags and folders as the rendered CMake files state them: one source for both builds."""
    cmake = folder / "CMakeLists.txt"
    if not cmake.is_file():
        raise ConfigError(f"{folder} is no rendered firmware folder", hint="edgenas deploy makes one")
    text = cmake.read_text(encoding="utf-8")
    folders = sorted(
        path.name for path in folder.iterdir()
        if path.is_dir() and path.name not in _SOURCE_FOLDERS_NOT and any(path.rglob("*.[cS]"))
    )  # fmt: skip
    link = [flag for flag in _words(text, r"target_link_options\(firmware PRIVATE ([^)]*)\)")
            if not flag.startswith(("-Wl,-Map", '"-T', "-T"))]  # fmt: skip
    file_flags = {
        name: options.split(";")
        for name, options in re.findall(
            r'set_source_files_properties\((\S+) PROPERTIES COMPILE_OPTIONS\s+"([^"]*)"\)', text
        )
    }
    return {
        "toolchain": board.core.toolchain, "folders": folders,
        "includes": _words(text, r"set\(INCLUDES ([^)]*)\)"), "cflags": list(board.core.cflags),
        "flags": _words(text, r"set\(FLAGS ([^)]*)\)"), "file_flags": file_flags, "link_flags": link,
        "build_id_bytes": BUILD_ID_BYTES,
    }  # fmt: skip


def _words(text: str, pattern: str) -> list[str]:
    found = re.search(pattern, text)
    if found is None:
        raise ConfigError(
            f"the rendered CMakeLists.txt has no {pattern.split('(')[0]}", hint="render it again"
        )
    return found[1].split()


def _write_local_platform(home: Path, board: Board) -> None:
    platform = {
        "name": "edgenas-local", "title": "edgenas, compilers of this machine", "version": "1.0.0",
        "description": "Builds with cross-compilers that are already installed", "packages": {},
    }  # fmt: skip
    manifest = {
        "name": board.description, "vendor": "edgenas", "url": "",
        "build": {"mcu": board.core.name, "cpu": board.core.name, "f_cpu": f"{board.clock_hz}L"},
        "upload": {"maximum_size": board.memory.flash.bytes, "maximum_ram_size": board.memory.sram.bytes},
    }  # fmt: skip
    _write(home / "platform.json", json.dumps(platform, indent=2) + "\n")
    _write(home / "boards" / f"{board.name}.json", json.dumps(manifest, indent=2) + "\n")
    _write(home / "platform.py", "from platformio.public import PlatformBase\n\n\n"
                                 "class EdgenaslocalPlatform(PlatformBase):\n    pass\n")  # fmt: skip
    builder = asset_dir("firmware") / "platformio" / "builder.py"
    _write(home / "builder" / "main.py", builder.read_text(encoding="utf-8"))


def _write_core(core: Path) -> None:
    """PlatformIO's own folder with a stand-in for the one package that it would fetch."""
    home = core / "packages" / "tool-scons"
    _write(home / "package.json", json.dumps(_SCONS) + "\n")
    source = {"type": "tool", "name": _SCONS["name"], "version": _SCONS["version"],
              "spec": {"owner": "platformio", "id": None, "name": _SCONS["name"], "requirements": None,
                       "uri": None}}  # fmt: skip
    _write(home / ".piopm", json.dumps(source) + "\n")
    _write(home / ".piokeep", "")
    scons = asset_dir("firmware") / "platformio" / "scons.py"
    _write(home / "scons.py", scons.read_text(encoding="utf-8"))


def _tidy(text: str) -> str:
    """Jinja's block lines leave empty lines behind."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?m)^\n(?=;|\w)", "", text)).strip() + "\n"


def _write(path: Path, text: str) -> None:
    """Leaves an unchanged file's time stamp alone."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
