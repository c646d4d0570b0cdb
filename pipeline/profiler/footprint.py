"""Footprint: the flash model and the overheads, from two small applications that are really built.

What comes along with a kernel is read from the relocations of the object files, as the linker's garbage
collection does; base and code per layer follow from the two applications' linked sizes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from pipeline.boards import Board
from pipeline.engine import Model, emit_c, load
from pipeline.errors import ToolError
from pipeline.export.quantized import Grid, QuantizedNetwork, Weights
from pipeline.export.tflite import serialize
from pipeline.firmware.app import render_app
from pipeline.firmware.build import Build, build
from pipeline.frontend import FrontEnd
from pipeline.latency.emulated import EmulatedInference, emulated_inference
from pipeline.latency.lut import Lut, Overhead
from pipeline.links import INSTRUCTION_NS
from pipeline.memory.flash import FlashModel
from pipeline.space.architecture import Architecture, Block, lower
from pipeline.space.budgets import Budgets
from pipeline.space.graph import OpGraph
from pipeline.space.kernels import KERNELS
from pipeline.space.opspec import OpSpec
from pipeline.storage import alone_in

_GENERATED = "app/model.c"
_ENGINE = "engine/"
Section = tuple[str, str]  # object file (its source's path), section


def sample_graph() -> OpGraph:
    """A small network with every operator of the search space."""
    blocks = (
        Block("dw3", 16, 2), Block("ir2", 16, 1), Block("dw5", 16, 1), Block("se4", 24, 1),
        Block("skip", 24, 2), Block("ir4", 24, 1), Block("dw7", 16, 1),
    )  # fmt: skip
    return lower(Architecture((16, 16, 1), 10, 8, 1, blocks))


def sample_network(graph: OpGraph, *, seed: int = 1, front_end: FrontEnd | None = None) -> bytes:
    """A .tflite of `graph` with made-up weights of usual magnitude, its input made by `front_end`."""
    rng = np.random.default_rng(seed)
    grids = [Grid(1 / 255, -128)]
    for node in graph.nodes:
        grids.append(grids[node.inputs[0]] if node.op.kind == "max_pool" else _grid(node.op))
    weights = {}
    for index, node in enumerate(graph.nodes):
        shape = _weight_shape(node.op)
        if shape is not None:
            channels = node.op.out_c
            taps = max(1, int(np.prod(shape)) // channels)
            values = rng.integers(-127, 128, shape, dtype=np.int8)
            one = node.op.kind == "fully_connected"
            scale = np.full(1 if one else channels, 0.02 / taps**0.5, np.float32)
            weights[index] = Weights(values, scale, rng.integers(-500, 500, channels, dtype=np.int32))
    return serialize(QuantizedNetwork(graph, tuple(grids), weights, front_end=front_end))


def measure_footprint(board: Board, graph: OpGraph, lut: Lut, folder: Path) -> tuple[FlashModel, Overhead]:
    """Build the applications of `graph` and of its beginning in `folder`; run both where that is possible.

    A real board runs the benchmark at that time; its overheads stay 0 until an application is validated.

    `lut` needs a row for each operator of `graph`. Raises ToolError (compiler, emulator) and LinkError.
    """
    with alone_in(folder):
        flash, applications = _footprint(board, graph, folder)
        if board.emulator is None:
            return flash, Overhead()
        return flash, _overhead(board, applications, lut)


def measure_flash(board: Board, graph: OpGraph, folder: Path) -> FlashModel:
    """As `measure_footprint`, without running anything."""
    with alone_in(folder):
        return _footprint(board, graph, folder)[0]


def _footprint(board: Board, graph: OpGraph, folder: Path) -> tuple[FlashModel, list[tuple[Model, Build]]]:
    """The flash model, and the applications that it is of, the larger first."""
    # object files of sources that are no longer compiled would be counted
    shutil.rmtree(folder, ignore_errors=True)
    large = load(sample_network(graph))
    small = load(sample_network(beginning(graph)))
    applications = [
        (model, _build(board, model, folder / name)) for name, model in (("large", large), ("small", small))
    ]
    return flash_model(folder / "large" / "build", board, applications), applications


def flash_model(objects: Path, board: Board, applications: list[tuple[Model, Build]]) -> FlashModel:
    """The model from two linked applications with different numbers of layers.

    `objects`: the build folder of one of them. Raises ToolError for objects that cannot be read.
    """
    code = Objects.read(objects)
    outside = code.reachable(["Reset_Handler", "main"], stop=(_GENERATED, _ENGINE)) | code.reachable_from(
        code.named(".vectors"), stop=(_GENERATED, _ENGINE)
    )
    functions = {
        kernel: sorted(code.reachable([kernel], stop=()) - outside)
        for kernel in KERNELS
        if kernel in code.globals
    }
    sizes = {_label(s): code.sizes[s] for used in functions.values() for s in used}
    known = FlashModel(
        0, 0.0, 0, 0, board.stack_bytes, {k: tuple(map(_label, used)) for k, used in functions.items()}, sizes
    )
    rest, ram, counts = [], [], []
    for model, built in applications:
        rest.append(built.flash_bytes - known.flash_bytes(model.graph))
        ram.append(built.static_ram_bytes - model.plan.arena_bytes)
        counts.append(len(model.layers))
    span = counts[0] - counts[1]
    layer_bytes = (rest[0] - rest[1]) / span
    layer_ram = round((ram[0] - ram[1]) / span)
    return FlashModel(
        base_bytes=round(rest[0] - layer_bytes * counts[0]),
        layer_bytes=round(layer_bytes, 2),
        static_ram_bytes=ram[0] - layer_ram * counts[0],
        layer_ram_bytes=layer_ram,
        stack_bytes=built.stack_bytes,
        kernel_functions=known.kernel_functions,
        function_bytes=known.function_bytes,
    )


def beginning(graph: OpGraph) -> OpGraph:
    """The graph's first four operators: a chain."""
    nodes = graph.nodes[:4]
    output = nodes[-1].output
    return OpGraph(graph.tensor_bytes[: output + 1], nodes, graph.input, output)


