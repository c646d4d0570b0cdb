"""Target: TensorFlow Lite Micro for a board, ready to be opened: firmware that was built, or the wheel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ConfigError
from pipeline.firmware.build import Build
from pipeline.links import Link, open_link
from pipeline.links.wheel import open_wheel, wheel_revision
from pipeline.tflm.firmware import build_tflm
from pipeline.tflm.library import REFERENCE, find_library


@dataclass(frozen=True, slots=True)
class Target:
    """`built` is None where no firmware is: the wheel."""

    board: Board
    engine: str
    revision_text: str
    built: Build | None

    @classmethod
    def build(cls, board: Board, engine: str, folder: Path) -> Target:
        """Builds the firmware in `folder` where the board takes one.

        Raises ToolError (TFLM_ROOT not set, no library, no compiler), ConfigError for kernels that the board
        cannot have.
        """
        revision, _ = cls.revision(board, engine)
        if is_wheel(board):
            return cls(board, engine, revision, None)
        return cls(board, engine, revision, build_tflm(board, find_library(board, engine), folder))

    @staticmethod
    def revision(board: Board, engine: str) -> tuple[str, str]:
        """(revision of the library, the C++ compiler around it); raises as `build` does."""
        if is_wheel(board):
            if engine != REFERENCE:
                raise ConfigError(f"board {board.name} runs engine {REFERENCE} only, not {engine}")
            return wheel_revision(), ""
        return find_library(board, engine).revision, f"{board.core.toolchain}g++"

    @property
    def build_id(self) -> bytes | None:
        return self.built.build_id if self.built is not None else None

    def open(self, *, port: str | None = None, plugin_args: Sequence[str] | None = None) -> Link:
        """A link to the board or its emulator, running the interpreter."""
        if self.built is None:
            return open_wheel(self.board)
        return open_link(self.board, self.built.elf, port=port, plugin_args=plugin_args)


def is_wheel(board: Board) -> bool:
    return board.emulator is not None and board.emulator.kind == "wheel"
