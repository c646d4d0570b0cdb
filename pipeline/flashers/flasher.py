"""Flasher: one external tool that writes a program into a board."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.boards import Board
from pipeline.errors import ConfigError, ToolError

_TAIL_LINES = 12
_COMMON_KEYS = ("program", "reference")


@dataclass(frozen=True, slots=True)
class Target:
    """Which of several boards: `port` (serial port, or address of a gdb stub) and the probe's USB serial."""

    port: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Availability:
    """Path of the tool, or None and what to install."""

    path: str | None
    remedy: str


ANY = Target()


def find_program(name: str) -> str | None:
    """`name` on the path, or beside this Python (a virtual environment that is not activated)."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


class Flasher(ABC):
    """Settings come from the board's `[flashers.<kind>]`; unknown and missing keys are ConfigErrors.

    Every kind also takes `program` (instead of the usual one) and `reference` (where the settings come from).

    `keys`: setting -> default, None where the board must give it. `needs_port`: cannot work without
    `Target.port`. `by_probe`: works through the board's debug probe, whose USB serial number it takes.
    `hints`: pattern in the tool's output -> what to do about it.
    """

    kind: ClassVar[str]
    program: ClassVar[str]
    remedy: ClassVar[str]
    keys: ClassVar[Mapping[str, str | None]] = {}
    hints: ClassVar[Mapping[str, str]] = {}
    needs_port: ClassVar[bool] = False
    by_probe: ClassVar[bool] = False
    timeout_s: ClassVar[float] = 180.0

    def program_of(self, board: Board) -> str:
        """The tool's program; a board file may name another (`program`)."""
        return board.flashers.get(self.kind, {}).get("program", self.program)

    def available(self, board: Board) -> Availability:
        """Where the tool is, or how to get it."""
        return Availability(find_program(self.program_of(board)), self.remedy)

    @abstractmethod
    def command(self, board: Board, elf: Path, target: Target = ANY) -> list[str]:
        """The tool's arguments, program first; touches nothing."""

    def prepare(self, board: Board, elf: Path) -> None:  # noqa: B027  most tools take the ELF as it is
        """Writes the files that `command` names besides the ELF."""

    def settings(self, board: Board) -> dict[str, str]:
        """The board's settings for this tool, defaults filled in."""
        given = board.flashers.get(self.kind)
        if given is None:
            known = ", ".join(board.flashers) or "none"
            raise ConfigError(f"board {board.name} has no [flashers.{self.kind}]", hint=f"it has: {known}")
        where = f"board {board.name}, [flashers.{self.kind}]"
        for key in given:
            if key not in self.keys and key not in _COMMON_KEYS:
                known = ", ".join((*self.keys, *_COMMON_KEYS))
                raise ConfigError(f"{where}: unknown key '{key}'", hint=f"known keys: {known}")
        values = {}
        for key, default in self.keys.items():
            value = given.get(key, default)
            if value is None:
                raise ConfigError(f"{where}: '{key}' is missing", hint="see docs/flashing.md")
            values[key] = str(value)
        return values

    def flash(self, board: Board, elf: Path, target: Target = ANY) -> Path:
        """Writes `elf` into the board, starts it, and returns the path of the tool's log.

        Raises ToolError: the tool is missing, fails (with its last lines) or takes over `timeout_s` seconds.
        """
        if not elf.is_file():
            raise ToolError(f"no firmware at {elf}", hint="leave --elf out to build the benchmark firmware")
        found = self.available(board)
        if found.path is None:
            raise ToolError(f"{self.program_of(board)} is not installed", hint=found.remedy)
        if self.needs_port and not target.port:
            raise ToolError(f"{self.program} needs the serial port", hint="edgenas flash --port PORT")
        self.prepare(board, elf)
        arguments = self.command(board, elf, target)
        return self._run([found.path, *arguments[1:]], board, elf)

    def _run(self, arguments: list[str], board: Board, elf: Path) -> Path:
        log = self.log_path(elf)
        try:
            done = subprocess.run(
                arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=self.timeout_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            text = _text(error.stdout) + _text(error.stderr)
            self._keep(log, arguments, text)
            what = f"{self.program} took over {self.timeout_s:g} s to flash {board.name}{_tail(text)}"
            raise ToolError(what, hint=f"is the board connected and powered? The whole log: {log}") from error
        except OSError as error:
            raise ToolError(f"cannot start {arguments[0]}: {error.strerror}", hint=self.remedy) from error
        text = done.stdout + done.stderr  # the errors last: they are what a reader wants
        self._keep(log, arguments, text)
        problem = self.problem(done.returncode, text)
        if problem:
            raise ToolError(
                f"{self.program} could not flash {board.name} ({problem}){_tail(text)}",
                hint=f"{self._hint(text)}the whole log: {log}",
            )
        return log

    def problem(self, status: int, output: str) -> str:
        """What went wrong, "" where nothing did; some tools end with status 0 all the same."""
        return f"exit status {status}" if status else ""

    def log_path(self, elf: Path) -> Path:
        return elf.with_name(f"flash-{self.kind}.log")

    def _keep(self, log: Path, arguments: list[str], text: str) -> None:
        log.write_text(f"$ {' '.join(arguments)}\n{text}", encoding="utf-8")

    def _hint(self, output: str) -> str:
        for pattern, hint in self.hints.items():
            if re.search(pattern, output, re.IGNORECASE):
                return f"{hint}; "
        return ""


def _text(output: str | bytes | None) -> str:
    """What a tool had written when its time was up; Python hands it over undecoded."""
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _tail(text: str) -> str:
    # progress bars write over their line; the last state is enough
    lines = [line.rsplit("\r", 1)[-1] for line in text.rstrip().split("\n")]
    last = [line for line in lines if line.strip()][-_TAIL_LINES:]
    return ":\n" + "\n".join(f"    {line}" for line in last) if last else "; it wrote nothing"
