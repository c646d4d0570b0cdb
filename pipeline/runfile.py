"""RunFile: everything that one run is asked to do, from one TOML file."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.boards import Board, load_board
from pipeline.boards.power import read_power, why_unknown
from pipeline.data import default_options
from pipeline.data import names as data_names
from pipeline.data.shift import ShiftConfig
from pipeline.errors import ConfigError
from pipeline.firmware import LEAST_LATENCY_MS, too_long
from pipeline.robustness import RobustnessConfig
from pipeline.search.adaptconfig import AdaptConfig
from pipeline.search.config import SearchConfig
from pipeline.search.settings import METHODS, refused_for_cells
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.space.vetoes import Vetoes
from pipeline.tomltable import Table, fill
from pipeline.train.config import TrainConfig

# where each table of a run file is described
PAGES = {
    "": "README.md", "data": "docs/data.md", "train": "docs/training.md", "energy": "docs/fidelity.md",
    **dict.fromkeys(("space", "search", "vetoes", "adapt", "robustness"), "docs/search.md"),
}  # fmt: skip
_ANY_SHAPE, _ANY_CLASSES = (64, 64, 3), 10  # a space that has no meaning for these has none for any data


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which data set. `path` (file or folder) may be empty: then the usual places are searched."""

    name: str = "fashion_mnist"
    path: str = ""
    validation: float = 0.1  # fraction of the training images that the search and early decisions use
    limit: int = 0  # at most so many images per split; 0: all
    shift: ShiftConfig = field(default_factory=ShiftConfig)


@dataclass(frozen=True, slots=True)
class SpaceConfig:
    """The search space; 0 and empty tuples take the defaults that suit the input's size.

    `kind` is "blocks" or "cells"; `blocks` belongs to the first, `nodes` to the second, where `channels` and
    `strides` have one entry per cell.
    """

    kind: str = "blocks"
    nodes: int = 4
    blocks: int = 7
    stem_channels: int = 16
    stem_stride: int = 0
    strides: tuple[int, ...] = ()
    ops: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()
    exits: tuple[int, ...] = ()  # blocks, counted from 0, after which an early exit may be placed

    def build(self, input_shape: tuple[int, int, int], classes: int) -> SearchSpace | CellSpace:
        """The space for a data set's input shape (h, w, c). Raises ConfigError where it has no meaning."""
        given: dict[str, Any] = {"stem_channels": self.stem_channels, "exits": self.exits}
        if self.stem_stride:
            given["stem_stride"] = self.stem_stride
        if self.ops:
            given["ops"] = self.ops
        if self.channels:
            given["channels"] = self.channels
        if self.kind == "cells":
            if given.pop("exits", ()):
                raise ConfigError("space.exits need a space of blocks", hint='kind = "blocks"', key="exits")
            if self.strides:
                given["strides"] = self.strides
            return CellSpace(input_shape, classes, nodes=self.nodes, **given)
        if self.kind != "blocks":
            raise ConfigError(f"space.kind is {self.kind!r}", hint="'blocks' or 'cells'", key="kind")
        if self.strides:
            return SearchSpace(input_shape, classes, strides=self.strides, **given)
        return SearchSpace.for_input(input_shape, classes, blocks=self.blocks, **given)


@dataclass(frozen=True, slots=True)
class ValidateConfig:
    images: int = 200  # test images sent to the device


@dataclass(frozen=True, slots=True)
class RunFile:
    name: str
    board: Board
    seed: int
    data: DataConfig
    data_options: Any  # the rest of [data]: what can be chosen about that data set (pipeline.data.options)
    budgets: Budgets  # on `board`, whose memories are limits in any case
    vetoes: Vetoes
    space: SpaceConfig
    search: SearchConfig
    train: TrainConfig
    validate: ValidateConfig
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    robustness: RobustnessConfig = field(default_factory=RobustnessConfig)
    memory_limits: tuple[str, ...] = ()  # of `budgets`: those that the file gives itself

    def is_own(self, board: Board) -> bool:
        """Whether `board` is the run's, by whatever name or path it was read; [energy] may have changed the run's."""
        return replace(board, power=self.board.power, path=self.board.path) == self.board

    def budgets_on(self, board: Board) -> Budgets:
        """The budgets on any board: a memory that the file does not limit is all of that board's."""
        if (board.name, board.memory) == (self.board.name, self.board.memory):
            return self.budgets
        own = {"sram_bytes": board.memory.sram.bytes, "flash_bytes": board.memory.flash.bytes}
        return replace(self.budgets, **{k: v for k, v in own.items() if k not in self.memory_limits})

    def to_json(self) -> dict[str, Any]:
        """All settings, defaults included, for the run's provenance."""
        sections = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("name", "board", "seed", "memory_limits")
        }
        return {
            "name": self.name,
            "board": self.board.name,
            "seed": self.seed,
            **{name: asdict(section) for name, section in sections.items()},
        }


