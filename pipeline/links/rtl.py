"""RISC-V cores as open RTL: simulators compiled by Verilator from the core's sources and firmware/emulator/rtl.

A board's `emulator.machine` names the core: `<machine>.sv`, `<machine>_prims.sv`, `<machine>.f` and `<machine>.vlt`
in that folder, and the PyPI package `pythondata-cpu-<machine>` with the core itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.errors import ToolError
from pipeline.links.compiled import cache_folder
from pipeline.links.process import ProcessLink
from pipeline.progress import Reporter

SLOWNESS = 40.0  # simulators run some millions of cycles a second, targets and QEMU a hundred times as many

_HARNESS, _BUS = "harness.cpp", "soc_bus.sv"
# -fno-table: tables hide from Verilator that their outputs do not depend on each other's inputs, and loops appear
_VERILATOR = (
    "--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-fno-table",
    "-Wno-fatal", "-Wno-WIDTH", "--top-module", "soc",
)  # fmt: skip
_COMPILE = "-O2"
_RECORD = ("-fprofile-generate", "-fprofile-update=single")
_REPLAY = ("-fprofile-use", "-fprofile-partial-training", "-Wno-missing-profile", "-Wno-coverage-mismatch")
_PACKAGES = {"verilator": "verilator", "g++": "g++", "make": "make"}  # program: Debian package
_STEP_TIMEOUT_S = 900.0


def open_rtl(board: Board, elf: Path) -> ProcessLink:
    """Starts `elf` on the simulated core, whose simulator is compiled first where that has not been done yet.

    Its memories have the wait states of the board file.

    Raises ToolError: no Verilator, C++ compiler or make; the core's sources are not installed; the build fails; no
    such ELF.
    """
    if board.emulator is None or board.emulator.kind != "verilator":
        raise ToolError(f"board {board.name} is not simulated as RTL")
    if not elf.is_file():
        raise ToolError(f"no firmware at {elf}", hint="build it first: edgenas deploy, or edgenas flash")
    waits = [str(region.wait_states) for region in (board.memory.flash, board.memory.sram)]
    program = simulator(board.emulator.machine)
    link = ProcessLink(
        lambda fd: [str(program), str(elf), str(fd), *waits], name=f"RTL simulation ({board.name})"
    )
    link.slowness = SLOWNESS
    return link


def simulator(machine: str) -> Path:
    """The simulator of a core, compiled on first use (about a minute) and kept under a hash of what it is made of.

    Raises ToolError as `open_rtl` does.
    """
    core = _core_sources(machine)
    sources = _own_sources(machine)
    tools = {name: _tool(name) for name in _PACKAGES}
    program = cache_folder() / f"rtl-{machine}-{_digest(core, sources, tools)}"
    if program.is_file():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(program.with_name(f".{program.name}.lock")):
        if not program.is_file():  # another process may have made it meanwhile
            Reporter().say(f"  compiling the simulator of {machine} with Verilator, once; about a minute")
            with tempfile.TemporaryDirectory(prefix=".rtl-", dir=program.parent) as folder:
                _build(Path(folder), core, sources, tools).replace(program)
    return program


def _core_sources(machine: str) -> Path:
    package = f"pythondata_cpu_{machine}"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ToolError(
            f"the sources of the core {machine} are not installed",
            hint=f"pip install {package.replace('_', '-')} (or 'edgenas[rtl]')",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "system_verilog"


def _own_sources(machine: str) -> list[Path]:
    """What Verilator is given, in this order: hints must precede what they are about."""
    folder = asset_dir("firmware") / "emulator" / "rtl"
    names = [f"{machine}.vlt", f"{machine}.f", f"{machine}.sv", f"{machine}_prims.sv", _BUS, _HARNESS]
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            raise ToolError(f"no simulation of the core {machine}: {path} is missing")
    return paths


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ToolError(
            f"{name} is not installed; RTL cores are compiled with it",
            hint=f"sudo apt install {_PACKAGES[name]}",
        )
    return path


def _digest(core: Path, sources: Sequence[Path], tools: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr((_VERILATOR, _COMPILE, _RECORD, _REPLAY)).encode())
    for name in ("verilator", "g++"):
        digest.update(_run([tools[name], "--version"], Path.cwd(), timeout_s=60.0).encode())
    for path in [*sources, *(path for path in sorted(core.rglob("*.sv*")) if path.is_file())]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Other processes wait; the lock goes with the process that holds it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, core: Path, sources: Sequence[Path], tools: Mapping[str, str]) -> Path:
    """Compiles in `folder`, twice: a first simulator runs for a moment and records which branches are taken."""
    arguments = [
        word for path in sources for word in (("-f", str(path)) if path.suffix == ".f" else (str(path),))
    ]
    _run([tools["verilator"], *_VERILATOR, "--Mdir", str(folder), *arguments], folder, {"CORE": str(core)})
    make = [tools["make"], "-f", "Vsoc.mk", f"-j{os.cpu_count() or 1}", "Vsoc"]
    _run([*make, f"OPT_FAST={' '.join((_COMPILE, *_RECORD))}", f"LDFLAGS={_RECORD[0]}"], folder)
    program = folder / "Vsoc"
    _run([str(program)], folder)
    for stale in [program, *folder.glob("*.o"), *folder.glob("*.a")]:
        stale.unlink()
    _run([*make, f"OPT_FAST={' '.join((_COMPILE, *_REPLAY))}"], folder)
    return program


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, *,
    timeout_s: float = _STEP_TIMEOUT_S,
) -> str:  # fmt: skip
    what = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True,
            timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{what} took over {timeout_s:g} s for the simulator of a core") from error
    except OSError as error:
        raise ToolError(f"cannot start {what}: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-1500:]
        raise ToolError(f"{what} cannot make the simulator of a core: {said}", hint=" ".join(command))
    return done.stdout
