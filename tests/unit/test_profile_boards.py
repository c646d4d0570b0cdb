"""Several boards in one call of `edgenas profile`."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import stages
from pipeline.boards import Board, load_board
from pipeline.errors import ConfigError, LinkError
from pipeline.progress import Reporter


def test_a_board_that_fails_is_told_while_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    told, finished = threading.Event(), threading.Event()

    def warn(self: Reporter, text: str) -> None:
        said.append(text)
        told.set()

    def profile(board: Board, *_: Any, **__: Any) -> Any:
        if board.name == "qemu-rv32":
            raise LinkError("the cable is loose", hint="push it in")
        if told.wait(20.0):
            finished.set()
        return SimpleNamespace(rows={}, identity=SimpleNamespace(hash="hash"))

    monkeypatch.setattr(Reporter, "warn", warn)
    monkeypatch.setattr(stages, "profile", profile)
    boards = [load_board(name) for name in ("qemu-cortex-m4", "qemu-rv32")]
    with pytest.raises(LinkError) as caught:
        stages.profile_boards(boards, None, tmp_path, quiet=True)
    assert finished.is_set(), "told only when the other board was done"
    assert said == ["qemu-rv32 could not be measured: the cable is loose (push it in)"]
    assert (caught.value.message, caught.value.hint) == ("the cable is loose", "push it in")
    with pytest.raises(LinkError):  # alone, its error is all that there is to say
        stages.profile_boards(boards[1:], None, tmp_path, quiet=True)
    assert len(said) == 1


def test_boards_that_would_share_a_table_are_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "profile", lambda *_, **__: pytest.fail("measured"))
    board = load_board("qemu-cortex-m4")
    with pytest.raises(ConfigError, match="--board: two of the boards are named qemu-cortex-m4") as caught:
        stages.profile_boards([board, load_board("qemu-rv32"), board], None, tmp_path, quiet=True)
    assert "another 'name'" in caught.value.hint
