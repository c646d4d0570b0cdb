"""Random whole models: predicted from the table, then built and run on the target.

Each model is journalled (one JSON line) as soon as it has run, so an interrupted check goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import Board
from pipeline.engine import emit_c, load
from pipeline.errors import ConfigError
from pipeline.firmware import build, cycles_per_tick, render_app
from pipeline.fleet import Fleet, Targets, Worker
from pipeline.latency.cost import CostModel
from pipeline.latency.emulated import emulated_inference
from pipeline.latency.intervals import Interval
from pipeline.latency.lut import Lut
from pipeline.memory.flash import layers
from pipeline.profiler.footprint import sample_network
from pipeline.progress import Reporter
from pipeline.runstate import fingerprint
from pipeline.space.architecture import Architecture, lower
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.search_space import SearchSpace
from pipeline.storage import checksum, claim

# whose models check and calibrate a table where nothing else is asked for
DEFAULT = SearchSpace.for_input((28, 28, 1), 10)


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """One architecture; cycles of one inference. `low` and `high` are the ends of rows and kernels' models, added up,
    before the factors of the table's interval. `worst_layer`: where prediction and observation are farthest apart."""

    number: int
    architecture: str
    macs: int
    predicted: float
    low: float
    high: float
    observed: float
    worst_layer: str
    worst_layer_error: float  # of that layer, as a part of the whole inference
    flash_error: float
    sram_error_bytes: int


class ModelRunner:
    """Builds and runs architectures on one target; `folder` keeps one build that each model changes a little."""

    def __init__(self, board: Board, cost: CostModel, folder: Path, port: str | None) -> None:
        self._board, self._cost, self._folder, self._port = board, cost, folder, port

    def check(self, number: int, architecture: Architecture) -> CheckedModel:
        """Raises ToolError (compiler, emulator) and LinkError (the target)."""
        model = load(sample_network(lower(architecture), seed=number))
        prediction = self._cost.predict(model.graph)
        ratio = self._cost.cycles_per_instruction(model.graph) if self._board.counts_instructions else 1.0
        built = build(render_app(emit_c(model), self._board, Budgets(), self._folder, ratio), self._board)
        x = np.random.default_rng(number).integers(-128, 128, model.input_bytes, dtype=np.int8).tobytes()
        seen = emulated_inference(self._board, built.elf, x, port=self._port)
        cycles_of = [layer.cycles for layer in seen.layers]
        if self._board.counts_instructions:
            instructions = sum(layer.instructions for layer in seen.layers)
            between = seen.ticks * cycles_per_tick(self._board, 1.0) - instructions
            observed = sum(cycles_of) + max(0.0, between) * sum(cycles_of) / instructions
        else:
            observed = seen.ticks * self._board.clock_hz / self._board.counter.hz
        errors = [
            cycles - prediction.per_node[layer.node].cycles
            for layer, cycles in zip(model.layers, cycles_of, strict=True)
        ]
        worst = int(np.argmax(np.abs(errors)))
        low, high = prediction.sums
        return CheckedModel(
            number=number, architecture=architecture.describe(), macs=model.graph.macs,
            predicted=prediction.total_cycles, low=low, high=high,
            observed=observed, worst_layer=model.layers[worst].op.key,
            worst_layer_error=errors[worst] / observed,
            flash_error=self._cost.expected_flash_bytes(model.graph) / built.flash_bytes - 1.0,
            sram_error_bytes=self._cost.sram_bytes(model.graph) - built.sram_bytes,
        )  # fmt: skip

    def close(self) -> None: ...


def check_table(
    board: Board, lut: Lut, count: int, folder: Path, reporter: Reporter, *, seed: int = 0,
    targets: Targets | None = None, space: SearchSpace | CellSpace | None = None,
) -> list[CheckedModel]:  # fmt: skip
    """`count` random architectures (`drawn`) of `space`, or of `DEFAULT`; those in `folder`'s journal are not run
    again, unless the table predicts something else of them by now, or other firmware would run them.

    `targets` are emulators or boards with an operating system, which start what they are given. Raises ConfigError for
    a board that would have to be flashed with each model, else as `ModelRunner.check` does.
    """
    if board.emulator is None and not board.port.hosted:
        raise ConfigError(
            f"{board.name} would have to be flashed with each of {count} models",
            hint=f"one at a time: edgenas validate MODEL.tflite --board {board.name} compares with the prediction",
        )
    targets = targets or Targets()
    wanted = list(enumerate(drawn(space or DEFAULT, count, seed)))
    journal = folder / f"models-{lut.key}-{_application(lut, wanted[0][1])}-{seed}.jsonl"
    cost, done = CostModel(board, lut), _read(journal)
    known = {n: done.get((n, a.describe())) for n, a in wanted}
    found = [m for n, a in wanted if (m := known[n]) is not None and _predicted_so(m, cost, a)]
    waiting = [(n, a) for n, a in wanted if n not in {m.number for m in found}]
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, "its models are built there: give another folder (--out), or wait")

    def factory(index: int) -> Callable[[], ModelRunner]:
        return partial(ModelRunner, board, cost, folder / f"build-{index}", targets.each[index])

    if waiting:
        workers = min(len(targets.each), len(waiting))
        with (
            Fleet(factory, workers, board=board.name, ray=targets.ray) as fleet,
            reporter.bar("check", count) as bar,
            journal.open("a", encoding="utf-8") as file,
        ):
            if file.tell() and not journal.read_bytes().endswith(b"\n"):
                file.write("\n")  # after a line that was cut off
            for model in _run(fleet.workers, waiting):
                row = asdict(model)
                file.write(json.dumps({**row, "checksum": checksum(row)}) + "\n")
                file.flush()
                found.append(model)
                bar.update(len(found), "models")
    return sorted(found, key=lambda model: model.number)


