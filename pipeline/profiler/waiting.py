"""Waits of a board's memories, from whole models and single operators that an emulated board with its core runs."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.assets import asset_dir
from pipeline.boards import Board
from pipeline.boards.memory_system import LIKELY
from pipeline.engine import Model, emit_c, load
from pipeline.errors import LinkError, LutError
from pipeline.firmware.app import render_app
from pipeline.firmware.bench import render_bench
from pipeline.firmware.build import build
from pipeline.latency.emulated import emulated_inference
from pipeline.latency.lut import Lut
from pipeline.latency.timing import timing_model
from pipeline.latency.waits import Sample, WaitIdentity, WaitModel, fit_waits
from pipeline.links import open_link
from pipeline.links.blockcount import RegionReader, plugin_args
from pipeline.links.memorysim import Simulated
from pipeline.profiler.footprint import sample_graph, sample_network
from pipeline.profiler.identity import current_identity
from pipeline.progress import Reporter
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets
from pipeline.space.graph import Node, OpGraph
from pipeline.space.opspec import OpSpec, same_padding
from pipeline.space.search_space import SearchSpace
from pipeline.wire.client import Client, RefusedError

_MODELS_A_SHAPE = 4
# Chains that the default spaces have not: input height and width, then (channels, stride) of 3x3 convolutions;
# and features of dense layers.
_CONVOLUTIONS = (
    (24, (12, 1), (12, 1), (24, 2), (24, 1), (48, 2), (48, 1)),
    (28, (16, 2), (32, 1), (32, 2), (40, 1), (64, 2), (80, 1)),
    (16, (20, 1), (20, 1), (36, 2), (72, 2), (72, 1)),
)
_DENSE = ((512, 96, 96, 16, 96, 384), (784, 128, 64, 10), (256, 256, 192, 12, 192, 256))
_SHAPES = ((28, 28, 1), (32, 32, 3))
_SEED = 20
_REGION_TIMEOUT_S = 10.0
_SOURCES = ("system.c", "system.h", "plugin.c")


def obtain_waits(
    board: Board, emulated: Board, lut: Lut, folder: Path, reporter: Reporter
) -> WaitModel | None:
    """The fit that ships for `board`, or one in `folder`, or one made there; None where it has no memory system.

    `lut` is the table of `emulated`. Raises ToolError (no compiler, no emulator), LinkError, LutError (a damaged file).
    """
    if board.memory.system is None:
        return None
    identity = wait_identity(board, emulated)
    kept = folder / f"waits-{board.name}.toml"
    for path in (asset_dir("luts") / board.name / "waits.toml", kept):
        if path.is_file() and (found := WaitModel.load(path)).identity == identity:
            return found
    reporter.say(f"  waits: simulating the memories of {board.name} under a few models")
    model = measure_waits(board, emulated, lut, folder / f"waits-{board.name}")
    model.save(kept)
    return model


def wait_identity(board: Board, emulated: Board) -> WaitIdentity:
    """Raises ToolError: no compiler; ConfigError: no memory system."""
    of_code = current_identity(emulated)
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((asset_dir("firmware") / "emulator" / "memory" / name).read_bytes())
    for description in _simulated(board, 1.0).descriptions(emulated):
        digest.update(description.encode())
    for graph in sample_graphs():
        digest.update(" ".join(node.op.key for node in graph.nodes).encode())
    return WaitIdentity(
        board=board.name,
        emulated=emulated.name,
        engine_revision=of_code.engine_revision,
        compiler=of_code.compiler,
        flags=of_code.flags,
        timing=of_code.timing,
        simulator=digest.hexdigest()[:16],
    )


def measure_waits(board: Board, emulated: Board, lut: Lut, folder: Path) -> WaitModel:
    """Simulate a few random models and their operators, and fit. Raises as `obtain_waits`."""
    graphs = sample_graphs()
    simulated = _simulated(board, lut.cycles_per_instruction(graphs[0]))
    models = [
        simulate_model(load(sample_network(graph)), emulated, simulated, folder / "app") for graph in graphs
    ]
    ops = sorted({sample.op for model in models for sample in model})
    alone = simulate_operators(ops, emulated, simulated, folder / "bench")
    return fit_waits(wait_identity(board, emulated), models, alone)


def sample_graphs() -> list[OpGraph]:
    """Random models of the default spaces, the small one with every operator of them, and chains that they have not."""
    graphs = [sample_graph(), *(_chain(_convolutions(*sizes)) for sizes in _CONVOLUTIONS)]
    graphs += [_chain(_dense(sizes)) for sizes in _DENSE]
    for shape in _SHAPES:
        rng, space = np.random.default_rng(_SEED), SearchSpace.for_input(shape, 10)
        graphs += [lower(space.random(rng)) for _ in range(_MODELS_A_SHAPE)]
    return graphs


def _convolutions(size: int, *layers: tuple[int, int]) -> list[OpSpec]:
    """3x3 convolutions one behind the other, of three channels first, then ten classes from the mean."""
    ops, channels = [], 3
    for wanted, stride in layers:
        out, before, behind = same_padding(size, 3, stride)
        pads = {"pad_top": before, "pad_left": before, "pad_bottom": behind, "pad_right": behind}
        shape = (size, size, channels, out, out, wanted, 3, 3, stride, stride)
        ops.append(OpSpec("conv2d", *shape, **pads, activation="relu"))
        size, channels = out, wanted
    ops.append(OpSpec("mean", size, size, channels, 1, 1, channels))
    return [*ops, *_dense((channels, 10))]


def _dense(sizes: Sequence[int]) -> list[OpSpec]:
    return [OpSpec("fully_connected", 1, 1, before, 1, 1, behind) for before, behind in pairwise(sizes)]


def _chain(ops: Sequence[OpSpec]) -> OpGraph:
    nodes = tuple(Node(op, (i,), i + 1) for i, op in enumerate(ops))
    return OpGraph((ops[0].in_bytes, *(op.out_bytes for op in ops)), nodes, 0, len(ops))


def _simulated(board: Board, rate: float) -> Simulated:
    system = board.memory.system
    return Simulated(board, rate, system.variants() if system is not None else (LIKELY,))


def simulate_model(model: Model, emulated: Board, simulated: Simulated, folder: Path) -> list[Sample]:
    """Its layers, in one inference over random input, the first after reset."""
    built = build(render_app(emit_c(model), emulated, Budgets(), folder, 1.0), emulated)
    x = np.random.default_rng(1).integers(-128, 128, model.input_bytes, dtype=np.int8).tobytes()
    seen = emulated_inference(emulated, built.elf, x, system=simulated)
    return [
        Sample(layer.op, count.cycles, tuple(waits.cycles for waits in count.waits))
        for layer, count in zip(model.layers, seen.layers, strict=True)
    ]


def simulate_operators(
    ops: Iterable[OpSpec], emulated: Board, simulated: Simulated, folder: Path
) -> list[Sample]:
    """Each by itself on the benchmark firmware, its second run in a row; those that are refused are left out."""
    built = build(render_bench(emulated, folder), emulated)
    timing = timing_model(emulated.core.timing)
    samples = []
    with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
        scratch = Path(name)
        plugins = plugin_args(scratch / "regions.bin") + simulated.plugin_args(emulated, scratch)
        with open_link(emulated, built.elf, plugin_args=plugins) as link:
            client, reader = Client(link), RegionReader(scratch / "regions.bin")
            client.hello()
            for op in ops:
                try:
                    client.run_op(op, repetitions=2)
                except RefusedError:
                    continue
                _, second = (reader.next(_REGION_TIMEOUT_S) for _ in range(2))
                waits = simulated.read(scratch)[-1]
                cycles = float(timing.region_cycles(second))
                samples.append(Sample(op, cycles, tuple(part.cycles for part in waits)))
            if reader.read_all():
                raise LinkError("more regions than runs of operators", hint="build the benchmark again")
    if not samples:
        raise LutError(f"{emulated.name} refused all operators", hint="is its memory large enough?")
    return samples