def _build(board: Board, model: Model, folder: Path) -> Build:
    return build(render_app(emit_c(model), board, Budgets(), folder, 1.0), board)


def _overhead(board: Board, applications: Sequence[tuple[Model, Build]], lut: Lut) -> Overhead:
    """What applications spend beyond their kernels: in the layers' regions, between them, and at either end.

    The two applications' numbers of layers tell what lies between regions from what an inference begins and ends
    with.
    """
    (large, seen), (small, seen_small) = (
        (model, emulated_inference(board, built.elf, _sample_input(model))) for model, built in applications
    )
    rows = [lut.rows[layer.op.key] for layer in large.layers]
    usable = [(layer, row) for layer, row in zip(seen.layers, rows, strict=True) if not row.refused]
    # the median: a few kernels branch on their data, which differ here from the benchmark's
    cycles = float(np.median([layer.cycles - row.cycles for layer, row in usable]))
    instructions = float(np.median([layer.instructions - row.instructions for layer, row in usable]))
    between = [_between(board, one) for one in (seen, seen_small)]
    counts = len(large.layers), len(small.layers)
    a_layer = max(0.0, (between[0] - between[1]) / (counts[0] - counts[1]))
    rest = max(0.0, between[0] - a_layer * counts[0])
    call = round(max(0.0, cycles), 1)
    if not board.counts_instructions:
        return Overhead(call, inference_cycles=round(rest, 1), between_cycles=round(a_layer, 2))
    rate = sum(layer.cycles for layer in seen.layers) / sum(layer.instructions for layer in seen.layers)
    return Overhead(
        layer_cycles=call,
        layer_instructions=round(max(0.0, instructions), 1),
        inference_cycles=round(rest * rate, 1),
        inference_instructions=round(rest, 1),
        between_cycles=round(a_layer * rate, 2),
        between_instructions=round(a_layer, 2),
    )


def _sample_input(model: Model) -> bytes:
    return np.random.default_rng(1).integers(-128, 128, model.input_bytes, dtype=np.int8).tobytes()


def _between(board: Board, seen: EmulatedInference) -> float:
    """What the device's counter sees of an inference outside the layers' regions: instructions, or cycles."""
    if board.counts_instructions:
        whole = seen.ticks * 1e9 / (board.counter.hz * INSTRUCTION_NS)
        return max(0.0, whole - sum(layer.instructions for layer in seen.layers))
    whole = seen.ticks * board.clock_hz / board.counter.hz
    return max(0.0, whole - sum(layer.cycles for layer in seen.layers))