def _application(lut: Lut, example: Architecture) -> str:
    """Changes with what runs whole models beside the kernels, which the table's key knows: the firmware around them and
    the code that is generated, told by what is generated of `example`."""
    generated = emit_c(load(sample_network(lower(example), seed=0)))
    return fingerprint(lut.identity.firmware_revision, generated)[:8]


def _predicted_so(model: CheckedModel, cost: CostModel, architecture: Architecture) -> bool:
    """Whether `cost` still predicts what `model` was journalled with: a table's key tells conditions, not rows."""
    prediction = cost.predict(lower(architecture))
    expected = (prediction.total_cycles, *prediction.sums)
    return bool(np.allclose((model.predicted, model.low, model.high), expected, rtol=1e-9, atol=0.0))


def drawn(space: SearchSpace | CellSpace, count: int, seed: int) -> list[Architecture]:
    """The architectures that `check_table` runs, in the order of their numbers."""
    rng = np.random.default_rng(seed)
    return [space.random(rng) for _ in range(count)]


def _run(workers: Sequence[Worker], waiting: list[tuple[int, Architecture]]) -> Any:
    running: dict[Future[CheckedModel], Worker] = {}
    for worker in workers:
        if waiting:
            running[worker.submit("check", *waiting.pop(0))] = worker
    while running:
        ready, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ready:
            worker = running.pop(future)
            yield future.result()
            if waiting:
                running[worker.submit("check", *waiting.pop(0))] = worker


def _read(journal: Path) -> dict[tuple[int, str], CheckedModel]:
    """What an earlier call wrote; a line that was cut off or damaged is left out."""
    found = {}
    if journal.is_file():
        for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                if row.pop("checksum") != checksum(row):
                    continue
                model = CheckedModel(**row)
            except (ValueError, TypeError, LookupError, AttributeError):
                continue
            found[model.number, model.architecture] = model
    return found


def calibrate(models: Sequence[CheckedModel], board: Board, seed: int, space: SearchSpace) -> Interval:
    """The interval that `check_table`'s models of `space` give; LutError where they are too few."""
    fewest = min((layers(lower(a)) for a in drawn(space, len(models), seed)), default=0)
    shape = "x".join(map(str, space.input_shape))
    default = space == SearchSpace.for_input(space.input_shape, space.classes)
    which = "the default space" if default else "another space"
    return Interval.calibrate(
        [m.observed for m in models], [m.low for m in models], [m.high for m in models],
        board.latency_provenance, f"random architectures of {which} ({shape}, seed {seed})", space, fewest,
    )  # fmt: skip


def inside(model: CheckedModel, interval: Interval) -> bool:
    return interval.low * model.low <= model.observed <= interval.high * model.high


def mac_line(models: Sequence[CheckedModel]) -> tuple[float, float]:
    """Cycles per MAC and per inference of the best linear fit: least squares in relative error, as both are judged."""
    macs = np.array([m.macs for m in models], float)
    weights = 1.0 / np.array([m.observed for m in models])
    columns = np.stack([macs * weights, weights], axis=1)
    slope, start = np.linalg.lstsq(columns, np.ones(len(models)), rcond=None)[0]
    return float(slope), float(start)


def points_ms(models: Sequence[CheckedModel], clock_hz: int) -> list[tuple[float, float, float]]:
    """Observed, predicted by the table, predicted by the best linear fit of MACs: one triple a model, in ms."""
    slope, start = mac_line(models)
    ms = 1e3 / clock_hz
    return [(m.observed * ms, m.predicted * ms, (slope * m.macs + start) * ms) for m in models]


def summarize(models: Sequence[CheckedModel], clock_hz: int, interval: Interval) -> Mapping[str, Any]:
    """MAE, MAPE, worst, Spearman of the table and its `interval`'s coverage; the best linear fit of MACs beside it;
    worst cases."""
    predicted, observed = (np.array([getattr(m, name) for m in models]) for name in ("predicted", "observed"))
    macs = np.array([m.macs for m in models], float)
    slope, start = mac_line(models)
    worst = sorted(models, key=lambda m: -abs(m.predicted / m.observed - 1.0))[:5]
    ms = 1e3 / clock_hz
    return {
        "models": len(models),
        "observed_ms": [float(observed.min() * ms), float(observed.max() * ms)],
        "table": _errors(predicted, observed, ms),
        "macs": _errors(slope * macs + start, observed, ms) | {"spearman": spearman(macs, observed)},
        "interval": asdict(interval) | {"text": interval.describe()},
        "coverage": float(np.mean([inside(m, interval) for m in models])),
        "above": float(np.mean([m.observed > interval.high * m.high for m in models])),
        "flash_worst": float(max(abs(m.flash_error) for m in models)),
        "sram_worst_bytes": max(abs(m.sram_error_bytes) for m in models),
        "worst": [
            {"architecture": m.architecture, "error": m.predicted / m.observed - 1.0, "layer": m.worst_layer,
             "layer_part": m.worst_layer_error}
            for m in worst
        ],
    }  # fmt: skip


def _errors(estimate: NDArray[np.float64], observed: NDArray[np.float64], ms: float) -> dict[str, float]:
    relative = np.abs(estimate / observed - 1.0)
    return {
        "mae_ms": float(np.abs(estimate - observed).mean() * ms),
        "mape": float(relative.mean()),
        "worst": float(relative.max()),
        "spearman": spearman(estimate, observed),
    }


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation; equal values share their mean rank. 1 where one of them never varies is not claimed: 0."""
    first, second = _ranks(a), _ranks(b)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse], float)
