"""Build folders that are kept: what is in them is of the compiler that a table would name."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.boards import load_board
from pipeline.firmware import build, render_bench
from pipeline.memory.flash import FlashModel
from pipeline.profiler.footprint import measure_flash, sample_graph

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(
        not all(map(shutil.which, ("gcc", "cmake", "ninja"))), reason="needs gcc, cmake and ninja"
    ),
]
BOARD = load_board("host")
REAL = shutil.which("gcc")


def compiler(folder: Path, version: str) -> Path:
    """A compiler in a folder of its own that says `version`, and notes each file that it compiles."""
    folder.mkdir(exist_ok=True)
    program = folder / "gcc"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "gcc ({version}) 12.2.0" && exit\n'
        f'echo "$@" >> "{folder}/{version}.log"\nexec "{REAL}" "$@"\n'
    )
    program.chmod(0o755)
    return folder / f"{version}.log"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["replaced", "in front of it on the path"])
def test_another_compiler_compiles_again(
    elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / ("second" if elsewhere else "first")
    log = compiler(first, "old")
    monkeypatch.setenv("PATH", f"{first}{os.pathsep}{os.environ['PATH']}")
    folder = render_bench(BOARD, tmp_path / "bench")
    build(folder, BOARD)
    calls = log.read_text()
    assert "conv.c" in calls
    build(folder, BOARD)
    assert log.read_text() == calls  # nothing has changed, nothing is done
    log = compiler(second, "new")
    monkeypatch.setenv("PATH", f"{second}{os.pathsep}{os.environ['PATH']}")
    build(folder, BOARD)
    assert "conv.c" in log.read_text()


def test_two_that_want_the_same_footprint_do_not_take_it_apart(tmp_path: Path) -> None:
    """The folder is emptied first: without a lock the second would do so while the first compiles there."""

    def measured(late_s: float) -> FlashModel:
        time.sleep(late_s)
        return measure_flash(BOARD, sample_graph(), tmp_path / "footprint")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(measured, (0.0, 0.5, 1.0, 1.5)))
    assert found[1:] == found[:-1]
