"""The stages of a run, one function each: load, LUT, search, train, export, deploy, validate."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import data as datasets
from pipeline.boards import Board
from pipeline.data import DataSet
from pipeline.data.shift import shifted
from pipeline.engine import Model, emit_c, load, slower_than_measured
from pipeline.engine.host import cache_dir
from pipeline.errors import BudgetError, ConfigError, EdgeNasError, ModelError
from pipeline.exitstage import export_exits, measure_exits, record, with_exits
from pipeline.export import compare, evaluate_int8, to_int8, write_tflite
from pipeline.export.parity import Int8Network
from pipeline.export.reference import int8_logits
from pipeline.figures import Figure
from pipeline.firmware import Build, build, check_path, render_app, too_long
from pipeline.fleet import Targets
from pipeline.frontend import FrontEnd
from pipeline.latency.cost import CostModel
from pipeline.latency.lut import Lut, Prediction
from pipeline.latency.sound import SoundCost
from pipeline.memory.planner import explain_peak
from pipeline.profiler.identity import ENGINE
from pipeline.profiler.profile import lut_path, obtain, profile
from pipeline.profiler.sound import obtain_sound_cost
from pipeline.progress import Reporter
from pipeline.robustness import RobustnessConfig
from pipeline.runfile import RunFile, load_runfile
from pipeline.search import Request, SearchResult, Target, search_for
from pipeline.search import ask_family as search_family
from pipeline.search.candidates import VETOED, way_out
from pipeline.search.exitconfig import ExitConfig
from pipeline.space.architecture import Architecture
from pipeline.space.budgets import Budgets, Cost
from pipeline.space.cells import CellSpace
from pipeline.space.opspec import OpSpec
from pipeline.space.search_space import SearchSpace
from pipeline.space.vetoes import Vetoes
from pipeline.storage import usable_folder, write_bytes
from pipeline.validate import Validation, validate

if TYPE_CHECKING:
    from pipeline.train import QatResult

REAL_BOARD_BOUND = 0.01  # relative error of held-out operators at which profiling a real board ends
_PARITY_IMAGES = 200  # exported file against the interpreters and the fake-quantized network


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """A model built for a board, with what was predicted of it."""

    model: Model
    tflite: bytes
    cost: CostModel
    prediction: Prediction
    predicted: Cost
    build: Build


def load_data(run: RunFile, path: Path | None) -> DataSet:
    """The run's data set; `path` (from the command line) goes before the run file's."""
    chosen = path or (Path(run.data.path) if run.data.path else None)
    data = datasets.load(
        run.data.name,
        path=chosen,
        seed=run.seed,
        validation=run.data.validation,
        limit=run.data.limit or None,
        options=run.data_options,
        present=run.data.shift.keep_classes,
    )
    return shifted(data, run.data.shift, seed=run.seed)


def obtain_lut(board: Board, ops: Sequence[OpSpec], folder: Path, reporter: Reporter) -> Lut:
    """The shipped table where it is of this machine's identity; else measured into `folder`."""
    return obtain(board, ops, folder=folder, reporter=reporter)


def obtain_sound(
    board: Board, front_end: FrontEnd | None, folder: Path, reporter: Reporter
) -> SoundCost | None:
    """What the front end costs on `board`, from beside the table in `folder` or measured; None without one."""
    if front_end is None:
        return None
    return obtain_sound_cost(board, front_end, folder=folder, reporter=reporter)


def search_target(cost: CostModel, budgets: Budgets, robustness: RobustnessConfig) -> Target:
    """A board of a search; its memories limit the budgets, and so do conditions that they must hold under."""
    board = cost.board
    sram, flash = board.memory.sram.bytes, board.memory.flash.bytes
    budgets = robustness.held(budgets, board)
    held = replace(
        budgets,
        sram_bytes=min(budgets.sram_bytes or sram, sram),
        flash_bytes=min(budgets.flash_bytes or flash, flash),
    )
    return Target(board.name, cost, held, board.clock_hz)


