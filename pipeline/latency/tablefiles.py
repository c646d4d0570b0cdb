"""Files of a latency table: text with checksums, and what is said of damaged ones."""

from __future__ import annotations

import json
import tomllib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.boards import board_names
from pipeline.errors import LutError
from pipeline.storage import write_text

FORMAT = 1
CALIBRATION = ".intervals.toml"  # how the name of a table's calibration ends


def profile_hint(board: str) -> str:
    return f"measure it here: edgenas profile --board {board}"


def _remedy(path: Path, board: str = "") -> str:
    """For a file of the table of `board`; a calibration can be made anew alone.

    Tables lie in folders with their boards' names, but a path that leads to nothing may have any folder.
    """
    folder = path.parent.name
    name = board or (folder if path.is_file() or folder in board_names() else "")
    if path.name.endswith(CALIBRATION):
        return f"delete it, or calibrate anew: edgenas lut check --board {name or 'BOARD'} --calibrate"
    return profile_hint(name) if name else "give the path of a table (.csv), or measure one: edgenas profile"


def damaged(path: Path, what: str, board: str = "") -> LutError:
    return LutError(f"{path} {what}", hint=f"the file is damaged or was edited; {_remedy(path, board)}")


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _checksum(description: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(canonical(description)):08x}"


def read_text(path: Path, board: str = "") -> str:
    """Raises LutError where there is no such file, or no text in it."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise LutError(f"there is no table at {path}", hint=_remedy(path, board)) from error
    except IsADirectoryError as error:
        raise LutError(f"{path} is a folder", hint="give the path of a table (.csv) in it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, f"cannot be read: {error}", board) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Contents without checksum. Raises LutError: no TOML, edited since it was written, or another format."""
    text = read_text(path)
    try:
        description = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise damaged(path, f"is not valid TOML: {error}") from error
    stated = description.pop("checksum", None)
    try:
        matches = stated == _checksum(description)
    except TypeError:  # a date, which no table has
        matches = False
    if not matches:
        raise damaged(path, f"line 1: checksum {stated} does not match the contents")
    if description.get("format") != FORMAT:
        raise LutError(
            f"{path} has format {description.get('format')}, this version reads {FORMAT}",
            hint=_remedy(path),
        )
    return description


def write_toml(path: Path, description: Mapping[str, Any]) -> None:
    """What `read_toml` reads: `description` with the format's number and a checksum over both."""
    whole = {"format": FORMAT, **description}
    write_text(path, _toml({"checksum": _checksum(whole), **whole}))


def _toml(description: Mapping[str, Any]) -> str:
    """TOML of nested tables with strings, numbers and lists of strings; scalars come first."""
    lines: list[str] = []
    _toml_table(description, "", lines)
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml_table(table: Mapping[str, Any], name: str, lines: list[str]) -> None:
    if name:
        lines += ["", f"[{name}]"]
    for key, value in table.items():
        if not isinstance(value, Mapping):
            lines.append(f"{_toml_key(key)} = {json.dumps(value, ensure_ascii=False)}")
    for key, value in table.items():
        if isinstance(value, Mapping):
            _toml_table(value, f"{name}.{_toml_key(key)}" if name else _toml_key(key), lines)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)
