"""RunInputs: a run file's data, space, costs and limits, each obtained when it is first asked for."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline import stages
from pipeline.boards import Board, load_board
from pipeline.data import DataSet
from pipeline.errors import ConfigError
from pipeline.fit import fit_to_target, obtain_predictor
from pipeline.fleet import Targets
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.latency.predictor import LatencyPredictor
from pipeline.latency.sound import SoundCost
from pipeline.progress import Reporter
from pipeline.runfile import RunFile
from pipeline.runstate import fingerprint
from pipeline.search import Target
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.storage import usable_folder


class RunInputs:
    """What the stages of a run work with; tables and predictors that had to be made stay in `folder`."""

    def __init__(self, settings: RunFile, folder: Path, data: Path | None, reporter: Reporter) -> None:
        self.settings = settings
        self.folder = folder
        self.reporter = reporter
        self._data_path = data

    @functools.cached_property
    def data(self) -> DataSet:
        data = self._load_data()
        sizes = f"{len(data.x_train):,} train, {len(data.x_val):,} validation, {len(data.x_test):,} test"
        self.reporter.say(f"data: {data.name} from {data.source} ({sizes})")
        for warning in data.warnings:
            self.reporter.warn(warning)
        return data

    def _load_data(self) -> DataSet:
        return stages.load_data(self.settings, self._data_path)

    @functools.cached_property
    def space(self) -> SearchSpace | CellSpace:
        return self.settings.space.build(self.data.input_shape, self.data.classes)

    @functools.cached_property
    def lut(self) -> Lut:
        started = time.monotonic()
        lut = stages.obtain_lut(
            self.settings.board, self.space.operators(), self.folder / "lut", self.reporter
        )
        self._done(
            "LUT", started, f"{len(lut.rows)} operators of {self.settings.board.name}, {lut.provenance}"
        )
        return lut

    @functools.cached_property
    def table_cost(self) -> CostModel:
        board, lut = self.settings.board, self.lut
        return CostModel(board, lut, self.settings.vetoes, self._sound(board))

    def _sound(self, board: Board) -> SoundCost | None:
        return stages.obtain_sound(board, self.data.front_end, self.folder / "lut", self.reporter)

    def fit_predictor(
        self, out: Path, *, models: int | None = None, alone: bool = False, targets: Targets | None = None
    ) -> LatencyPredictor:
        """A latency predictor of this run's space and board, written to `out` (.npz); what it is fitted to is
        journalled in the run's folder.

        `models`: random architectures, the run file's number unless given; `alone`: of the latency itself, not of what
        the table lacks. Raises ConfigError where `out` cannot be a file, and as `fit_to_target` does.
        """
        usable_folder(out.parent, "--out")
        if out.is_dir():
            raise ConfigError(f"--out: {out} is a folder", hint="give the path of a file, such as m4.npz")
        config = self.settings.search.predictor
        config = replace(
            config, models=models or config.models, residual=config.residual and not alone, file=""
        )
        found = fit_to_target(
            self.space, self.table_cost, config, self.predictor_folder, self.reporter, targets=targets
        )
        found.save(out)
        return found

    @property
    def predictor_folder(self) -> Path:
        return self.folder / "predictor"

    @functools.cached_property
    def cost(self) -> CostModel:
        """With the latency predictor where the search asks for one."""
        cost, search = self.table_cost, self.settings.search
        if search.latency == "predictor":
            cost.predictor = obtain_predictor(
                self.space, cost, search.predictor, self.predictor_folder, self.reporter
            )
        return cost

    @functools.cached_property
    def other_costs(self) -> tuple[CostModel, ...]:
        """Of the further boards that a hypernetwork is trained for."""
        s = self.settings
        wanted = s.search.hyper.boards if s.search.method == "hypernetwork" else ()
        return tuple(self.cost_on(name) for name in wanted if not s.is_own(load_board(name)))

    def cost_on(self, name: str) -> CostModel:
        """Of any board, for this run's space."""
        board = load_board(name)
        lut = stages.obtain_lut(board, self.space.operators(), self.folder / "lut", self.reporter)
        return CostModel(board, lut, self.settings.vetoes, self._sound(board))

    def _targets(self) -> tuple[Target, ...]:
        """The run's board first."""
        s = self.settings
        return tuple(
            stages.search_target(cost, s.budgets_on(cost.board), s.robustness)
            for cost in (self.cost, *self.other_costs)
        )

    @property
    def held_budgets(self) -> Budgets:
        """What the search, the choice of exits and pruning keep on the run's board, idle at its own clock."""
        return self._targets()[0].budgets

    @functools.cached_property
    def _data_key(self) -> str:
        data = self.data
        arrays = (data.x_train, data.y_train, data.x_val, data.y_val, data.x_test, data.y_test)
        return fingerprint(*(np.ascontiguousarray(array).tobytes() for array in arrays))

    def _done(self, name: str, started: float, outcome: str) -> None:
        self.reporter.say(f"{name}: {outcome} [{time.monotonic() - started:.0f} s]")
