"""From a target to a latency predictor: build and run random whole models, fit, keep the file."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.check import check_table, drawn
from pipeline.errors import ConfigError, LutError
from pipeline.fleet import Targets
from pipeline.latency.cost import CostModel
from pipeline.latency.predictor import LatencyPredictor, PredictorIdentity
from pipeline.progress import Reporter
from pipeline.runstate import fingerprint
from pipeline.search.candidates import Judge
from pipeline.search.cell_costs import CellTables
from pipeline.search.costs import CostTables, build_tables
from pipeline.search.predictorconfig import PredictorConfig
from pipeline.space.architecture import Architecture
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellArchitecture, CellSpace
from pipeline.space.search_space import SearchSpace

_SEED = 0  # of the architectures


def predictor_identity(space: SearchSpace | CellSpace, cost: CostModel) -> PredictorIdentity:
    """Of a predictor that is fitted to `space` on the board of `cost`, and corrects the table as it is now."""
    interval = cost.interval
    return PredictorIdentity(
        board=cost.board.name,
        clock_hz=cost.board.clock_hz,
        lut=cost.lut.key,
        firmware=cost.lut.identity.firmware_revision,
        space=json.dumps(space.to_json(), sort_keys=True),
        calibration=f"{interval.describe()} ({fingerprint(asdict(interval))})",
        rows=cost.sums_key(space.operators()),
    )


def fit_to_target(
    space: SearchSpace | CellSpace,
    cost: CostModel,
    config: PredictorConfig,
    folder: Path,
    reporter: Reporter,
    *,
    targets: Targets | None = None,
) -> LatencyPredictor:
    """Run `config.models` random architectures of `space` on the board of `cost` and fit a predictor to them.

    `folder` keeps their journal, so an interrupted call goes on. Raises ConfigError for a board that would have
    to be flashed for each model, and what building and running models raises.
    """
    if cost.board.emulator is None and not cost.board.port.hosted:
        raise ConfigError(
            f"{cost.board.name} would have to be flashed with each of {config.models} models",
            hint='fit a predictor to its emulator, or search with latency = "lut"',
        )
    from pipeline.search.predictor import fit_predictor  # needs torch

    # a front end is the same before every model; where a predictor is used its part is added
    cost = cost.without_sound()
    tables = CellTables.of(space, cost) if isinstance(space, CellSpace) else build_tables(space, cost)
    paths, observed_ms = observe(space, tables, cost, config.models, folder, reporter, targets)
    reporter.say(f"  fitting a latency predictor to {len(observed_ms)} models")
    identity, provenance = predictor_identity(space, cost), cost.board.latency_provenance
    return fit_predictor(tables, paths, observed_ms, identity, config, provenance=provenance)


def observe(
    space: SearchSpace | CellSpace,
    tables: CostTables | CellTables,
    cost: CostModel,
    count: int,
    folder: Path,
    reporter: Reporter,
    targets: Targets | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Index paths (n, blocks, 2), of cells (n, edges), of random architectures, and what one inference of each took,
    in ms."""
    # One journal a space: it tells models apart by number and description.
    journals = folder / fingerprint(space.to_json())
    models = check_table(
        cost.board, cost.lut, count, journals, reporter, seed=_SEED, targets=targets, space=space
    )
    paths = np.array([_path(tables, cost, a) for a in drawn(space, count, _SEED)])
    return paths, np.array([m.observed for m in models]) / cost.board.clock_hz * 1e3


def _path(tables: CostTables | CellTables, cost: CostModel, architecture: Architecture) -> Any:
    """The indices that `architecture` is in its space."""
    if isinstance(tables, CellTables):
        assert isinstance(architecture, CellArchitecture)  # of that space
        return tables.space.path(architecture)
    return Judge(tables, cost, Budgets()).path(architecture)


def obtain_predictor(
    space: SearchSpace | CellSpace, cost: CostModel, config: PredictorConfig, folder: Path, reporter: Reporter
) -> LatencyPredictor:
    """The predictor of `config.file`, else the one in `folder`, else one that is fitted now and kept there.

    Raises LutError for a file of another space, board, firmware or table, or of a table that says something else by now
    (its calibration, its rows), naming the field.
    """
    wanted = predictor_identity(space, cost)
    if config.file:
        found = LatencyPredictor.load(Path(config.file))
        found.check(wanted)
        return found
    kept = folder / f"predictor-{fingerprint(asdict(wanted), asdict(replace(config, file='')))}.npz"
    try:
        found = LatencyPredictor.load(kept)
        found.check(wanted)
    except LutError:
        found = fit_to_target(space, cost, config, folder, reporter)
        found.save(kept)
    return found