def load_runfile(path: Path) -> RunFile:
    """Read and check a run file.

    Raises ConfigError that names the file, the line and the key.
    """
    table = Table.read(path, PAGES)
    name = table.text("name", path.stem)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise table.error("name", f"is '{name}'", hint="letters, digits, '.', '_' and '-': it names a folder")
    board = load_board(table.text("board"))
    energy = table.sub("energy", required=False)
    if not energy.empty:
        board = replace(board, power=read_power(energy, board.clock_hz))
    seed = table.integer("seed", 0, minimum=0)
    limits = table.sub("budgets")
    # `fill` takes 0, which reaches no device
    table.sub("validate", required=False).integer("images", None, minimum=1)
    data = fill(table.sub("data", required=False), DataConfig())
    if data.name not in data_names():
        known = ", ".join(data_names())
        raise table.sub("data").error("name", f"is '{data.name}'", hint=f"known data sets: {known}")
    if not 0 < data.validation < 1:
        raise table.sub("data").error(
            "validation", f"is {data.validation}", hint="a fraction between 0 and 1"
        )
    run = RunFile(
        name=name,
        board=board,
        seed=seed,
        data=data,
        data_options=fill(table.sub("data", required=False), default_options(data.name)),
        budgets=_budgets(limits, board, not table.sub("adapt", required=False).empty),
        vetoes=fill(table.sub("vetoes", required=False), Vetoes()),
        space=fill(table.sub("space", required=False), SpaceConfig()),
        search=fill(table.sub("search", required=False), SearchConfig()),
        train=fill(table.sub("train", required=False), TrainConfig()),
        validate=fill(table.sub("validate", required=False), ValidateConfig()),
        adapt=fill(table.sub("adapt", required=False), AdaptConfig()),
        robustness=fill(table.sub("robustness", required=False), RobustnessConfig()),
        memory_limits=tuple(name for name in ("sram_bytes", "flash_bytes") if name in limits.names()),
    )
    table.close()
    _check_conditions(table.sub("robustness", required=False), run)
    _check_space(table.sub("space", required=False), run.space)
    _check_method(table.sub("search", required=False), run.search.method)
    _check_given(table.sub("search", required=False), run)
    _check_exits(table.sub("search", required=False).sub("exits", required=False), run)
    _check_boards(table, run)
    adapts = run.adapt != AdaptConfig()  # with the cloud's settings of the search
    if run.space.kind == "cells" and not adapts and (refusal := refused_for_cells(run.search)) is not None:
        *sections, key = ("search", *refusal.key.split("."))
        raise functools.reduce(Table.sub, sections, table).error(key, refusal.what, hint=refusal.hint)
    return run


def _check_space(table: Table, space: SpaceConfig) -> None:
    """Raises ConfigError with the line of the key of [space] that has no meaning, whatever the data."""
    blocks = "blocks" in table.names() and space.kind == "blocks"
    if blocks and space.strides and len(space.strides) != space.blocks:
        raise table.error(
            "strides",
            f"has {len(space.strides)} entries for {space.blocks} blocks",
            hint="one a block, 1 or 2",
        )
    try:
        space.build(_ANY_SHAPE, _ANY_CLASSES)
    except ConfigError as error:
        raise ConfigError(
            f"{table.where(error.key)}: {error.message}", hint=error.hint, key=error.key
        ) from error


def _check_conditions(table: Table, run: RunFile) -> None:
    """Raises ConfigError with the line of [robustness] for conditions that have no meaning on the run's board."""
    checks: tuple[tuple[str, Callable[[], object]], ...] = (
        ("clocks_hz", lambda: run.robustness.conditions(run.board)),
        ("hold", lambda: run.robustness.held(run.budgets, run.board)),
    )
    for key, check in checks:
        try:
            check()
        except ConfigError as error:
            raise ConfigError(f"{table.where(key)}: {error.message}", hint=error.hint) from error


