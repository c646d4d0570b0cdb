"""Renode as a target, where it is installed: a platform description is generated from the board file.

Untried: Renode could not be run where this was written; the description follows Renode's documentation ("Describing
platforms", "UART integration") and its tests only hold the text and the connection, not the simulation. Use it to see
firmware of a real board start; it has no notion of a core's cycles, so no latency comes from it.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import ConfigError, LinkError, ToolError
from pipeline.links.process import ProcessLink
from pipeline.links.serial_port import SerialLink

_START_S = 30.0
_CPUS = {
    "armv7em": 'cpu: CPU.CortexM @ sysbus\n    cpuType: "{core}"\n    nvic: nvic\n\n'
               "nvic: IRQControllers.NVIC @ sysbus 0xE000E000\n    -> cpu@0\n",
    "rv32": 'cpu: CPU.RiscV32 @ sysbus\n    cpuType: "rv32imac_zicsr_zifencei"\n    timeProvider: empty\n',
}  # fmt: skip
# Renode's models by the board's UART driver; the STM32's two generations differ in their registers
_UARTS = {
    "stm32": "UART.STM32F7_USART",
    "nrf52": "UART.NRF52840_UART",
    "16550": "UART.NS16550",
    "fe310": "UART.SiFive_UART",
    "gd32vf103": "UART.STM32_UART",
    "lpuart": "UART.LowPower_UART",
}
# Every other peripheral answers with pseudo-random words: whatever flag the firmware waits for, it appears.
_WHATEVER = (
    "whatever: Python.PythonPeripheral @ sysbus 0x{start:08X}\n    size: 0x{size:X}\n    initable: true\n"
    '    script: "if request.IsInit: state = 1\\n'
    "elif request.IsRead:\\n    state = (state * 1664525 + 1013904223) % 4294967296\\n"
    '    request.Value = state"\n'
)
_PERIPHERALS = (0x40000000, 0x20000000)


def platform(board: Board) -> str:
    """The board as a Renode platform description (.repl). Raises ConfigError for a core or UART without a model."""
    if board.core.isa not in _CPUS or board.uart.driver not in _UARTS:
        raise ConfigError(
            f"Renode has no model for {board.name}'s {board.core.isa} core with UART '{board.uart.driver}'",
            hint=f"cores: {', '.join(_CPUS)}; UARTs: {', '.join(_UARTS)}",
        )
    flash, sram = board.memory.flash, board.memory.sram
    core = "cortex-m7" if board.core.name == "cortex-m7" else "cortex-m4f"
    parts = [
        _CPUS[board.core.isa].format(core=core),
        f"flash: Memory.MappedMemory @ sysbus 0x{flash.origin:08X}\n    size: 0x{flash.bytes:X}\n",
        f"sram: Memory.MappedMemory @ sysbus 0x{sram.origin:08X}\n    size: 0x{sram.bytes:X}\n",
        f"uart: {_UARTS[board.uart.driver]} @ sysbus <0x{board.uart.base:08X}, +0x400>\n",
        _WHATEVER.format(start=_PERIPHERALS[0], size=_PERIPHERALS[1]),
    ]
    return "\n".join(parts)


def script(board: Board, elf: Path, description: Path, port: int) -> str:
    """Renode's commands: build the machine, load `elf`, put its UART onto TCP port `port`, start."""
    return "\n".join(
        (
            f'mach create "{board.name}"',
            f"machine LoadPlatformDescription @{description}",
            f'emulation CreateServerSocketTerminal {port} "wire" false',
            "connector Connect sysbus.uart wire",
            f"sysbus LoadELF @{elf.resolve()}",
            "start",
            "",
        )
    )


class RenodeLink(SerialLink):
    """Renode with `elf` on a machine generated from `board`; ends with the link.

    Raises ToolError: Renode is not installed; LinkError: it ends, or opens no socket within half a minute.
    """

    def __init__(self, board: Board, elf: Path) -> None:
        program = shutil.which("renode")
        if program is None:
            raise ToolError("Renode is not installed", hint="https://renode.io: put `renode` on the PATH")
        self._folder = tempfile.TemporaryDirectory(prefix="edgenas-renode-")
        self._process: ProcessLink | None = None
        try:
            folder = Path(self._folder.name)
            (folder / "board.repl").write_text(platform(board), encoding="utf-8")
            port = _free_port()
            commands = folder / "start.resc"
            commands.write_text(script(board, elf, folder / "board.repl", port), encoding="utf-8")
            self._process = ProcessLink(
                lambda fd: [program, "--disable-xwt", "--plain", "--console", "-e", f"include @{commands}"],
                name=f"renode ({board.name})",
            )
            _await_listener(self._process, port)
            super().__init__(f"socket://127.0.0.1:{port}")
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        super().close()
        self._release()

    def _release(self) -> None:
        if self._process is not None:
            self._process.close()
        self._folder.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_listener(process: ProcessLink, port: int) -> None:
    """Looks into the kernel's table where it can: a connection that is tried would take the terminal's only client."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if not process.alive():
            raise LinkError("Renode has ended", hint=process.obituary())
        if _listens(port):
            return
        time.sleep(0.1)
    raise LinkError(f"Renode opened no socket within {_START_S:g} s", hint=process.stderr_tail())


def _listens(port: int) -> bool:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            probe.bind(("127.0.0.1", port))
    except OSError:
        return True
    return False
