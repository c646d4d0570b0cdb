"""Progress on long work: rich bars on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_PLAIN_EVERY_S = 15.0  # a log file wants a sign of life, not a flood


class Bar:
    """One long job. `update(done, text)` may be called as often as is convenient."""

    def __init__(self, name: str, total: int, progress: RichProgress | None, quiet: bool) -> None:
        self._name, self._total, self._progress, self._quiet = name, total, progress, quiet
        self._task = progress.add_task(name, total=total, text="") if progress else None
        self._started = self._last = time.monotonic()
        self._first: int | None = None  # what was done when `_started` was taken
        self._done = 0

    def update(self, done: int, text: str = "", total: int | None = None) -> None:
        """`total`: where it has changed. A resumed job starts above 0; one that falls back has begun a new phase."""
        phase = done < self._done or (total or self._total) != self._total
        self._done, self._total = done, total or self._total
        if self._first is None or phase:  # the pace is that of this phase, by this process
            self._first, self._started = done, time.monotonic()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=self._total, text=text)
        elif not self._quiet and time.monotonic() - self._last > _PLAIN_EVERY_S:
            self._last = time.monotonic()
            line = f"  {self._name}: {done}/{self._total} {text}"
            if done > self._first:
                left = (self._last - self._started) * (self._total - done) / (done - self._first)
                line += f", about {_duration(left)} left"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


class Reporter:
    """Where stages say what they do. All of it goes to stderr: stdout is for results. Threads may share one."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: RichProgress | None = None
        self._bars = 0
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", markup=False, style="yellow")

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Bar]:
        """A progress bar that disappears when the job is done; several at a time stand below one another."""
        if self.quiet or not self.console.is_terminal:
            yield Bar(name, total, None, self.quiet)
            return
        bar = Bar(name, total, self._claim(), False)
        try:
            yield bar
        finally:
            bar.close()
            self._release()

    def _claim(self) -> RichProgress:
        with self._lock:
            self._bars += 1
            if self._progress is None:
                self._progress = RichProgress(
                    TextColumn("  {task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(),
                    TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
                    console=self.console, transient=True,
                )  # fmt: skip
                self._progress.start()
            return self._progress

    def _release(self) -> None:
        with self._lock:
            self._bars -= 1
            if self._bars == 0 and self._progress is not None:
                self._progress.stop()
                self._progress = None
