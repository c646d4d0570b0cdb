"""Target: TensorFlow Lite Micro for a board, ready to be opened: firmware that was built, or the wheel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ConfigError
from pipeline.firmware.build import Build
from pipeline.firmware.symbolize import fault_explainer
from pipeline.links import open_link
from pipeline.links.wheel import open_wheel, wheel_revision
from pipeline.tflm.device import TflmDevice
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

    @contextmanager
    def open(
        self, *, port: str | None = None, plugin_args: Sequence[str] | None = None
    ) -> Iterator[TflmDevice]:
        """The interpreter on the board (at `port`) or its emulator, greeted; released at the end."""
        if self.built is None:
            with open_wheel(self.board) as link:
                yield TflmDevice(link)
            return
        with open_link(self.board, self.built.elf, port=port, plugin_args=plugin_args) as link:
            explain = fault_explainer(self.built.elf, self.board)
            yield TflmDevice(link, build_id=self.built.build_id, explain=explain)


def is_wheel(board: Board) -> bool:
    return board.emulator is not None and board.emulator.kind == "wheel"
