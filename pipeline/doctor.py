"""What this machine has of what edgenas needs, and which boards it can serve."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.boards import Board, board_names, load_board
from pipeline.errors import EdgeNasError
from pipeline.flashers import flashers_of
from pipeline.flashers.flasher import find_program
from pipeline.links.discovery import Comports, SerialPort, serial_ports
from pipeline.links.qemu import machines, qemu_package

# program, what it is for, Debian package
_PROGRAMS = (
    ("gcc", "host builds of the engine, QEMU counting plugin", "gcc libc6-dev"),
    ("cmake", "firmware builds", "cmake"),
    ("ninja", "firmware builds", "ninja-build"),
)
# distribution, what it is for, needed, extra of this package
_PACKAGES = (
    ("ai-edge-litert", "reading .tflite, LiteRT reference kernels", True, ""),
    ("tflite-micro", "TFLite Micro reference: bit-exact validation", True, "reference"),
    ("torch", "search and training", False, "search"),
    ("scikit-learn", "bundled digits where no data set can be had", False, "search"),
    ("platformio", "PlatformIO projects and uploads", False, "platformio"),
    ("esptool", "flashing Espressif's chips", False, "flash"),
    ("tensorflow", "nothing by default; Keras data download", False, "tensorflow"),
)
# Debian packages of cross-compilers, by prefix; their C headers are packages of their own
_TOOLCHAINS = {
    "": "gcc libc6-dev",
    "arm-none-eabi-": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "riscv64-unknown-elf-": "gcc-riscv64-unknown-elf",
    "aarch64-linux-gnu-": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
}
_VERILATOR = "verilator"

Part = Literal["toolchain", "emulator", "flasher", "link"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    found: str
    remedy: str
    needed: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BoardPart:
    """One thing that a board needs: a compiler, its emulator, a flasher (any one will do), its port."""

    part: Part
    name: str
    ok: bool
    found: str
    remedy: str


@dataclass(frozen=True, slots=True)
class BoardCheck:
    """What can be done with one board here."""

    board: str
    emulated: bool
    parts: tuple[BoardPart, ...] = field(default=())
    problem: str = ""  # the board file itself cannot be used

    def has(self, part: Part) -> bool:
        """Whether the board needs no such part, or at least one is there."""
        mine = [one.ok for one in self.parts if one.part == part]
        return not mine or any(mine)

    @property
    def can_build(self) -> bool:
        return not self.problem and self.has("toolchain")

    @property
    def can_flash(self) -> bool:
        """Whether a tool is there that puts a program into the board."""
        return self.can_build and any(one.part == "flasher" and one.ok for one in self.parts)

    @property
    def can_run(self) -> bool:
        """Whether programs can be run now: an emulator, or a connected board and a tool to flash it."""
        ready = self.has("emulator") and self.has("link") and (self.emulated or self.has("flasher"))
        return self.can_build and ready

    @property
    def gaps(self) -> list[str]:
        """What to do about what is missing; of several flashers the first that is missing, if none is there."""
        if self.problem:
            return [self.problem]
        missing = []
        for part in ("toolchain", "emulator", "flasher", "link"):
            mine = [one for one in self.parts if one.part == part]
            if mine and not any(one.ok for one in mine):
                missing.append(" or ".join(dict.fromkeys(one.remedy for one in mine)))
        return missing

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "can_build": self.can_build, "can_flash": self.can_flash,
                "can_run": self.can_run, "gaps": self.gaps}  # fmt: skip


def examine(boards: Iterable[BoardCheck]) -> list[Check]:
    """Programs, Python packages, and what `boards` need (from `examine_boards`), each program once."""
    checks = [_program(name, use, f"apt-get install {package}") for name, use, package in _PROGRAMS]
    needs: dict[str, list[tuple[BoardCheck, BoardPart]]] = {}
    for board in boards:
        if board.problem:
            checks.append(Check(f"board file {board.board}", False, "", board.problem, True))
        for one in board.parts:
            if one.part in ("toolchain", "emulator"):
                needs.setdefault(one.name, []).append((board, one))
    for name, uses in needs.items():
        if any(check.name.startswith(f"{name} (") for check in checks):
            continue  # gcc is listed already
        missing = [one for _, one in uses if not one.ok]
        worst = missing[0] if missing else uses[0][1]
        use = f"{worst.part} of {', '.join(board.board for board, _ in uses)}"
        needed = any(board.emulated for board, _ in uses)
        checks.append(Check(f"{name} ({use})", not missing, worst.found, worst.remedy, needed))
    checks += [_package(*package) for package in _PACKAGES]
    checks.append(_ports_line(serial_ports()))
    return checks


def examine_boards(names: Iterable[str] | None = None, comports: Comports | None = None) -> list[BoardCheck]:
    """What can be done with each board (all that ship, or `names`), from what its file says it needs."""
    ports = serial_ports(comports)
    return [_examine_board(name, ports) for name in (board_names() if names is None else names)]


def _examine_board(name: str, ports: list[SerialPort]) -> BoardCheck:
    try:
        return examine_board(name, ports)
    except EdgeNasError as error:
        return BoardCheck(name, False, problem=str(error))


def examine_board(name: str, ports: list[SerialPort] | None = None) -> BoardCheck:
    """What can be done with one board. Raises ConfigError where there is none, or its file cannot be used."""
    board = load_board(name)
    parts = [_toolchain(board)]
    if board.emulator is not None:
        parts.append(_emulator(board))
    for flasher in flashers_of(board):
        flasher.settings(board)
        found = flasher.available(board)
        parts.append(BoardPart("flasher", flasher.kind, bool(found.path), found.path or "", found.remedy))
    if board.emulator is None:
        parts.append(
            _ssh() if board.port.hosted else _port(board, serial_ports() if ports is None else ports)
        )
    return BoardCheck(board.name, board.emulator is not None, tuple(parts))


def _toolchain(board: Board) -> BoardPart:
    prefix = board.core.toolchain
    compiler = f"{prefix}gcc"
    package = _TOOLCHAINS.get(prefix)
    remedy = f"apt-get install {package}" if package else "install it, or correct the board's file"
    path = shutil.which(compiler)
    found = _version(path) if path else ""
    return BoardPart("toolchain", compiler, path is not None, found, remedy)


def _emulator(board: Board) -> BoardPart:
    emulator = board.emulator
    assert emulator is not None
    if emulator.kind == "qemu":
        path = shutil.which(emulator.program)
        package = qemu_package(emulator.program)
        remedy = f"apt-get install {package}" if package else "install it, or correct the board's file"
        if path is None:
            return BoardPart("emulator", emulator.program, False, "", remedy)
        known = machines(path)
        ok = not known or emulator.machine.split(",")[0] in known
        found = _version(path) if ok else f"{path} does not know machine {emulator.machine}"
        return BoardPart(
            "emulator", emulator.program, ok, found, "install a newer QEMU" if not ok else remedy
        )
    if emulator.kind == "verilator":
        path = shutil.which(_VERILATOR)
        found = _version(path) if path else ""
        return BoardPart("emulator", _VERILATOR, path is not None, found, f"apt-get install {_VERILATOR}")
    if emulator.kind == "wheel":
        module = "tflite_micro"
        ok = importlib.util.find_spec(module) is not None
        return BoardPart("emulator", module, ok, module if ok else "", "pip install 'edgenas[reference]'")
    return BoardPart("emulator", "this machine", True, "runs as a process", "")


def _port(board: Board, ports: list[SerialPort]) -> BoardPart:
    mine = [port for port in ports if port.usb_id in board.usb_ids]
    if board.usb_ids:
        name = f"USB {' or '.join(board.usb_ids)}"
        remedy = "connect the board"
    else:
        mine = [port for port in ports if port.usb_id]  # any adapter may be the one
        name, remedy = "a USB-serial adapter", "connect the board's UART through a USB-serial adapter"
    return BoardPart("link", name, bool(mine), ", ".join(map(str, mine)), remedy)


def _ssh() -> BoardPart:
    """Of a board with an operating system, which is another machine: no port says which."""
    path = shutil.which("ssh")
    found = f"{path}; name the board: --port ssh://user@host, or on the board itself --port local"
    remedy = "apt-get install openssh-client, or run edgenas on the board itself with --port local"
    return BoardPart("link", "ssh", path is not None, found if path else "", remedy)


def _program(name: str, use: str, remedy: str) -> Check:
    path = find_program(name)
    return Check(f"{name} ({use})", path is not None, _version(path) if path else "", remedy, needed=True)


_versions: dict[str, str] = {}  # several boards share a compiler


def _version(path: str) -> str:
    if path not in _versions:
        _versions[path] = _ask_version(path)
    return _versions[path]


def _ask_version(path: str) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return f"{path}, which does not answer --version"
    lines = done.stdout.splitlines()
    return lines[0].strip() if lines else path


def _package(name: str, use: str, needed: bool, extra: str) -> Check:
    remedy = f"pip install 'edgenas[{extra}]'" if extra else f"pip install {name}"
    try:
        return Check(f"{name} ({use})", True, importlib.metadata.version(name), remedy, needed)
    except importlib.metadata.PackageNotFoundError:
        return Check(f"{name} ({use})", False, "", remedy, needed)


def _ports_line(ports: list[SerialPort]) -> Check:
    found = ", ".join(str(port) for port in ports if port.usb_id)
    found = found or "none on USB (the emulated boards need none)"
    return Check("serial ports (real boards)", True, found, "", needed=False)
