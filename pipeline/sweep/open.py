"""A sweep over a run file's data set, board, space and settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline import stages
from pipeline.errors import ConfigError
from pipeline.firmware import check_deadline
from pipeline.fit import obtain_predictor
from pipeline.latency.cost import CostModel
from pipeline.progress import Reporter
from pipeline.robustness import RobustnessConfig
from pipeline.runfile import RunFile
from pipeline.search.settings import CELL_METHODS, check_settings, read_by
from pipeline.space.budgets import Budgets
from pipeline.space.search_space import SearchSpace
from pipeline.storage import usable_folder
from pipeline.sweep.bench import Bench
from pipeline.sweep.grid import grid, method_list, numbers, seed_list
from pipeline.sweep.sweep import Sweep

METHODS = ("edgenas", "random", "evolution")  # compared where none are named
OF_CELLS = ("hypernetwork", "random", "evolution")  # the same in a space of cells


def open_sweep(
    settings: RunFile,
    folder: Path,
    reporter: Reporter,
    *,
    methods: str = "",
    seeds: str,
    latency_ms: str = "",
    data: Path | None = None,
    judge_steps: int = 1000,
    train: bool = False,
) -> Sweep:
    """`methods`, `seeds` and `latency_ms` as on the command line; without the last the run file's limit, without the
    first those of METHODS or, in a space of cells, OF_CELLS.

    Loads the data set (with the run file's seed, the same for all) and gets the latency table ready. Raises
    ConfigError for an option that has no meaning, such as a limit that the board cannot time, and what loading and
    profiling raise.
    """
    limits = numbers(latency_ms, "--latency-ms") if latency_ms else [settings.budgets.latency_ms or 0.0]
    if not limits[0]:
        raise ConfigError("the run file has no latency limit", hint="give --latency-ms")
    cells = settings.space.kind == "cells"
    chosen = method_list(methods) if methods else list(OF_CELLS if cells else METHODS)
    for limit in limits if latency_ms else ():  # the run file's is
        check_deadline(limit, settings.board, "--latency-ms")
    limits = [_held(settings, limit, reporter) for limit in limits]
    jobs = grid(chosen, seed_list(seeds), limits)
    if cells:
        _check_for_cells(settings, chosen)
    check_settings(settings.search, chosen)
    if settings.search.hyper.boards:
        raise ConfigError(
            "search.hyper.boards has no effect in a sweep, which compares searches for the run file's board alone",
            hint="leave it out; edgenas search trains for several boards",
        )
    if settings.search.exits.search:
        raise ConfigError(
            "search.exits.search has no place in a sweep, which compares winners by their final outputs",
            hint="leave it out; edgenas search and edgenas run look for exits",
        )
    if train and settings.train.prune.active:
        raise ConfigError(
            "[train.prune] has no effect in a sweep: --train trains what each search found as it is",
            hint="leave [train.prune] or --train out; edgenas run prunes",
        )
    usable_folder(folder, "--out")
    arrays = stages.load_data(settings, data)
    for warning in arrays.warnings:
        reporter.warn(warning)
    space = settings.space.build(arrays.input_shape, arrays.classes)
    if "given" in chosen:
        assert isinstance(space, SearchSpace)  # no method of cells
        space.named(settings.search.given)  # before anything is measured
    lut = stages.obtain_lut(settings.board, space.operators(), folder / "lut", reporter)
    sound = stages.obtain_sound(settings.board, arrays.front_end, folder / "lut", reporter)
    cost, guide = CostModel(settings.board, lut, settings.vetoes, sound), ""
    if sound is not None:
        guide = f", front end {sound.high:.0f} cycles"
    if settings.search.latency == "predictor":
        cost.predictor = obtain_predictor(
            space, cost, settings.search.predictor, folder / "predictor", reporter
        )
        guide += f", predictor {cost.predictor.digest[:8]}"
    bench = Bench(
        space=space,
        data=arrays,
        cost=cost,
        cost_identity=f"{settings.board.name}, table {lut.key} ({lut.provenance}){guide}",
        # its memories as `edgenas search` counts with them; the conditions of [robustness] are in the limits
        budgets=stages.search_target(cost, settings.budgets, RobustnessConfig()).budgets,
        config=settings.search,
        judge_steps=judge_steps,
        train=settings.train if train else None,
        latency_provenance=lut.provenance,
        cost_key=cost.key_over(space.operators()),
    )
    return Sweep(bench, jobs, folder, reporter)


def _check_for_cells(settings: RunFile, methods: Sequence[str]) -> None:
    """Raises ConfigError for a method or a setting that means nothing in a space of cells."""
    for method in methods:
        if method not in CELL_METHODS:
            raise ConfigError(
                f"--methods: '{method}' does not know cell spaces", hint=f"known: {', '.join(CELL_METHODS)}"
            )
        check_settings(read_by(settings.search, method), [method], cells=True)


def _held(settings: RunFile, limit_ms: float, reporter: Reporter) -> float:
    """The limit of an idle board that keeps the deadline `limit_ms` where [robustness] says that it must hold."""
    held = settings.robustness.held(Budgets(latency_ms=limit_ms), settings.board).latency_ms
    assert held is not None
    if held != limit_ms:
        reporter.say(f"{limit_ms:g} ms under robustness.hold: {held:.4g} ms on the idle board")
    return held
