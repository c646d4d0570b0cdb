"""The same cases as in emulation, on a board: EDGENAS_BOARD (name or file) and EDGENAS_PORT.

The board is flashed before each case that needs another firmware, with EDGENAS_FLASHER or the board's first usable.
"""

from __future__ import annotations

import os

import pytest
from board_cases import BoardCases, Flash

from pipeline.boards import Board, load_board
from pipeline.firmware import Build
from pipeline.flashers import flash_and_greet

BOARD, PORT = os.environ.get("EDGENAS_BOARD"), os.environ.get("EDGENAS_PORT")
pytestmark = [
    pytest.mark.hardware,
    pytest.mark.skipif(not (BOARD and PORT), reason="no board: set EDGENAS_BOARD and EDGENAS_PORT"),
]


class TestBoard(BoardCases):
    @pytest.fixture(scope="class")
    @classmethod
    def board(cls) -> Board:
        return load_board(BOARD or "")

    @pytest.fixture(scope="class")
    @classmethod
    def port(cls) -> str | None:
        return PORT

    @pytest.fixture(scope="class")
    @classmethod
    def flash(cls, board: Board) -> Flash:
        on_it: list[bytes] = []  # build id of what was flashed last

        def put(built: Build) -> None:
            if board.flashers and on_it[-1:] != [built.build_id]:
                flash_and_greet(board, built.elf, kind=os.environ.get("EDGENAS_FLASHER"), port=PORT)
                on_it.append(built.build_id)

        return put
