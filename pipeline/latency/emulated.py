"""Cycles of each layer of a linked application, from one inference on its target."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.boards import Board
from pipeline.errors import LinkError
from pipeline.latency.modelled import ModelledRegions
from pipeline.links import INSTRUCTION_NS, open_link
from pipeline.links.memorysim import Simulated, Waits
from pipeline.wire.client import Client

_REGION_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class LayerCount:
    """One layer: cycles, and executed instructions where an emulator counted them (else 0).

    `waits`: of each variant of the memory system that was asked for, not part of `cycles`.
    """

    cycles: float
    instructions: int
    waits: tuple[Waits, ...] = ()


@dataclass(frozen=True, slots=True)
class EmulatedFeatures:
    """One clip through the front end; cycles and instructions as of a layer, ticks the device's own count."""

    cycles: float
    instructions: int
    features: bytes
    ticks: int


@dataclass(frozen=True, slots=True)
class EmulatedInference:
    """One inference: its layers, its output, and the device's own count over all of it."""

    layers: tuple[LayerCount, ...]
    output: bytes
    ticks: int


def emulated_inference(
    board: Board,
    elf: Path,
    x: bytes,
    *,
    port: str | None = None,
    layers: int | None = None,
    system: Simulated | None = None,
) -> EmulatedInference:
    """Starts the application `elf`, runs one inference over input `x` (INT8, NHWC) and counts its layers.

    `layers`: how many of them this input goes through, where it may leave early.

    `system`: a memory system to simulate on the way, only where an emulator counts blocks.

    Where the device counts instructions, an emulator's block counts and the timing model give each layer's
    cycles; else the device's counter does. Raises ToolError (no emulator or plugin) and LinkError (it does
    not answer, or the counted regions are not one per layer).
    """
    if board.counts_instructions:
        return _from_blocks(board, elf, x, layers, system)
    with open_link(board, elf, port=port) as link:
        client = Client(link)
        client.hello()
        result = client.invoke(x)
        cycles_a_tick = board.clock_hz / board.counter.hz
        each = client.layer_ticks(layers, of=result)
        counts = tuple(LayerCount(ticks * cycles_a_tick, 0) for ticks in each)
        return EmulatedInference(counts, result.output, result.ticks)


def _from_blocks(
    board: Board, elf: Path, x: bytes, layers: int | None, system: Simulated | None
) -> EmulatedInference:
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        modelled = ModelledRegions(board, Path(folder))
        plugins = [*modelled.plugin_args]
        if system is not None:
            plugins += system.plugin_args(board, Path(folder))
        with open_link(board, elf, plugin_args=plugins) as link:
            client = Client(link)
            client.hello()
            expected = client.describe().layers if layers is None else layers
            result = client.invoke(x)
            regions = [modelled.next(_REGION_TIMEOUT_S) for _ in range(expected)]
            surplus = modelled.surplus()
        refuse_wrapped(board, result.ticks, sum(region.instructions for region, _ in regions))
        waits = system.read(Path(folder)) if system is not None else [()] * expected
        if surplus:
            raise LinkError(f"{elf.name} has {expected} layers but {expected + surplus} marked regions")
    if len(waits) != expected:
        raise LinkError(f"{elf.name} has {expected} layers but {len(waits)} regions with waits")
    counts = tuple(
        LayerCount(cycles, region.instructions, waited)
        for (region, cycles), waited in zip(regions, waits, strict=True)
    )
    return EmulatedInference(counts, result.output, result.ticks)


def refuse_wrapped(board: Board, ticks: int, instructions: int) -> None:
    """Raises LinkError where `instructions`, which an emulator saw the device execute, say that its counter began anew
    before it was read: it has 32 bits."""
    a_tick = 1e9 / (board.counter.hz * INSTRUCTION_NS)
    if instructions - ticks * a_tick > (1 << 31) * a_tick:
        raise LinkError(
            f"{board.name} counted {ticks * a_tick:,.0f} of {instructions:,} instructions: its counter begins anew "
            f"after {(1 << 32) * a_tick:,.0f}",
            hint="a smaller model: it cannot time what takes longer",
        )


def emulated_features(board: Board, elf: Path, sound: bytes, *, port: str | None = None) -> EmulatedFeatures:
    """Starts the application `elf` and runs its front end over a clip (16-bit PCM); see `emulated_inference`.

    Raises RefusedError for an application without a front end.
    """
    if not board.counts_instructions:
        with open_link(board, elf, port=port) as link:
            client = Client(link)
            client.hello()
            made = client.features(sound)
        cycles = made.ticks * board.clock_hz / board.counter.hz
        return EmulatedFeatures(cycles, 0, made.features, made.ticks)
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        modelled = ModelledRegions(board, Path(folder))
        with open_link(board, elf, plugin_args=modelled.plugin_args) as link:
            client = Client(link)
            client.hello()
            made = client.features(sound)
            region, cycles = modelled.next(_REGION_TIMEOUT_S)
    refuse_wrapped(board, made.ticks, region.instructions)
    return EmulatedFeatures(cycles, region.instructions, made.features, made.ticks)


def emulated_layers(board: Board, elf: Path, x: bytes) -> tuple[LayerCount, ...]:
    """Cycles and instructions of each layer of `elf` in one inference over `x`; see `emulated_inference`."""
    return emulated_inference(board, elf, x).layers
