"""The edge stage of a run: adapt what another run's search found to local data and the device's condition."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data import DataSet
from pipeline.errors import BudgetError, ConfigError
from pipeline.latency.condition import at_clock
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut
from pipeline.offline import local_only
from pipeline.profiler.bench import BenchSession, Session
from pipeline.profiler.identity import current_identity
from pipeline.profiler.load import LoadScale, measure_load, spread
from pipeline.profiler.profile import lut_path
from pipeline.progress import Reporter
from pipeline.run import Run
from pipeline.runfile import RunFile, SpaceConfig
from pipeline.runstate import fingerprint, read_json
from pipeline.search import SearchResult, Target
from pipeline.search.adaptation import adapt
from pipeline.search.adaptconfig import Spending
from pipeline.search.candidates import way_out
from pipeline.search.config import SearchConfig
from pipeline.search.energy import unknown_current
from pipeline.searchinputs import CloudRun
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.stages import obtain_lut, search_target
from pipeline.storage import write_text

if TYPE_CHECKING:
    from pipeline.search.cloud import Cloud

LOAD = "load.json"
_WEIGHTS = "inherited.pt"
_STRETCHED = ("latency_ms", "energy_mj")  # budgets of what grows with the time that an inference takes
_OF_THIS_MACHINE = ("threads", "workers", "device", "mixed_precision", "checkpoint_seconds")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beyond the run file; None leaves the run file's."""

    cloud: Path | None = None
    clock_hz: int | None = None
    latency_scale: float | None = None
    measure: bool = False  # again, even if the run has measured before
    port: str | None = None