def search_architecture(
    run: RunFile,
    space: SearchSpace | CellSpace,
    data: DataSet,
    targets: Sequence[Target],
    checkpoint: Path,
    reporter: Reporter,
) -> SearchResult:
    """The search for `targets`, the run's board first.

    Raises BudgetError where no architecture meets every budget; the message names the tightest.
    """
    with reporter.bar("search", 1) as bar:

        def on_step(progress: dict[str, Any]) -> None:
            bar.update(int(progress["done"]), str(progress["phase"]), total=int(progress["total"]))

        result = search_for(
            space, data, targets, run.search, seed=run.seed, checkpoint=checkpoint, on_step=on_step
        )
    if not result.feasible:
        vetoed = result.reason.startswith(VETOED)
        raise BudgetError(
            result.reason if vetoed else f"no architecture found that meets every budget: {result.reason}",
            hint=way_out(result.reason, "loosen that budget, or give the search a smaller space"),
        )
    return result


def ask_family(
    run: RunFile,
    space: SearchSpace | CellSpace,
    data: DataSet,
    targets: Sequence[Target],
    request: Request,
    checkpoint: Path,
    reporter: Reporter,
) -> SearchResult:
    """Architectures from a finished hypernetwork search. Raises ConfigError where there is none."""
    with reporter.bar("family", request.members) as bar:

        def on_step(progress: dict[str, Any]) -> None:
            bar.update(0, str(progress["phase"]))

        return search_family(
            space, data, targets, run.search, request, seed=run.seed, checkpoint=checkpoint, on_step=on_step
        )


@contextmanager
def training_bar(reporter: Reporter) -> Iterator[Callable[[Any], None]]:
    """A bar, as what is to be called after each step of a training."""
    with reporter.bar("train", 1) as bar:
        yield lambda progress: bar.update(
            progress.step,
            f"{progress.phase} epoch {progress.epoch + 1}/{progress.epochs}, loss {progress.loss:.3f}",
            total=progress.total_steps,
        )


def train(
    run: RunFile, architecture: Architecture, data: DataSet, checkpoint: Path, reporter: Reporter,
    start: list[Any] | None = None,
) -> QatResult:  # fmt: skip
    """Float training, from the weights `start` if given, and quantization-aware fine-tuning.

    Resumes from `checkpoint`.
    """
    from pipeline.train import train_qat

    with training_bar(reporter) as on_step:
        return train_qat(
            architecture, data, run.train, seed=run.seed, checkpoint=checkpoint, on_step=on_step, start=start
        )


def export(
    result: QatResult,
    data: DataSet,
    path: Path,
    reporter: Reporter,
    *,
    cost: CostModel | None = None,
    budgets: Budgets | None = None,
    exits: ExitConfig | None = None,
) -> dict[str, Any]:
    """Write the .tflite; compare it with the interpreters and measure it on the whole test set.

    Of a network with early exits those stay that `exits` asks for, by `cost` within `budgets`. Others need the last
    three arguments only where there is a goal of expected latency. Raises ConfigError where `cost` is needed and lacks.
    """
    network: Int8Network = result.network
    architecture = result.network.architecture
    chosen = None
    options = exits or ExitConfig()
    if architecture.exits or options.expected_latency_ms:
        if cost is None:
            raise ConfigError("early exits cannot be chosen without a latency table")
        content, network, choice = export_exits(result.network, data, cost, budgets or Budgets(), options)
        tested = measure_exits(int8_logits(content, data.x_test), data.y_test, choice)
        chosen = record(architecture, choice, tested, options)
        architecture = with_exits(architecture, choice.kept)
        kept = ", ".join(f"after block {i}" for i in architecture.exits) or "none"
        reporter.say(f"  early exits kept: {kept} ({len(chosen['allowed'])} allowed)")
    else:
        content = write_tflite(result.network, data.front_end)
    write_bytes(path, content)
    reporter.say(f"  {path.name}: {len(content):,} bytes; comparing it with the reference interpreters")
    agreement = compare(content, to_int8(data.x_test[:_PARITY_IMAGES]), network)
    int8 = chosen["test"]["accuracy"] if chosen else evaluate_int8(content, data.x_test, data.y_test)
    n = len(data.x_test)

    def accuracy(value: float, note: str) -> dict[str, Any]:
        return Figure(value, "fraction", "measured", n=n, note=f"{note}, on the whole test split").to_json()

    early = chosen if chosen and chosen["kept"] else None
    by_rule = ", each image ending at the exit that the thresholds say" if early else ""
    last = ", its final output alone" if early else ""
    accuracies = {
        "float": accuracy(result.float_accuracy, f"float network before quantization{last}"),
        "fake_quantized": accuracy(result.fake_quant_accuracy, f"quantization-aware network{last}"),
        "int8": accuracy(int8, f"the exported file on LiteRT's reference kernels{by_rule}"),
    }
    if early:
        alone = early["test"]["final_accuracy"]
        accuracies["int8_final_output"] = accuracy(alone, f"the exported file{last}")
    more = {"exits": chosen, "architecture": architecture.to_json()} if chosen else {}
    return {
        "accuracy": accuracies,
        **more,
        "agreement": agreement.to_json(),
        "history": [dict(row) for row in result.history],
        "quantization": dict(result.quantization),
    }


