"""QEMU as a target: the board's UART is one end of a socket pair."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.boards import Board
from pipeline.boards.board import Emulator
from pipeline.errors import LinkError, ToolError
from pipeline.links.process import ProcessLink

ICOUNT_SHIFT = 6  # an instruction takes 2^6 ns of virtual time
INSTRUCTION_NS = 1 << ICOUNT_SHIFT

_PACKAGES = {
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
    "qemu-system-riscv64": "qemu-system-misc",
}
_NO_PACKAGE = "install it, or correct emulator.program in the board's file"
_STUB_TIMEOUT_S = 10.0


def qemu_package(program: str) -> str:
    """Debian package of a QEMU program; empty for one that Debian does not have."""
    return _PACKAGES.get(program, "")


def _emulator(board: Board) -> tuple[Emulator, str]:
    """The board's emulator and the path of its program; raises ToolError where either is missing."""
    if board.emulator is None:
        raise ToolError(f"board {board.name} has no emulator", hint="connect it and give its serial port")
    if board.emulator.kind != "qemu":
        raise ToolError(f"board {board.name} is emulated by {board.emulator.kind}, not by QEMU")
    found = shutil.which(board.emulator.program)
    if found is None:
        package = qemu_package(board.emulator.program)
        hint = f"sudo apt install {package}" if package else _NO_PACKAGE
        raise ToolError(f"{board.emulator.program} is not installed", hint=hint)
    return board.emulator, found


def qemu_arguments(board: Board) -> list[str]:
    """QEMU's command line without a program to run and without the UART's other end (chardev `wire`).

    Virtual time follows the instruction count, so the device's timer is exact and repeatable; no
    `sleep=off`, which would burn a core while the firmware waits. The board file's `emulator.options` come
    last and may override. Raises ToolError: no QEMU.
    """
    emulator, program = _emulator(board)
    return [
        program, "-M", emulator.machine, "-nodefaults", "-display", "none", "-monitor", "none",
        "-icount", f"shift={ICOUNT_SHIFT}", "-serial", "chardev:wire", *emulator.options,
    ]  # fmt: skip


def boot_arguments(board: Board, elf: Path) -> list[str]:
    """How QEMU loads `elf` and starts it.

    Arm machines take an ELF as `-kernel`: Cortex-M's then start by the vector table, A profile's at the ELF's
    entry, with the device tree out of the way. RISC-V machines would start it at a fixed address, behind a
    firmware; there the loader device places the ELF as it is and starts the first core at its entry, at every
    reset (with `-bios none` among the board file's options).
    """
    if board.core.isa.startswith("rv"):
        return ["-device", f"loader,file={_option(elf)},cpu-num=0"]
    return ["-kernel", str(elf)]


def open_qemu(board: Board, elf: Path, *, plugin_args: Sequence[str] | None = None) -> ProcessLink:
    """Boots `elf` on the board's emulator.

    `plugin_args`: one `FILE,key=value,...` per TCG plugin. Raises ToolError: no QEMU, no such ELF.
    """
    arguments = qemu_arguments(board)
    if not elf.is_file():
        raise ToolError(f"no firmware at {elf}", hint="build it first: edgenas deploy, or edgenas flash")
    arguments += boot_arguments(board, elf)
    for plugin in plugin_args or ():
        arguments += ["-plugin", plugin]
    return ProcessLink(
        lambda fd: [*arguments, "-chardev", f"socket,id=wire,fd={fd}"],
        name=f"{arguments[0].rsplit('/', 1)[-1]} ({board.name})",
    )


class FlashedQemu(ProcessLink):
    """A powered, empty board: QEMU without a program, its core halted until gdb has loaded one.

    `stub` is the gdb stub's Unix socket (a path, so there is no race for a port). What is flashed lives as
    long as this process; the link talks to the program once gdb has detached.
    """

    def __init__(self, board: Board) -> None:
        """Raises ToolError: no QEMU; LinkError: it ends at once, or opens no stub within 10 s."""
        self._folder = tempfile.TemporaryDirectory(prefix="edgenas-gdb-")
        self.stub = str(Path(self._folder.name) / "stub")
        try:
            arguments = qemu_arguments(board)
            arguments += ["-S", "-gdb", f"unix:{_option(self.stub)},server=on,wait=off"]
            super().__init__(
                lambda fd: [*arguments, "-chardev", f"socket,id=wire,fd={fd}"],
                name=f"{arguments[0].rsplit('/', 1)[-1]} ({board.name}, flashed)",
            )
            self._await_stub()
        except BaseException:
            self._folder.cleanup()
            raise

    def _await_stub(self) -> None:
        deadline = time.monotonic() + _STUB_TIMEOUT_S
        while not os.path.exists(self.stub):  # noqa: PTH110  a socket, not a file
            if not self.alive() or time.monotonic() > deadline:
                hint = self.obituary()
                self.close()
                raise LinkError(f"{self.describe()} did not open its gdb stub", hint=hint)
            time.sleep(0.01)

    def close(self) -> None:
        super().close()
        self._folder.cleanup()


def machines(program: str) -> set[str]:
    """Machine names that a QEMU program emulates; empty where it cannot be asked."""
    try:
        done = subprocess.run(
            [program, "-M", "help"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return {line.split()[0] for line in done.stdout.splitlines()[1:] if line.strip()}


def _option(value: str | Path) -> str:
    """`value` inside one of QEMU's comma-separated options."""
    return str(value).replace(",", ",,")