class EdgeRun(Run):
    """A run whose search is the edge stage and whose training starts from the weights of that.

    Data are loaded, searched and trained on with connections to other machines refused.
    """

    adapts = True
    search_outputs = ("search.json", "architecture.json", _WEIGHTS)

    def __init__(self, settings: RunFile, folder: Path, data: Path | None, reporter: Reporter) -> None:
        super().__init__(settings, folder, data, reporter)
        self._at_rest = settings.board
        self._asked = settings.budgets
        self._port: str | None = None
        self._remeasure = False
        self.session: Session | None = None  # measures the load; None: the benchmark firmware on the board

    def configure(self, options: Options) -> None:
        """Take over what the command line says. Raises ConfigError where there is no cloud run, or no sense."""
        given = {
            "cloud": str(options.cloud) if options.cloud else None,
            "clock_hz": options.clock_hz,
            "latency_scale": options.latency_scale,
        }
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if options.measure:
            changes["measure"] = True
        elif options.latency_scale is not None:
            changes["measure"] = False
        chosen = replace(self.settings.adapt, **changes)
        if not chosen.cloud:
            raise ConfigError(
                "there is no run to adapt", hint="name its folder: cloud = in [adapt], or --cloud FOLDER"
            )
        self._port, self._remeasure = options.port, options.measure
        self.settings = replace(
            self.settings, adapt=chosen, board=at_clock(self.settings.board, chosen.clock_hz)
        )
        if self._asked.energy_mj is not None and self.settings.board.running is None:
            raise unknown_current(self.settings.board)
        if (self.cloud.folder).resolve() == self.folder.resolve():
            raise ConfigError(
                f"{self.folder} is the cloud's own folder", hint="give the edge run another name, or --runs"
            )

    # -- what it starts from -----------------------------------------------------------------------------

    @functools.cached_property
    def cloud(self) -> CloudRun:
        named = Path(self.settings.adapt.cloud)
        return CloudRun.open(named if named.is_dir() else self._runs / named)

    @functools.cached_property
    def _search_config(self) -> SearchConfig:
        """The cloud's settings, but for how this machine computes; what guided the cloud does not guide here."""
        here = {name: getattr(self.settings.search, name) for name in _OF_THIS_MACHINE}
        return replace(self.cloud.search, latency="lut", **here)

    def _load_data(self) -> DataSet:
        with local_only():
            return super()._load_data()

    @functools.cached_property
    def space(self) -> SearchSpace | CellSpace:
        shape, classes = self.data.input_shape, self.data.classes
        if self.settings.space == SpaceConfig():
            return replace(self.cloud.space, input_shape=shape, classes=classes)
        return self.settings.space.build(shape, classes)

    # -- the device's condition ----------------------------------------------------------------------------

    @functools.cached_property
    def _idle(self) -> Lut:
        """The table at the board's own clock."""
        ops = self.cloud.space.operators()
        return obtain_lut(self._at_rest, ops, self.folder / "lut-own-clock", self.reporter)

    @functools.cached_property
    def lut(self) -> Lut:
        """The table at the present clock; written down, so that deployment finds it."""
        self.cloud.check(self.space, current_identity(self._at_rest))  # before anything is measured
        idle, board = self._idle, self.settings.board
        if board.clock_hz == self._at_rest.clock_hz:
            return idle
        lut = replace(idle, identity=current_identity(board))
        lut.save(lut_path(board, self.folder / "lut"))
        return lut

    @functools.cached_property
    def cost(self) -> CostModel:
        """The table: a predictor of the cloud's was fitted to another condition, and few steps are left to guide."""
        return self.table_cost

    @functools.cached_property
    def other_costs(self) -> tuple[CostModel, ...]:
        """None: for further boards the cloud is searched, whatever [search] of this run file says."""
        return ()

    @functools.cached_property
    def load(self) -> LoadScale | None:
        """The load measured on the board: once for this run, unless asked for again or in another way. None: not
        measured."""
        options = self.settings.adapt
        if not options.measure:
            return None
        path = self.folder / LOAD
        rows = spread(self._idle, self.cloud.space.operators(), options.measure_operators)
        if path.is_file() and not self._remeasure:
            kept = read_json(path)
            try:
                of, known = kept.pop("table", ""), LoadScale(**kept)
            except (TypeError, AttributeError) as error:
                raise ConfigError(f"{path} is damaged: {error}", hint="measure again: --measure") from error
            asked = (self._idle.key, options.measure_quantile, len(rows), options.measure_runs)
            if (of, known.quantile, known.operators, known.runs) == asked:
                return known
        self.reporter.say(f"load: {len(rows)} operators, {options.measure_runs} runs each ...")
        session = self.session or BenchSession(self._at_rest, self.folder / "bench", port=self._port)
        try:
            load = measure_load(session, self._at_rest, rows, options.measure_runs, options.measure_quantile)
        finally:
            session.close()
        self.reporter.say(f"load: median {load.median:.4f}, {load.quantile:.0%} quantile {load.upper:.4f}")
        write_text(path, json.dumps({"table": self._idle.key, **load.to_json()}) + "\n")
        return load

    @property
    def latency_scale(self) -> float:
        return self.load.latency_scale if self.load else self.settings.adapt.latency_scale

    @functools.cached_property
    def _limits(self) -> Budgets:
        """The budgets of an idle device that keep the real ones under load: latency, and the energy that goes with it,
        over the scale."""
        asked = {name: getattr(self._asked, name) for name in _STRETCHED}
        held = {name: value / self.latency_scale for name, value in asked.items() if value is not None}
        return replace(self._asked, **held)

    @property
    def _held(self) -> Budgets:
        """What the search keeps: `_limits` under every condition of [robustness] too, where those must hold.

        They come on top of the present clock and load. Raises ConfigError for one that makes no sense here.
        """
        return self.settings.robustness.held(self._limits, self.settings.board)

    def condition(self) -> str:
        """E.g. `84 MHz of 168 MHz, latency x 1.25 (given), at most 50 ms, 196,608 bytes of SRAM`."""
        board, load = self.settings.board, self.load
        clock = f"{board.clock_hz / 1e6:g} MHz"
        if board.clock_hz != self._at_rest.clock_hz:
            clock += f" of {self._at_rest.clock_hz / 1e6:g} MHz"
        how = f"measured over {load.operators} operators" if load else "given"
        parts = [clock, f"latency x {self.latency_scale:.4g} ({how})"]
        budgets = self._asked
        if budgets.latency_ms is not None:
            held, limit = self._held.latency_ms, self._limits.latency_ms
            under = f" ({held:.4g} ms on the idle device, for robustness.hold)" if held != limit else ""
            parts.append(f"at most {budgets.latency_ms:g} ms{under}")
        for name, label in (("sram_bytes", "bytes of SRAM"), ("flash_bytes", "bytes of flash")):
            if getattr(budgets, name) is not None:
                parts.append(f"{getattr(budgets, name):,} {label}")
        return ", ".join(parts)

    def _targets(self) -> tuple[Target, ...]:
        return (search_target(self.cost, self._limits, self.settings.robustness),)

    # -- stages --------------------------------------------------------------------------------------------

    def search(self) -> SearchResult:
        if self._found is None:
            _ = self.lut  # a cloud run that does not fit is refused before anything is measured or trained
            self.reporter.say(f"adapting {self.cloud.folder}: {self.condition()}")
            # Where the device itself is under the load, what it shows is held against the real deadline.
            loaded = self._at_rest.latency_provenance == "measured"
            self.settings = replace(self.settings, budgets=self._asked if loaded else self._limits)
        return super().search()

    def _search_key(self) -> str:
        options = {k: v for k, v in asdict(self.settings.adapt).items() if k != "cloud"}
        return fingerprint(super()._search_key(), self.cloud.identity, options, self._search_config.outcome)

    def _find(self, checkpoint: Path) -> SearchResult:
        from pipeline.search.inherit import save_weights

        with local_only(), self.reporter.bar("adapt", 1) as bar:
            outcome = adapt(
                self.space,
                self.data,
                self.cost,
                self.held_budgets,
                self._search_config,
                self.settings.adapt,
                self._cloud_state(),
                seed=self.settings.seed,
                checkpoint=checkpoint,
                on_step=lambda p: bar.update(int(p["done"]), str(p["phase"]), total=int(p["total"])),
            )
        if not outcome.result.feasible:
            raise BudgetError(
                f"nothing of {self.cloud.folder} can be adapted to {self.condition()}: {outcome.result.reason}",
                hint=way_out(
                    outcome.result.reason, "loosen that budget, or search anew with a smaller space"
                ),
            )
        save_weights(self.folder / _WEIGHTS, outcome.weights)
        return outcome.result

    def _cloud_state(self) -> Cloud:
        from pipeline.search.cloud import Cloud

        cloud, config = self.cloud, self.cloud.search
        steps = config.warmup_steps + config.steps
        return Cloud.load(
            cloud.checkpoint, cloud.identity, config.temperature_end, steps, cloud.validation_images
        )

    def _start(self) -> list[Any] | None:
        from pipeline.search.inherit import load_weights

        return load_weights(self.folder / _WEIGHTS)

    def _start_key(self) -> tuple[str, ...]:
        return (self._search_key(),)

    def export(self) -> dict[str, Any]:
        self.search()
        with local_only():
            return super().export()

    # -- report --------------------------------------------------------------------------------------------

    def effort(self) -> dict[str, Any]:
        """What the adaptation cost against the cloud search: images (search/effort.py) and seconds."""
        cloud = self.cloud
        spending = Spending.plan(self.settings.adapt, self._search_config, cloud.passes, len(self.data.x_val))
        return {
            "passes": spending.passes,
            "cloud_passes": cloud.passes,
            "seconds": self._state.seconds("search"),
            "cloud_seconds": cloud.seconds,
        }

    def _add_search_and_training(self, document: dict[str, Any], trained: dict[str, Any]) -> None:
        super()._add_search_and_training(document, trained)
        effort = self.effort()
        for name in _STRETCHED:
            shown, asked = document["budgets"].get(name), getattr(self._asked, name)
            if shown and asked is not None and shown["value"] != asked:
                load = f"a load of {self.latency_scale:.4g} ({'measured' if self.load else 'given'})"
                shown["note"] = f"of an idle device: {asked:g} {shown['unit']} (given) / {load}"
        document["adaptation"] = {
            "cloud": str(self.cloud.folder),
            "cloud_checkpoint": self.cloud.identity,
            "condition": self.condition(),
            "clock_hz": self.settings.board.clock_hz,
            "latency_scale": self.latency_scale,
            "load": self.load.to_json() if self.load else None,
            "deadline_ms": self._asked.latency_ms,
            "deadline_idle_ms": self._held.latency_ms,
            **effort,
        }
        document["provenance"] |= {
            "adapted from": f"{self.cloud.folder} (checkpoint {self.cloud.identity})",
            "under condition": self.condition(),
            "deadline on the idle device": f"{self._held.latency_ms:.4g} ms",
            "cost of adapting": f"{effort['passes']:,} images of the search's {effort['cloud_passes']:,}, "
            f"{effort['seconds']:.1f} s of {effort['cloud_seconds']:.1f} s",
        }