def check_fits(model: Model, predicted: Cost, board: Board) -> None:
    """Raises BudgetError that says by how many bytes a model exceeds the board's memory, and which tensors make the
    peak."""
    for name, memory in (("sram_bytes", board.memory.sram), ("flash_bytes", board.memory.flash)):
        value, limit = getattr(predicted, name), memory.bytes
        if value <= limit:
            continue
        detail = ""
        if name == "sram_bytes":
            detail = "\n" + explain_peak(model.plan, model.graph)
            if model.front_end and model.arena_bytes > model.plan.arena_bytes:
                needed = model.front_end.sound_bytes + model.front_end.work_bytes
                detail += f"\nbut the clip and the front end's memory take more: {needed:,} bytes"
        raise BudgetError(
            f"the model does not fit {board.name}: {name.removesuffix('_bytes').upper()} {value:,} bytes, "
            f"{value - limit:,} more than the {limit:,} there are{detail}",
            hint="a smaller input or fewer channels at the peak"
            if name == "sram_bytes"
            else "fewer weights, or a board with more flash",
        )


def deploy(
    path: Path, board: Board, budgets: Budgets, folder: Path, reporter: Reporter, vetoes: Vetoes | None = None
) -> Deployment:
    """Generate and build the firmware of a .tflite; `folder` gets `firmware/` and `firmware.elf`.

    Budgets are compiled in; whether they hold is the caller's to judge, with all figures at hand. Raises ModelError
    (unusable file, or an operator that is vetoed), BudgetError (does not fit the board's memory), ToolError (no
    compiler).
    """
    model = load(path)
    against = (vetoes or Vetoes()).reasons(node.op for node in model.graph.nodes)
    if against:
        raise ModelError(
            f"{path.name} cannot be deployed: {'; '.join(against)}", hint="loosen [vetoes], or search again"
        )
    check_path(usable_folder(folder, "--out"))  # before anything is measured
    lut = obtain_lut(
        board, [node.op for node in model.graph.nodes if node.op.kind != "reshape"], folder / "lut", reporter
    )
    sound = obtain_sound(board, model.front_end, folder / "lut", reporter)
    cost = CostModel(board, lut, sound=sound)
    predicted = cost.evaluate(model.graph, model.parameters)
    # the expectation refuses early; the linker decides
    check_fits(model, replace(predicted, flash_bytes=cost.expected_flash_bytes(model.graph)), board)
    prediction = cost.predict(model.graph)
    for key in prediction.outside:
        reporter.warn(f"{key} lies outside the range that was measured: extrapolated, in a wider interval")
    for layer in model.layers:
        slow = slower_than_measured(layer)
        if slow:
            reporter.warn(f"{layer.name}: {slow}; it takes longer than the table's prediction")
    # only a device that counts instructions needs to be told their cycles
    ratio = cost.cycles_per_instruction(model.graph) if board.counts_instructions else 1.0
    if why := too_long(prediction.latency_ms(board.clock_hz), board, ratio):
        reporter.warn(
            f"an inference is predicted to take {prediction.latency_ms(board.clock_hz):,.0f} ms; {why}"
        )
    notes = [
        f"predicted {prediction.per_node[layer.node].cycles:,.0f} cycles ({prediction.per_node[layer.node].provenance})"
        for layer in model.layers
    ]
    sound_ratio = (
        None if sound is None else sound.cycles_per_instruction if board.counts_instructions else 1.0
    )
    sources = render_app(emit_c(model, notes), board, budgets, folder / "firmware", ratio, sound_ratio)
    built = build(sources, board)
    shutil.copyfile(built.elf, folder / "firmware.elf")
    return Deployment(model, path.read_bytes(), cost, prediction, predicted, built)


