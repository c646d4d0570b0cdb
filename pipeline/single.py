"""A single .tflite, without a run file: deploy and validate it."""

from __future__ import annotations

import datetime
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__, stages
from pipeline.boards import Board, load_board
from pipeline.engine import Model, load
from pipeline.errors import ConfigError
from pipeline.figures import Figure
from pipeline.firmware import check_deadline, plain_name
from pipeline.fleet import Targets
from pipeline.links import check_reachable
from pipeline.progress import Reporter
from pipeline.report import write_report
from pipeline.report.document import core_document, energy_figure, predicted_latency
from pipeline.report.verdict import budget_checks, budget_figures
from pipeline.search.energy import unknown_current
from pipeline.space.budgets import Budgets, Cost
from pipeline.storage import claim, usable_folder, write_text
from pipeline.tflm.library import ENGINES as TFLM_ENGINES
from pipeline.validate import Inputs, random_inputs, read_inputs
from pipeline.validate.tflm import TflmValidation, validate_tflm


def open_model(
    model: Path,
    board_name: str,
    out: Path | None = None,
    latency_ms: float | None = None,
    sram_bytes: int | None = None,
    flash_bytes: int | None = None,
    energy_mj: float | None = None,
    *,
    quiet: bool = False,
) -> SingleModel:
    """A job for `model` on a board; budgets left out are the board's memories and no deadline.

    Raises ConfigError for an unknown board, a memory budget beyond the board's memory, a deadline beyond what it can
    time, and for an energy budget where the board's current is not known.
    """
    board = load_board(board_name)
    check_deadline(latency_ms, board, "--latency-ms")
    for option, given, memory in (
        ("--sram-bytes", sram_bytes, board.memory.sram),
        ("--flash-bytes", flash_bytes, board.memory.flash),
    ):
        if given is not None and given > memory.bytes:
            raise ConfigError(
                f"{option} is {given:,}", hint=f"{board.name} has {memory.bytes:,}: at most that"
            )
    budgets = Budgets(
        latency_ms,
        sram_bytes or board.memory.sram.bytes,
        flash_bytes or board.memory.flash.bytes,
        energy_mj=energy_mj,
    )
    if energy_mj is not None and board.running is None:
        raise unknown_current(board)
    folder = out or Path("runs") / plain_name(f"{model.stem}-{board.name}")
    return SingleModel(model, board, budgets, folder, Reporter(quiet=quiet))


