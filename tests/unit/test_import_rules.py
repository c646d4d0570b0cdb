"""Imports point down the list in docs/architecture.md, and torch stays in its rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pipeline"
# lower number = higher floor; a room may import its own floor and those below
FLOORS = {
    "cli": 0,
    "stages": 1, "single": 1, "fit": 1, "familystage": 1,
    "runfile": 1, "exitstage": 1, "prunestage": 1, "run": 1, "sweep": 1, "adapt": 1, "searchinputs": 1,
    "rundocument": 1, "runinputs": 1, "robustness": 1, "provenance": 1,
    "report": 2, "validate": 2, "check": 2, "profiler": 2, "search": 2, "train": 2, "export": 2, "tflm": 2, "doctor": 2,
    "firmware": 3, "engine": 3, "flashers": 3,
    "latency": 4, "memory": 4, "wire": 4, "links": 4,
    "space": 5, "data": 5, "boards": 5, "frontend": 5,
    "fleet": 6, "figures": 6, "assets": 6, "closing": 6, "errors": 6, "tomltable": 6, "progress": 6, "storage": 6,
    "runstate": 6, "offline": 6,
    "__init__": 6,
}  # fmt: skip
TORCH_ROOMS = {"search", "train", "export"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_import_upwards(path: Path) -> None:
    room = room_of(path)
    assert room in FLOORS, f"give '{room}' a floor here and in docs/architecture.md"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "pipeline" and len(parts) > 1 and parts[1] in FLOORS:
            assert FLOORS[parts[1]] >= FLOORS[room], f"{room} imports {name}, which is above it"
        if parts[0] in ("torch", "tensorflow"):
            assert parts[0] != "torch" or room in TORCH_ROOMS, f"{room} imports torch"
