"""Boards as data: loading and checking `boards/*.toml`."""

from pipeline.boards.board import Board, board_names, load_board

__all__ = ["Board", "board_names", "load_board"]
