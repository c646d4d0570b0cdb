"""Every error a user can cause, or can do something about."""

from __future__ import annotations


class EdgeNasError(Exception):
    """Says what is wrong and where (`message`), and what to do next (`hint`).

    The command line prints both and exits with status 2; no traceback is shown.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(EdgeNasError):
    """A run file, board file or option that cannot be used as it stands.

    `key`: the setting that is to blame, by its name in the dataclass or table at hand; empty where none is known.
    """

    def __init__(self, message: str, *, hint: str = "", key: str = "") -> None:
        super().__init__(message, hint=hint)
        self.key = key


class DataError(EdgeNasError):
    """A data set that is missing or malformed."""


class ModelError(EdgeNasError):
    """A .tflite that cannot be read or has something the engine does not support."""


class BudgetError(EdgeNasError):
    """A model or a search that cannot meet a budget; names the budget and by how much."""


class LutError(EdgeNasError):
    """A latency table that is missing, damaged or of another identity."""


class StorageError(EdgeNasError):
    """A file or folder that cannot be written: a full disk, missing permission."""


class ToolError(EdgeNasError):
    """A compiler, emulator or other program that is missing or failed."""


class LinkError(EdgeNasError):
    """A target that does not answer, hangs, or answers nonsense."""
