"""Boards as data: loading and checking `boards/*.toml`."""

from pipeline.boards.board import Board, board_names, load_board
from pipeline.boards.memory_system import MemorySystem, Variant

__all__ = ["Board", "MemorySystem", "Variant", "board_names", "load_board"]