# -- object files ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Objects:
    """Sections of all object files of a build, their sizes, and which refer to which."""

    sizes: Mapping[Section, int]
    references: Mapping[Section, frozenset[Section | str]]  # a section of the same file, or a global name
    globals: Mapping[str, Section]

    @classmethod
    def read(cls, build_folder: Path) -> Objects:
        """From the `.obj` files under `build_folder`; ToolError where there are none or they are no ELF."""
        sizes: dict[Section, int] = {}
        references: dict[Section, frozenset[Section | str]] = {}
        symbols: dict[str, Section] = {}
        root = build_folder / "CMakeFiles" / "firmware.dir"
        for path in sorted(root.rglob("*.obj")):
            source = path.relative_to(root).as_posix().removesuffix(".obj")
            try:
                with path.open("rb") as stream:
                    _read_object(ELFFile(stream), source, sizes, references, symbols)
            except (OSError, ELFError) as error:
                raise ToolError(f"cannot read {path}: {error}", hint="build it again") from error
        if not sizes:
            raise ToolError(f"no object files in {build_folder}", hint="build it first")
        return cls(sizes, references, symbols)

    def named(self, section: str) -> list[Section]:
        return [s for s in self.sizes if s[1] == section]

    def reachable(self, names: Iterable[str], stop: tuple[str, ...]) -> set[Section]:
        """Sections that the global `names` need; files that start with one of `stop` are left out."""
        return self.reachable_from([self.globals[n] for n in names if n in self.globals], stop)

    def reachable_from(self, start: Iterable[Section], stop: tuple[str, ...]) -> set[Section]:
        found: set[Section] = set()
        waiting = list(start)
        while waiting:
            section = waiting.pop()
            if section in found or section not in self.sizes or section[0].startswith(stop or ("\0",)):
                continue
            found.add(section)
            for reference in self.references.get(section, frozenset()):
                target = self.globals.get(reference) if isinstance(reference, str) else reference
                if target is not None:
                    waiting.append(target)
        return found


def _read_object(
    elf: ELFFile,
    source: str,
    sizes: dict[Section, int],
    references: dict[Section, frozenset[Section | str]],
    symbols: dict[str, Section],
) -> None:
    table = elf.get_section_by_name(".symtab")
    sections = list(elf.iter_sections())
    for section in sections:
        # in flash: code and constants, and the initial values of .data; not .bss
        if section["sh_type"] == "SHT_PROGBITS" and section["sh_flags"] & 2 and section["sh_size"]:
            alignment = max(1, section["sh_addralign"])
            sizes[source, section.name] = -(-section["sh_size"] // alignment) * alignment
    for symbol in table.iter_symbols():
        if symbol["st_info"]["bind"] != "STB_LOCAL" and isinstance(symbol["st_shndx"], int):
            symbols[symbol.name] = (source, sections[symbol["st_shndx"]].name)
    for section in sections:
        if not isinstance(section, RelocationSection):
            continue
        owner = (source, sections[section["sh_info"]].name)
        targets: set[Section | str] = set()
        for relocation in section.iter_relocations():
            symbol = table.get_symbol(relocation["r_info_sym"])
            if isinstance(symbol["st_shndx"], int):
                targets.add((source, sections[symbol["st_shndx"]].name))
            elif symbol.name:
                targets.add(symbol.name)
        references[owner] = references.get(owner, frozenset()) | targets


def _label(section: Section) -> str:
    """`engine/portable/conv.c`, `.text.gather` -> `conv.c:gather`."""
    return f"{Path(section[0]).name}:{section[1].removeprefix('.text.')}"


# -- the sample network ------------------------------------------------------------------------------------


def _grid(op: OpSpec) -> Grid:
    return Grid(6 / 255, -128) if op.activation == "relu6" else Grid(0.1, 0)


def _weight_shape(op: OpSpec) -> tuple[int, ...] | None:
    if op.kind == "conv2d":
        return op.out_c, op.kernel_h, op.kernel_w, op.in_c
    if op.kind == "depthwise_conv2d":
        return 1, op.kernel_h, op.kernel_w, op.out_c
    return (op.out_c, op.in_c) if op.kind == "fully_connected" else None


__all__ = ["Objects", "flash_model", "measure_footprint", "sample_graph", "sample_network"]
