"""Link: how bytes reach a target and come back."""

from __future__ import annotations

from abc import abstractmethod

from pipeline.closing import Closing


class Link(Closing):
    """A byte stream to a target; a context manager that releases the target on exit.

    `read` and `write` raise LinkError once the target is gone.

    `slowness`: how many times longer than a microcontroller this target may compute before it counts as hung.
    `patience_s`: how long it may stay silent where there is nothing to compute.
    `real_time`: whether its seconds are those of the host, as a board's are and an emulator's are not.
    """

    slowness: float = 1.0
    patience_s: float = 3.0
    real_time: bool = False

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Sends all of `data`."""

    @abstractmethod
    def read(self, timeout_s: float) -> bytes:
        """What has arrived, as soon as there is something; b"" after `timeout_s` seconds of silence."""

    @abstractmethod
    def close(self) -> None:
        """Releases the target; may be called twice."""

    def alive(self) -> bool:
        """Whether the target can still answer, as far as the host can tell."""
        return True

    def stderr_tail(self) -> str:
        """Last lines of what an emulator wrote to its standard error."""
        return ""

    def exit_code(self) -> int | None:
        """An emulator's exit status once it has ended (negative: the signal that ended it)."""
        return None

    def describe(self) -> str:
        """The target in words, for messages."""
        return type(self).__name__
