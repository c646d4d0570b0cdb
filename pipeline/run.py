"""Run: the stages in order, each done once, in a folder of its own."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from pipeline import __version__, stages
from pipeline.boards import load_board
from pipeline.data.speech import clips_of
from pipeline.errors import BudgetError, ConfigError
from pipeline.export import to_int8
from pipeline.familystage import FamilyAnswer, FamilyQuestion, latency_provenance
from pipeline.fleet import Targets
from pipeline.links import check_reachable
from pipeline.progress import Reporter
from pipeline.provenance import provenance
from pipeline.prunestage import prune
from pipeline.report import write_report
from pipeline.report.document import core_document
from pipeline.report.searched import Served, search_section
from pipeline.robustness import accuracy_under, section
from pipeline.rundocument import add_robustness, add_training
from pipeline.runfile import RunFile, load_runfile
from pipeline.runinputs import RunInputs
from pipeline.runstate import RunState, fingerprint, read_as, read_json
from pipeline.search import SearchResult
from pipeline.search.adaptconfig import AdaptConfig
from pipeline.search.candidates import way_out
from pipeline.search.request import not_trained
from pipeline.search.settings import check_settings, check_yields_family
from pipeline.searchinputs import INPUTS, search_inputs
from pipeline.space.architecture import Architecture
from pipeline.storage import claim, usable_folder, write_text
from pipeline.train.config import INCIDENTAL
from pipeline.validate import Validation

# What the stages leave, by what makes it outdated: another search, another training, and either.
_SEARCHED = ("search.json", "architecture.json", INPUTS, "family")
_TRAINED = ("training.json", "model.tflite", "firmware.elf", "firmware", "validation.json", "robustness.json")
_REPORTED = ("report.json", "report.html", "junit.xml")


class Run(RunInputs):
    """One run file and its folder. Each stage makes sure that those before it are done.

    A stage is skipped where its inputs are those of the last time and its outputs are there; search and
    training continue from their checkpoints, the profiler from its journal.
    """

    adapts = False  # whether it takes run files with an [adapt] table
    search_outputs: tuple[str, ...] = ("search.json", "architecture.json")

    def __init__(self, settings: RunFile, folder: Path, data: Path | None, reporter: Reporter) -> None:
        super().__init__(settings, folder, data, reporter)
        self._runs = folder.parent
        self._state = RunState(folder)
        self._found: SearchResult | None = None

    @classmethod
    def open(
        cls, runfile: Path, *, data: Path | None = None, runs: Path = Path("runs"), quiet: bool = False
    ) -> Self:
        """Read a run file and claim its folder. Raises ConfigError that names the file, line and key."""
        settings = load_runfile(runfile)
        if settings.adapt != AdaptConfig() and not cls.adapts:
            of = (
                f"the run {settings.adapt.cloud}"
                if settings.adapt.cloud
                else "a finished run: it has [adapt]"
            )
            raise ConfigError(f"{runfile} adapts {of}", hint=f"use: edgenas adapt {runfile}")
        if not cls.adapts:  # which takes the cloud's settings
            try:
                check_settings(settings.search, [settings.search.method])
            except ConfigError as error:
                raise ConfigError(f"{runfile}: {error.message}", hint=error.hint) from error
        for name in settings.train.teacher.files:
            if not Path(name).is_file():
                raise ConfigError(
                    f"{runfile}: train.teacher.files: there is no file {name}",
                    hint="the path of a trained teacher, as seen from here; without files one is trained",
                )
        folder = runs / settings.name
        claim(
            usable_folder(folder, "--runs"), "wait for it, or choose another name in the run file, or --runs"
        )
        return cls(settings, folder, data, Reporter(quiet=quiet))

    # -- stages ------------------------------------------------------------------------------------------

    def _search_key(self) -> str:
        s, targets = self.settings, self._targets()
        ops = self.space.operators()
        return fingerprint(
            __version__, self._data_key, self.space.to_json(), s.search.outcome, s.seed,
            # each board's own clock and memories say what it is held to
            [(target.name, asdict(target.budgets)) for target in targets],
            [cost.key_over(ops) for cost in (self.cost, *self.other_costs)],
            *([self.cost.predictor.digest] if self.cost.predictor else []),
        )  # fmt: skip

    def search(self) -> SearchResult:
        """Search stage; writes search.json and architecture.json."""
        if self._found is not None:
            return self._found
        path = self.folder / "search.json"
        if not path.is_file():  # not only after the table was measured
            _check_device(self.settings.search.device, "search.device")
        key = self._search_key()

        def work() -> str:
            result = self._find(self._checkpoint("search", key))
            architecture = chosen(result)
            self._set_searched_aside(architecture)
            write_text(path, json.dumps(result.to_json()) + "\n")
            write_text(self.folder / "architecture.json", json.dumps(architecture.to_json(), indent=2) + "\n")
            return architecture.describe()

        self._stage("search", key, list(self.search_outputs), work, resumes=True)
        self._found = read_as(path, SearchResult.from_json)
        inputs = search_inputs(
            self.settings,
            self._found.method,
            self.space,
            self.data,
            self.lut.identity,
            self._checkpoint("search", key),
        )
        write_text(self.folder / INPUTS, json.dumps(inputs, indent=2) + "\n")
        return self._found

    def family(self, question: FamilyQuestion) -> FamilyAnswer:
        """Architectures for another board, limit or S, in a file of the folder `family` that the question names. Trains
        no hypernetwork.

        Raises ConfigError without a finished search of a hypernetwork, BudgetError where no member meets every budget.
        """
        s = self.settings
        check_yields_family(s.search)
        own = question.board in ("", s.board.name)
        limit_ms = question.budgets(s, s.board if own else load_board(question.board)).latency_ms
        checkpoint = self._checkpoint("search", self._search_key())
        if not checkpoint.is_file():
            raise not_trained()
        cost = self.cost if own else self.cost_on(question.board)  # whose table may have to be measured
        request = question.request(s, cost, self.space.ops)
        started = time.monotonic()
        result = stages.ask_family(
            s, self.space, self.data, self._targets(), request, checkpoint, self.reporter
        )
        seconds, board = time.monotonic() - started, request.target.name
        path = self.folder / "family" / question.file_name(board)
        answer = FamilyAnswer(
            question,
            result,
            board,
            limit_ms,
            path,
            seconds,
            latency_provenance(result, cost),
        )
        text = json.dumps(answer.to_json()) + "\n"
        if path.is_file() and path.read_bytes() != text.encode():  # of another table, or an earlier edgenas
            self._set_aside((f"family/{path.name}",))
        write_text(path, text)
        if not result.feasible:
            raise BudgetError(
                f"no member of the family meets every budget on {board}: {result.reason}",
                hint=way_out(result.reason, "loosen that budget"),
            )
        return answer

    def _find(self, checkpoint: Path) -> SearchResult:
        return stages.search_architecture(
            self.settings, self.space, self.data, self._targets(), checkpoint, self.reporter
        )

    def _start(self) -> list[Any] | None:
        """Weights that training starts from; None: random ones."""
        return None

    def _start_key(self) -> tuple[str, ...]:
        return ()

    def _training_keys(self, architecture: Architecture) -> tuple[str, str]:
        """Of the training alone, whose checkpoint serves any export of it, and of training and export together."""
        s = self.settings
        settings = {k: v for k, v in asdict(s.train).items() if k not in INCIDENTAL}
        key = fingerprint(
            __version__, self._data_key, architecture.to_json(), settings, s.seed, *self._start_key()
        )
        whole = fingerprint(key, asdict(self.data.front_end)) if self.data.front_end else key
        exits = s.search.exits
        if architecture.exits or exits.expected_latency_ms or s.train.prune.active:
            # what stays depends on more than the training
            whole = fingerprint(whole, exits.choice, asdict(self.held_budgets), self.cost.key)
        return key, whole

    def export(self) -> dict[str, Any]:
        """Training and export stages; writes model.tflite and training.json."""
        _check_device(self.settings.train.device, "train.device")  # not only after the search
        architecture = chosen(self.search())
        s = self.settings
        key, whole = self._training_keys(architecture)
        path = self.folder / "training.json"

        def work() -> str:
            checkpoint = self._checkpoint("train", key)
            pruning: dict[str, Any] | None = None
            if s.train.prune.active:
                folder = self._checkpoint("prune", whole).with_suffix("")
                pruned = prune(
                    s, architecture, self.data, self.cost, self.held_budgets, folder, self.folder / "lut",
                    self.reporter, self._start(),
                )  # fmt: skip
                result, pruning = pruned.result, pruned.record
            else:
                result = stages.train(s, architecture, self.data, checkpoint, self.reporter, self._start())
            self._set_aside((*_TRAINED, *_REPORTED), copied=_SEARCHED)
            outcome = stages.export(
                result, self.data, self.folder / "model.tflite", self.reporter,
                cost=self.cost, budgets=self.held_budgets, exits=s.search.exits,
            )  # fmt: skip
            if pruning:
                outcome = {
                    "architecture": result.network.architecture.to_json(),
                    **outcome,
                    "pruning": pruning,
                }
            write_text(path, json.dumps(outcome) + "\n")
            accuracy = outcome["accuracy"]
            return f"float {100 * accuracy['float']['value']:.2f} %, INT8 {100 * accuracy['int8']['value']:.2f} %"

        self._stage("train and export", whole, ["training.json", "model.tflite"], work, resumes=True)
        trained: dict[str, Any] = read_json(path, "accuracy", "history", "quantization", "agreement")
        return trained

    def everything(self, targets: Targets | None = None) -> dict[str, Any]:
        """All stages, validation on `targets`; returns (and writes) the report.

        Raises ConfigError or LinkError before the first stage where a target cannot be reached; only what was validated
        before needs none, if none is named.
        """
        targets, path = targets or Targets(), self.folder / "validation.json"
        if targets.ports or not path.is_file():
            check_reachable(self.settings.board, targets.each)
        trained = self.export()
        s = self.settings
        started = time.monotonic()
        deployment = stages.deploy(
            self.folder / "model.tflite", s.board, s.budgets, self.folder, self.reporter, s.vetoes
        )
        self._done("deploy", started, f"firmware.elf, {deployment.build.flash_bytes:,} bytes of flash")

        images = min(s.validate.images, len(self.data.x_test))
        key = fingerprint(__version__, deployment.build.build_id, deployment.tflite, self._data_key, images)

        def work() -> str:
            validation = stages.validate_on_target(
                deployment,
                s.board,
                to_int8(self.data.x_test[:images]),
                self.data.y_test[:images],
                self.reporter,
                targets,
                clips_of(self.data, images),
            )
            self._set_aside((path.name, *_REPORTED), copied=(*_SEARCHED, "training.json", "model.tflite"))
            write_text(path, json.dumps(validation.to_json()) + "\n")
            return f"{validation.images} images, {validation.mismatches} differ from the reference"

        self._stage("validate", key, ["validation.json"], work)
        document = core_document(
            name=s.name,
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            board=s.board,
            budgets=s.budgets,
            model=deployment.model,
            prediction=deployment.prediction,
            predicted=deployment.predicted,
            cost=deployment.cost,
            build=deployment.build,
            validation=read_as(path, Validation.from_json),
        )
        self._add_search_and_training(document, trained)
        accuracies = self._accuracies_under(deployment)
        prediction = deployment.prediction
        part = section(
            s.robustness, s.board, prediction.high_cycles, s.budgets, accuracies, prediction.provenance
        )
        add_robustness(document, part)
        page = write_report(self.folder, document)
        self.reporter.say(f"report: {page}")
        return document

    # -- helpers -----------------------------------------------------------------------------------------

    def _add_search_and_training(self, document: dict[str, Any], trained: dict[str, Any]) -> None:
        result, (own, *others) = self.search(), self._targets()
        document["search"] = search_section(
            result,
            seconds=self._state.seconds("search"),
            space_size=self.space.count(),
            budgets=own.budgets,
            others=[
                Served.of(cost, target.budgets, result)
                for cost, target in zip(self.other_costs, others, strict=True)
            ],
        )
        add_training(document, trained, chosen(result), seconds=self._state.seconds("train and export"))
        document["warnings"] += list(self.data.warnings)
        document["provenance"] = provenance(self.settings, self.data, self.lut)

    def _accuracies_under(self, deployment: stages.Deployment) -> dict[str, Any] | None:
        """Robustness stage: accuracies on other inputs; None where the run file names none."""
        s = self.settings
        if not (s.robustness.rotate_degrees or s.robustness.noise or s.robustness.batches):
            return None
        path = self.folder / "robustness.json"
        rule = deployment.model.exit_rule
        key = fingerprint(
            __version__, deployment.tflite, self._data_key, asdict(s.robustness), s.seed,
            *([asdict(rule)] if rule else []),
        )  # fmt: skip

        def work() -> str:
            found = accuracy_under(s.robustness, deployment.tflite, self.data, s.seed, rule)
            write_text(path, json.dumps(found) + "\n")
            worst = min(row["accuracy"]["value"] for row in found["inputs"])
            return f"INT8 {100 * worst:.2f} % at worst over {len(found['inputs'])} input distributions"

        self._stage("robustness", key, [path.name], work)
        found: dict[str, Any] = read_json(path, "images", "inputs", "batches")
        return found

    def _set_searched_aside(self, found: Architecture) -> None:
        """An earlier search's files, and those of its model unless `found` is the same architecture."""
        path = self.folder / "architecture.json"
        same = path.is_file() and read_json(path) == json.loads(json.dumps(found.to_json()))
        self._set_aside((*_SEARCHED, *_REPORTED, *(() if same else _TRAINED)))

    def _set_aside(self, outdated: tuple[str, ...], copied: tuple[str, ...] = ()) -> None:
        """No folder holds files of two searches or trainings side by side, and none are lost."""
        place = self._state.set_aside(outdated, copied)
        if place is not None:
            self.reporter.say(f"  what an earlier state of this run left is in {place}")

    def _checkpoint(self, stage: str, key: str) -> Path:
        """One file per stage and inputs: another run's checkpoint is never picked up."""
        folder = self.folder / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{stage}-{key}.pt"

    def _stage(
        self, name: str, key: str, outputs: list[str], work: Callable[[], str], *, resumes: bool = False
    ) -> None:
        """`resumes`: it goes on from a checkpoint, so its time is that of all sittings."""
        if self._state.is_done(name, key, outputs):
            self.reporter.say(f"{name}: done before, in {self._state.seconds(name):.0f} s")
            return
        self.reporter.say(f"{name} ...")
        started = time.monotonic() - self._state.spent(name, key)
        try:
            outcome = work()
        except BaseException:
            if resumes:
                self._state.interrupt(name, key, time.monotonic() - started)
            raise
        self._state.finish(name, key, time.monotonic() - started)
        self._done(name, started, outcome)


def _check_device(name: str, field: str) -> None:
    """Raises ConfigError where `field` names a device that this machine has not. torch is loaded only for others."""
    if name not in ("auto", "cpu"):
        from pipeline.train.device import choose

        choose(name, field)


def chosen(result: SearchResult) -> Architecture:
    """The architecture of a feasible result."""
    if result.architecture is None:
        raise ConfigError(f"the search found nothing: {result.reason}", hint="loosen a budget")
    return result.architecture
