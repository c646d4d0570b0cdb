"""What this machine has of what edgenas needs."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.boards import board_names, load_board

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
    ("tensorflow", "nothing by default; Keras data download", False, "tensorflow"),
)


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


def examine() -> list[Check]:
    """Check programs, Python packages, boards and serial ports."""
    checks = [_program(name, use, f"apt-get install {package}") for name, use, package in _PROGRAMS]
    for name in board_names():
        board = load_board(name)
        compiler = f"{board.core.toolchain}gcc"
        package = f"gcc-{board.core.toolchain.rstrip('-')}"
        extra = " libnewlib-arm-none-eabi" if "arm-none-eabi" in package else ""
        checks.append(_program(compiler, f"firmware for {name}", f"apt-get install {package}{extra}"))
        if board.emulator is not None:
            program = board.emulator.program
            checks.append(_program(program, f"emulates {name}", f"apt-get install {program}"))
    checks += [_package(*package) for package in _PACKAGES]
    checks.append(_serial_ports())
    return checks


def _program(name: str, use: str, remedy: str) -> Check:
    path = shutil.which(name)
    return Check(f"{name} ({use})", path is not None, _version(path) if path else "", remedy, needed=True)


def _version(path: str) -> str:
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


def _serial_ports() -> Check:
    from serial.tools import list_ports

    ports = [f"{port.device} {port.vid:04x}:{port.pid:04x}" for port in list_ports.comports() if port.vid]
    found = ", ".join(ports) or "none (the emulated boards need none)"
    return Check("serial ports (real boards)", True, found, "", needed=False)
