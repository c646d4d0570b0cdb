"""gdb over a remote stub: QEMU's, or a probe's with a gdb server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from pipeline.boards import Board
from pipeline.flashers.flasher import ANY, Flasher, Target

# These cores fetch stack pointer and entry from the vector table at reset; the others go on at the ELF's entry,
# where gdb's `load` has put the program counter.
_RESET_BY_VECTORS = ("armv6m", "armv7m", "armv7em")


class Gdb(Flasher):
    """`Target.port` is the stub: host:port, or the path of a Unix socket."""

    kind = "gdb"
    program = "gdb-multiarch"
    remedy = "sudo apt install gdb-multiarch"
    keys: ClassVar = {"reset": ""}
    hints: ClassVar = {
        "connection refused|connection timed out|no such file": "is the emulator, or gdb server, running?",
        "truncated|cannot access memory|load failed": "the program lies outside the board's memory: wrong board?",
    }
    needs_port = True
    timeout_s = 60.0

    def command(self, board: Board, elf: Path, target: Target = ANY) -> list[str]:
        reset = self.settings(board)["reset"]
        if not reset and board.core.isa in _RESET_BY_VECTORS:
            reset = "monitor system_reset"
        steps = ["set confirm off", "set tcp connect-timeout 10", f"target remote {target.port}"]
        steps += ["load", "compare-sections", *([reset] if reset else []), "detach"]
        arguments = [self.program_of(board), "-nx", "-batch"]
        for step in steps:
            arguments += ["-ex", step]
        return [*arguments, str(elf)]

    def problem(self, status: int, output: str) -> str:
        # gdb goes on after a failed command, and its exit status is that of the last one
        if "MIS-MATCHED" in output:
            return "what was read back differs"
        if not re.search(r"^Start address .*load size", output, re.MULTILINE):
            return "nothing was loaded"
        if not re.search(r"^Section .* matched\.", output, re.MULTILINE):
            return "nothing was read back"
        return super().problem(status, output)