@dataclass(eq=False)
class SingleModel:
    """One model on one board."""

    path: Path
    board: Board
    budgets: Budgets
    folder: Path
    reporter: Reporter

    @functools.cached_property
    def deployment(self) -> stages.Deployment:
        self._claim()
        return stages.deploy(self.path, self.board, self.budgets, self.folder, self.reporter)

    def _claim(self) -> None:
        """The folder, for this process alone: two that build and report in it would mix their files."""
        claim(usable_folder(self.folder, "--out"), "wait for it, or give another folder: --out")

    def deploy(self) -> dict[str, Any]:
        """Build the firmware; returns the folder, the predicted and linked figures, and how the budgets stand.

        A deadline and an energy budget are held against the upper end of the prediction's interval, memory against
        what was linked. Raises as `stages.deploy` does; a budget that is broken is no error.
        """
        d = self.deployment
        latency = predicted_latency(self.board, d.prediction, d.predicted)
        figures = {
            "latency, predicted": latency,
            "SRAM, predicted": Figure(d.predicted.sram_bytes, "bytes", "modelled", note="arena planner"),
            "SRAM, linked": Figure(d.build.sram_bytes, "bytes", "measured", note="ELF, with reserved stack"),
            "flash, predicted": Figure(
                d.cost.expected_flash_bytes(d.model.graph),
                "bytes",
                "modelled",
                high=d.predicted.flash_bytes,
                note="flash model",
            ),
            "flash, linked": Figure(d.build.flash_bytes, "bytes", "measured", note="ELF"),
            "arena": Figure(d.model.arena_bytes, "bytes", "measured", note="planned and linked"),
        }
        energy_mj = None
        if self.board.running is not None:
            energy = figures["energy, predicted"] = energy_figure(self.board.running, latency)
            energy_mj = energy.high
        cost = Cost(
            latency.high or latency.value, d.build.sram_bytes, d.build.flash_bytes, d.model.parameters,
            energy_mj=energy_mj,
        )  # fmt: skip
        upper = "upper end of the interval"
        held = budget_checks(self.budgets, cost, {
            "latency_ms": f"{latency.provenance}, {upper}", "energy_mj": f"estimated, {upper}",
            "sram_bytes": "measured, linked", "flash_bytes": "measured, linked",
        })  # fmt: skip
        reasons = [check["detail"] for check in held if not check["ok"]]
        return {
            "folder": str(self.folder),
            "board": self.board.name,
            "parameters": d.model.parameters,
            "macs": d.model.graph.macs,
            "feasible": not reasons,
            "reasons": reasons,
            "figures": {name: figure.to_json() for name, figure in figures.items()},
            "budgets": budget_figures(self.budgets),
            "checks": held,
        }

    def validate(
        self, images: int, inputs: Path | None, seed: int, targets: Targets | None = None
    ) -> dict[str, Any]:
        """Run inputs on the target, or several; writes and returns the report."""
        x, labels, sound = self._inputs(load(self.path), images, inputs, seed)  # before anything is measured
        targets = targets or Targets()
        if targets.ray is None:
            check_reachable(self.board, targets.each)
        d = self.deployment
        validation = stages.validate_on_target(d, self.board, x, labels, self.reporter, targets, sound)
        document = core_document(
            name=f"{self.path.stem} on {self.board.name}",
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            board=self.board,
            budgets=self.budgets,
            model=d.model,
            prediction=d.prediction,
            predicted=d.predicted,
            cost=d.cost,
            build=d.build,
            validation=validation,
        )
        document["provenance"] = {
            "edgenas": __version__,
            "model": str(self.path),
            "inputs": str(inputs) if inputs else f"random, seed {seed}",
            "LUT": d.cost.lut.key,
            "latency interval": d.prediction.describe(),
        }
        write_report(self.folder, document)
        return document

    @staticmethod
    def _inputs(model: Model, images: int, inputs: Path | None, seed: int) -> Inputs:
        return random_inputs(model, images, seed) if inputs is None else read_inputs(inputs, model, images)

    def validate_tflm(
        self, engine: str, images: int, inputs: Path | None, seed: int, targets: Targets | None = None
    ) -> TflmValidation:
        """Run inputs through TensorFlow Lite Micro on the target; writes `tflm.json`.

        Raises ConfigError for an engine that there is not and for more than one target, and as `pipeline.validate.tflm`
        does.
        """
        if engine not in TFLM_ENGINES:
            raise ConfigError(
                f"unknown engine '{engine}'", hint=f"choose one of: edgenas, {', '.join(TFLM_ENGINES)}"
            )
        targets = targets or Targets()
        if len(targets.each) > 1 or targets.ray:
            raise ConfigError(
                f"engine {engine} is validated on one target at a time",
                hint="one --port, no --workers, no --ray",
            )
        check_reachable(self.board, targets.each)
        model = load(self.path)
        self._claim()
        x, labels, _ = self._inputs(model, images, inputs, seed)
        with self.reporter.bar("validate", len(x)) as bar:
            result = validate_tflm(
                self.path.read_bytes(), self.board, x, labels, self.budgets, self.folder / engine, engine=engine,
                port=targets.each[0], on_image=lambda n: bar.update(n, "images"),
            )  # fmt: skip
        write_text(self.folder / "tflm.json", json.dumps(result.to_json(), indent=2) + "\n")
        return result
