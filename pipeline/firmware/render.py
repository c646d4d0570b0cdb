"""Firmware folders: sources copied in, templates rendered, ready for CMake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.errors import ConfigError
from pipeline.wire import messages, structs

COMPILE_FLAGS = (
    "-O2", "-std=c11", "-ffunction-sections", "-fdata-sections", "-fno-common", "-Wall", "-Wextra",
)  # fmt: skip


def environment() -> jinja2.Environment:
    """Jinja over `firmware/templates`; an undefined name is an error."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(asset_dir("firmware") / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    found.filters["comment"] = comment
    return found


def comment(text: str) -> str:
    """`text` for the inside of a C comment, which nothing of it ends; as it is where nothing could."""
    return " ".join(text.splitlines()).replace("*/", "* /").replace("/*", "/ *")


def wire_header() -> str:
    """`wire.h`: the protocol's declarations for the firmware."""
    enums = [(messages.Op, "OP"), (messages.Kind, "KIND"), (messages.Reason, "REASON"),
             (messages.Verdict, "VERDICT")]  # fmt: skip
    template = environment().get_template("wire.h.j2")
    return template.render(wire=messages, enums=enums, c_fields=structs.c_fields)


def port_sources(board: Board) -> dict[str, str]:
    """Port, wire server and rendered board files, by their path in the firmware folder.

    Raises ConfigError where the board names a port folder that does not exist, or two of its folders have a
    file of the same name.
    """
    root = asset_dir("firmware")
    files = _texts(root / "wire", "wire") | _texts(root / "port", "port")
    for name in board.port.folders:
        folder = root / "port" / name
        if not folder.is_dir():
            known = ", ".join(sorted(p.name for p in (root / "port").iterdir() if p.is_dir()))
            raise ConfigError(f"board {board.name}: no port folder '{name}'", hint=f"there are: {known}")
        more = _texts(folder, "port")
        if twice := sorted(files.keys() & more.keys()):
            raise ConfigError(
                f"board {board.name}: port folder '{name}' has {twice[0]}, and so has another",
                hint="give it another name",
            )
        files |= more
    if board.port.hosted:  # the operating system brings a C library
        files.pop("port/libc.c")
    files["wire/wire.h"] = wire_header()
    files["port/board.h"] = environment().get_template("board.h.j2").render(board=board)
    return files


def engine_sources(board: Board) -> dict[str, str]:
    """The kernels and their headers, by their path in the firmware folder.

    A file in the folder named after the board's ISA stands in for the portable one of the same name.
    """
    root = asset_dir("firmware") / "engine"
    files: dict[str, str] = {}
    for folder in ("include", "portable", board.core.isa):
        for path in sorted((root / folder).rglob("*.[chS]")):
            if folder == board.core.isa:
                files.pop(f"engine/portable/{path.name}", None)
            files[f"engine/{path.relative_to(root)}"] = path.read_text(encoding="utf-8")
    return files


def write_folder(
    board: Board, out_dir: Path, title: str, files: Mapping[str, str], *, definitions: Iterable[str] = ()
) -> Path:
    """Writes `files` with a linker script and CMake files to `out_dir`; files that went away are removed."""
    folders = sorted({path.split("/")[0] for path in files})
    includes = [folder for folder in folders if folder != "engine"]
    if "engine" in folders:
        includes += ["engine/include", "engine/portable"]
    values: dict[str, Any] = {
        "board": board, "title": title, "folders": folders, "includes": includes,
        "flags": [*COMPILE_FLAGS, *(f"-D{name}" for name in definitions)],
    }  # fmt: skip
    everything = dict(files)
    names = ["CMakeLists.txt", "toolchain.cmake"] + ([] if board.port.hosted else [board.port.linker])
    for name in names:
        everything[name] = environment().get_template(f"{name}.j2").render(values)
    _drop_stale(out_dir, folders, everything)
    for relative, text in everything.items():
        _write_if_changed(out_dir / relative, text)
    return out_dir


def _texts(folder: Path, prefix: str) -> dict[str, str]:
    return {
        f"{prefix}/{path.name}": path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.[chS]"))
    }


def _drop_stale(out_dir: Path, folders: Iterable[str], keep: Mapping[str, str]) -> None:
    for folder in folders:
        for path in (out_dir / folder).rglob("*.[chS]"):
            if str(path.relative_to(out_dir)) not in keep:
                path.unlink()


def _write_if_changed(path: Path, text: str) -> None:
    """Leaves an unchanged file's time stamp alone, so that Ninja has nothing to do."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