def _check_method(table: Table, name: str) -> None:
    """Raises ConfigError with the line for a method that nobody registered."""
    if name not in METHODS:
        from pipeline.search.methods import find  # its methods need torch

        try:
            find(name)
        except ConfigError as error:
            raise ConfigError(f"{table.where('method')}: {error.message}", hint=error.hint) from error


def _check_given(table: Table, run: RunFile) -> None:
    """Raises ConfigError with the line where the given architecture is none of the space."""
    space = run.space.build(_ANY_SHAPE, _ANY_CLASSES)
    if run.search.method == "given" and isinstance(space, SearchSpace):
        try:
            space.named(run.search.given)
        except ConfigError as error:
            raise ConfigError(f"{table.where('given')}: {error.message}", hint=error.hint) from error


def _check_exits(table: Table, run: RunFile) -> None:
    """Raises ConfigError with the line for a goal of early exits that cannot mean anything."""
    exits, limit_ms, adapts = run.search.exits, run.budgets.latency_ms, run.adapt != AdaptConfig()
    if exits.search and adapts:
        raise table.error(
            "search",
            "has no effect in the edge stage, which trains no exits while it adapts",
            hint="leave it out: expected_latency_ms alone decides which exits stay after training",
        )
    if not exits.expected_latency_ms:
        return
    of_cloud = adapts and run.space == SpaceConfig()  # whose space may have them
    if not run.space.exits and not of_cloud:
        raise table.error(
            "expected_latency_ms",
            "is a goal of early exits, and the space has none",
            hint="list the blocks after which they may stand: [space] exits",
        )
    if limit_ms is not None and exits.expected_latency_ms >= limit_ms:
        raise table.error(
            "expected_latency_ms",
            f"is {exits.expected_latency_ms:g}, and budgets.latency_ms = {limit_ms:g} holds for every inference",
            hint="a goal below the limit of the worst case, or none",
        )


def _check_boards(table: Table, run: RunFile) -> None:
    """Raises ConfigError with the line where a hypernetwork's board is not known, has the name of another one, or
    cannot time the deadline."""
    hyper = table.sub("search", required=False).sub("hyper", required=False)
    named = {run.board.name: "the run's own board"}
    for name in run.search.hyper.boards:
        try:
            board = load_board(name)
        except ConfigError as error:
            raise ConfigError(f"{hyper.where('boards')}: {error.message}", hint=error.hint) from error
        if not run.is_own(board):
            if board.name in named:
                raise hyper.error(
                    "boards",
                    f"has '{name}', a board named {board.name} as {named[board.name]} is",
                    hint="tables and results are told apart by that name: leave one out, or give its file another "
                    "'name'",
                )
            named[board.name] = f"'{name}'"
        limit_ms = run.budgets_on(board).latency_ms or 0.0
        if why := too_long(limit_ms, board):
            what = f"has {board.name}, and budgets.latency_ms = {limit_ms:,} holds on every board"
            raise hyper.error("boards", what, hint=why)


def _budgets(table: Table, board: Board, adapts: bool) -> Budgets:
    """Budgets of a run file; the board's memories are limits in any case.

    Where it `adapts`, the clock of the stated current is compared later, with the present one.
    """
    sram, flash = board.memory.sram.bytes, board.memory.flash.bytes
    budgets = Budgets(
        latency_ms=table.number("latency_ms", minimum=LEAST_LATENCY_MS),
        sram_bytes=table.integer("sram_bytes", sram, maximum=sram),
        flash_bytes=table.integer("flash_bytes", flash, maximum=flash),
        parameters=table.integer("parameters", None),
        energy_mj=table.number("energy_mj", None),
    )
    if why := too_long(budgets.latency_ms or 0.0, board):
        raise table.error("latency_ms", f"is {budgets.latency_ms:,}", hint=why)
    if budgets.energy_mj is not None and board.running is None and not (adapts and board.power):
        what, hint = why_unknown(board.name, board.clock_hz, board.power)
        raise table.error("energy_mj", f"cannot be held: {what}", hint=hint)
    if budgets.energy_mj == 0:
        raise table.error("energy_mj", "is 0", hint="millijoules an inference")
    return budgets
