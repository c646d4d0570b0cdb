"""The identity that a table measured here and now would have."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.firmware.build import compiler_version
from pipeline.firmware.render import COMPILE_FLAGS, engine_sources, port_sources
from pipeline.latency.lut import Identity
from pipeline.latency.modelled import wait_states
from pipeline.latency.timing import timing_model, waiting_model

ENGINE = "edgenas"
_EMULATORS = {"qemu": "emulator", "verilator": "emulator/rtl"}  # folders of firmware/ that count
_THIS_MACHINE = ("process", "wheel")  # emulators that are none
# keys of /proc/cpuinfo on x86, Arm and RISC-V
_NAMES = ("model name", "uarch", "Hardware")
_NUMBERS = ("cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant", "CPU revision")
_SOURCE_SUFFIXES = (".c", ".cpp", ".h", ".S", ".sv", ".f", ".vlt")


def current_identity(board: Board) -> Identity:
    """Identity of measurements of `board` with the sources and the compiler at hand.

    Raises ToolError: no compiler; ConfigError: no such timing model.
    """
    return Identity(
        board=board.name,
        clock_hz=board.clock_hz,
        memory=placement(board),
        engine=ENGINE,
        engine_revision=_digest(_measuring(board)),
        firmware_revision=_digest(_surrounding(board)),
        compiler=_version(f"{board.core.toolchain}gcc"),
        flags=" ".join((*board.core.cflags, *COMPILE_FLAGS)),
        timing=timing_name(board),
        counter=board.counter.counts,
    )


def placement(board: Board, data: str = "data") -> str:
    """Where code and `data` lie and how many wait states that has.

    With addresses where cycles can follow from them (one flash may be seen over several buses); QEMU's memories all
    answer at once, and an operating system has no fixed ones.
    """
    memory, addressed = board.memory, not (board.counts_instructions or board.port.hosted)
    parts = (("code in flash", memory.flash), (f"{data} in SRAM", memory.sram))
    return "; ".join(
        f"{what}{f' at {region.origin:#010x}' if addressed else ''}, {region.wait_states} wait states"
        for what, region in parts
    )


def timing_name(board: Board) -> str:
    """What turns the device's count into cycles, the processor included where the device is this machine.

    Raises ConfigError: no such timing model, or none that knows the board's wait states.
    """
    if board.counts_instructions:
        model = timing_model(board.core.timing)
        name = f"{model.NAME} {model.VERSION}"
        return name if wait_states(board) is None else f"{name}, waits {waiting_model(model.NAME).VERSION}"
    if board.latency_provenance == "cycle-accurate":
        return "RTL simulation"
    return f"device counter of {processor()}" if is_this_machine(board) else "device counter"


def is_this_machine(board: Board) -> bool:
    """Whether what is measured is the processor that edgenas runs on."""
    return board.emulator is not None and board.emulator.kind in _THIS_MACHINE


@cache
def processor() -> str:
    """This machine's processor, as far as the system tells: its name, its numbers, its instruction set."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return describe_processor(text, platform.machine(), platform.processor())


def describe_processor(cpuinfo: str, machine: str, otherwise: str = "") -> str:
    """Of the first processor in `cpuinfo` (Linux). Virtual machines and Arm have names that tell little, so numbers of
    family and model, or of implementer and part, come along; `otherwise` stands in where there is nothing."""
    first = cpuinfo.strip().split("\n\n")[0]
    values = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }
    name = next((values[key] for key in _NAMES if values.get(key)), otherwise)
    numbers = "-".join(values[key] for key in _NUMBERS if values.get(key))
    return ", ".join(part for part in (name, numbers, machine) if part)


def _measuring(board: Board) -> dict[str, str]:
    """Sources that an operator's cycles come from, by path."""
    root = asset_dir("firmware")
    emulator = _EMULATORS.get(board.emulator.kind if board.emulator else "")
    folders = [root / "bench", *([root / emulator] if emulator else [])]
    if board.counts_instructions and wait_states(board) is not None:
        folders.append(root / "emulator" / "accesses")
    files = [path for folder in folders for path in folder.glob("*.*") if path.suffix in _SOURCE_SUFFIXES]
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}
    if not board.counts_instructions:  # clocks, caches and wait states are the port's to set up
        texts |= port_sources(board)
    return texts | engine_sources(board)


def _surrounding(board: Board) -> dict[str, str]:
    """The other sources of the application: port, wire server, and the templates they are put into."""
    templates = asset_dir("firmware") / "templates"
    names = ("main.c.j2", "linker.ld.j2", "CMakeLists.txt.j2")
    texts = {name: (templates / name).read_text(encoding="utf-8") for name in names}
    return texts | port_sources(board)


def _digest(texts: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        digest.update(f"{name}\0{text}\0".encode())
    return digest.hexdigest()[:16]


@cache
def _version(program: str) -> str:
    """Asked once: a table's identity is looked at often."""
    return compiler_version(program)
