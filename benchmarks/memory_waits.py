"""What whole models wait for the memories of real boards, simulated, and how well that is predicted.

    python benchmarks/memory_waits.py [--out benchmarks/results/memory_waits.md] [--ship] [--board NAME ...]

For each board with a `[memory.system]` and an emulated twin: random models are simulated and the terms of each kernel
fitted (as on first use), then the MLPerf Tiny models, which the fit has not seen, are simulated and predicted.
`--ship` writes the terms to luts/<board>/waits.toml. ../shared/models and, for the published figures,
../shared/reference must be there (EDGENAS_SHARED).
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from mlperf_tiny import MODELS, shared_folder

from pipeline.assets import asset_dir
from pipeline.boards import Board, board_names, load_board
from pipeline.boards.memory_system import Variant
from pipeline.engine import load
from pipeline.latency.waits import Sample, WaitModel, fit_waits
from pipeline.links.memorysim import Simulated
from pipeline.profiler.footprint import sample_network
from pipeline.profiler.standin import same_core
from pipeline.profiler.waiting import sample_graphs, simulate_model, simulate_operators, wait_identity
from pipeline.space.kernels import select

COLUMN = {"pretrainedResnet_quant": "ic", "vww_96_int8": "vww", "kws_ref_model": "kws", "ad01_int8": "ad"}


@dataclass(frozen=True)
class Figures:
    """One board's figures."""

    board: Board
    emulated: Board
    readings: tuple[Variant, ...]
    fit: WaitModel
    samples: list[list[Sample]]
    alone: list[Sample]
    tiny: dict[str, list[Sample]]


def measure(board: Board, folder: Path) -> Figures:
    found = same_core(board)
    system = board.memory.system
    assert found is not None and system is not None
    emulated, lut = found
    graphs = sample_graphs()
    simulated = Simulated(board, lut.cycles_per_instruction(graphs[0]), system.variants())
    place = folder / emulated.name  # boards with the same twin share its builds
    samples = [
        simulate_model(load(sample_network(graph)), emulated, simulated, place / "app") for graph in graphs
    ]
    ops = sorted({sample.op for model in samples for sample in model})
    alone = simulate_operators(ops, emulated, simulated, place / "bench")
    tiny = {}
    for name in MODELS:
        model = load((shared_folder() / "models" / f"{name}.tflite").read_bytes())
        tiny[name] = simulate_model(model, emulated, simulated, place / name)
    fit = fit_waits(wait_identity(board, emulated), samples, alone)
    return Figures(board, emulated, simulated.variants, fit, samples, alone, tiny)


def _ratios(samples: list[Sample]) -> list[float]:
    """(plain + waits) / plain, a reading."""
    plain = sum(sample.cycles for sample in samples)
    return [float(1 + waits / plain) for waits in np.sum([sample.waits for sample in samples], axis=0)]


def _span(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


def published(name: str, board: Board) -> str:
    """Fastest to slowest milliseconds that others' engines reached on this board."""
    path = shared_folder() / "reference" / "mlperf_tiny_hardware.csv"
    if not path.is_file():
        return ""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    rows = [row for row in csv.DictReader(lines) if row["board"].lower() == board.name]
    times = sorted(1e3 / float(row[COLUMN[name]]) for row in rows)
    return f"{times[0]:.1f} to {times[-1]:.1f}" if times else ""


def report(found: list[Figures]) -> str:
    text = """# What whole models wait for their memories

`python benchmarks/memory_waits.py`. Modelled, all of it: cycles of the core's timing model, and waits of the board's
memory system as its file describes it, simulated on the code that the emulated twin runs (docs/fidelity.md). No board
was measured. Ratios are cycles with waits over cycles without. "Readings" are the ways in which the documents can be
read, the likely one first.

## An operator alone, warm, against the same operator within whole models

The fit's models (random ones of the default spaces, chains of convolutions, chains of dense layers), first inference
after reset; operators alone on the benchmark firmware (tensors and weights in SRAM, as it has them), their second run
in a row. Least, median, largest ratio of the operators of a kernel, likely reading; `terms` is the largest error of the
fitted terms, as a part of the operator's cycles.

"""
    for one in found:
        text += f"### {one.board.name} (twin: {one.emulated.name})\n\n"
        text += "| kernel | operators | alone | within models | terms |\n|---|--:|---|---|--:|\n"
        by_kernel: dict[str, list[Sample]] = {}
        for model in one.samples:
            for sample in model:
                by_kernel.setdefault(select(sample.op).name, []).append(sample)
        for kernel, samples in sorted(by_kernel.items()):
            by_itself = [_ratios([s])[0] for s in one.alone if select(s.op).name == kernel]
            inside = [_ratios([s])[0] for s in samples]
            error = max(abs(s.waits[0] - one.fit.op(s.op).likely) / s.cycles for s in samples)
            cells = " | ".join(
                f"{min(v):.3f}, {np.median(v):.3f}, {max(v):.3f}" if v else "" for v in (by_itself, inside)
            )
            text += f"| {kernel} | {len(samples)} | {cells} | {error:.3f} |\n"
        ratios = [_ratios(model) for model in one.samples]
        text += "\nWhole models, by reading: "
        names = [_reading(variant) for variant in one.readings]
        text += "; ".join(f"{name} {_span([r[i] for r in ratios])}" for i, name in enumerate(names))
        text += (
            ". Each model predicted from the others: simulated/predicted "
            f"{one.fit.low:.3f} to {one.fit.high:.3f} over {one.fit.models} models and all readings.\n\n"
        )
    text += """## The MLPerf Tiny models, which the fit has not seen

Predicted: cycles of each layer without waits (as simulated, so that only the waits are judged) plus the fitted terms,
likely reading. "Alone": what adding up operators as a benchmark has them would say. Published are other engines'
measured milliseconds (MLPerf Tiny results, fastest to slowest): another program, so they bound and do not validate.

| board | model | ms, no waits | ms simulated | by reading | predicted/simulated | alone/simulated | published, ms |
|---|---|--:|--:|---|--:|--:|---|
"""
    for one in found:
        alone = replace(one.fit, deployed=one.fit.alone)
        for name, samples in one.tiny.items():
            plain = sum(sample.cycles for sample in samples)
            ms = 1e3 / one.board.clock_hz
            ratios = _ratios(samples)
            predicted, lonely = (
                (plain + sum(fit.op(s.op).likely for s in samples)) / (plain * ratios[0])
                for fit in (one.fit, alone)
            )
            text += (
                f"| {one.board.name} | {name} | {plain * ms:.2f} | {plain * ratios[0] * ms:.2f} | {_span(ratios)} | "
                f"{predicted:.3f} | {lonely:.3f} | {published(name, one.board)} |\n"
            )
    return text


def _reading(variant: Variant) -> str:
    path = ("short path", "likely", "long path")[variant.path]
    return " ".join(word for word in (variant.prefetch, variant.replacement) if word) or path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--board", action="append")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory_waits.md")
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args()
    boards = [load_board(name) for name in options.board or board_names()]
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        found = [measure(board, Path(folder)) for board in boards if board.memory.system is not None]
    for one in found:
        if options.ship:
            one.fit.save(asset_dir("luts") / one.board.name / "waits.toml")
    options.out.write_text(report(found), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
