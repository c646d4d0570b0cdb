"""The same cases on every board that can run here: emulated, simulated as RTL, native."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
from board_cases import BoardCases

from pipeline.boards import Board, board_names, load_board

pytestmark = pytest.mark.emulated
BOARDS = [
    name
    for name in board_names()
    if (emulator := load_board(name).emulator) is not None
    and emulator.kind in ("qemu", "verilator", "process")
]


def missing(board: Board) -> str:
    """What this machine lacks to run `board`; empty where it has everything."""
    assert board.emulator is not None
    programs = [f"{board.core.toolchain}gcc", "cmake", "ninja"]
    if board.emulator.kind == "qemu":
        programs.append(board.emulator.program)
    lacking = [program for program in programs if shutil.which(program) is None]
    if board.emulator.kind == "verilator":
        lacking += [p for p in ("verilator", "g++", "make") if shutil.which(p) is None]
        package = f"pythondata_cpu_{board.emulator.machine}"
        lacking += [package] if importlib.util.find_spec(package) is None else []
    return ", ".join(lacking)


@pytest.mark.parametrize("board", BOARDS, scope="class", indirect=True)
class TestEveryBoard(BoardCases):
    @pytest.fixture(scope="class")
    @classmethod
    def board(cls, request: pytest.FixtureRequest) -> Board:
        board = load_board(request.param)
        if lacking := missing(board):
            pytest.skip(f"{board.name} needs {lacking}")
        return board


def test_the_boards_that_must_run_here_are_among_them() -> None:
    assert {"qemu-cortex-m4", "qemu-cortex-m7", "qemu-rv32"} <= set(BOARDS)