def validate_on_target(
    deployment: Deployment,
    board: Board,
    x: NDArray[np.int8],
    labels: NDArray[np.int64] | None,
    reporter: Reporter,
    targets: Targets | None = None,
    sound: NDArray[np.int16] | None = None,
) -> Validation:
    """Send `x`, or the clips `sound` that it was made of, to the device (or several), compare, and collect its
    figures."""
    with reporter.bar("validate", len(x)) as bar:
        return validate(
            deployment.model, deployment.tflite, deployment.build, board, x, labels,
            sound=sound, targets=targets, on_image=lambda done: bar.update(done, "images"),
        )  # fmt: skip


def profile_boards(
    boards: Sequence[Board], runfile: Path | None, out: Path | None, *, quiet: bool = False, engine: str = ENGINE,
    bound: float | None = None, targets: Targets | None = None, data: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure a run file's search space, or the default ones, on each board, several boards at a time.

    Returns where each table is and its size; raises ConfigError at once where no table could be written there, two
    boards would share one, or for `data`, which overrides the run file's, without one.
    Measurements are journalled in the user's cache, so an interrupted call goes on. What ends one board is said at
    once, and raised when the others are done. `bound` left out: emulators measure everything, real boards until
    held-out operators are predicted within REAL_BOARD_BOUND.
    """
    reporter = Reporter(quiet=quiet)
    names = [board.name for board in boards]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        what = f"--board: two of the boards are named {twice}, which tables and journals are kept by"
        raise ConfigError(what, hint="leave one out, or give its file another 'name'")
    if runfile is not None:
        run = load_runfile(runfile)
        arrays = load_data(run, data)
        spaces = [run.space.build(arrays.input_shape, arrays.classes)]
    elif data is not None:
        raise ConfigError(
            "--data without --run: no data set is looked at", hint="leave it out, or give --run"
        )
    else:
        spaces = [SearchSpace.for_input(shape, 10) for shape in ((28, 28, 1), (32, 32, 3))]
    ops = sorted({op for space in spaces for op in space.operators()})

    stop = Event()
    paths = {board.name: lut_path(board, out, engine) for board in boards}
    for path in paths.values():
        usable_folder(path.parent, "--out")  # hours of measuring come before the table is written

    def one(board: Board) -> dict[str, Any]:
        path = paths[board.name]
        journal = cache_dir() / "profile" / f"{board.name}.sqlite"
        limit = bound if bound is not None else 0.0 if board.emulator else REAL_BOARD_BOUND
        lut = profile(
            board, ops, journal=journal, reporter=reporter, out=path, engine=engine, bound=limit, targets=targets,
            stop=stop,
        )  # fmt: skip
        return {"board": board.name, "path": str(path), "rows": len(lut.rows), "identity": lut.identity.hash}

    with ThreadPoolExecutor(len(boards)) as pool:
        summaries = {pool.submit(one, board): board for board in boards}
        try:
            for ended in as_completed(summaries):
                error = ended.exception()
                if isinstance(error, EdgeNasError) and len(boards) > 1:  # raised when the others are done
                    hint = f" ({error.hint})" if error.hint else ""
                    reporter.warn(f"{summaries[ended].name} could not be measured: {error.message}{hint}")
        except BaseException:  # interrupted, which only this thread hears of
            stop.set()
            raise
        return [summary.result() for summary in summaries]
