"""TensorFlow Lite Micro with CMSIS-NN on a simulated Nucleo-L4R5ZI, beside published measurements of that board.

    TFLM_ROOT=... python benchmarks/memory_tflm.py [--out benchmarks/results/memory_tflm.md]

The published programs (MLPerf Tiny results) run kernels of the same family, though of other years, compilers and
frameworks: the nearest thing to a measurement of the model of core and memories that there is without a board. The
firmware keeps a model in RAM; here that piece of RAM answers as the flash does, since on the board it would lie there.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile
from mlperf_tiny import MODELS, shared_folder

from pipeline.boards import Board, load_board
from pipeline.latency.lut import Lut
from pipeline.latency.timing import timing_model
from pipeline.links import open_link
from pipeline.links.blockcount import RegionReader, plugin_args
from pipeline.links.memorysim import Simulated
from pipeline.profiler import lut_path
from pipeline.profiler.footprint import sample_graph
from pipeline.tflm.device import TflmDevice
from pipeline.tflm.firmware import build_tflm
from pipeline.tflm.library import find_library

BOARD, EMULATED = "nucleo-l4r5zi", "qemu-cortex-m4"
COLUMN = {"pretrainedResnet_quant": "ic", "vww_96_int8": "vww", "kws_ref_model": "kws", "ad01_int8": "ad"}
KERNELS = "CMSIS-NN"  # in the published table's column `software`


@dataclass(frozen=True, slots=True)
class WithModelInFlash(Simulated):
    """The board's memory system, with one more piece of flash at `place` (origin, bytes)."""

    place: tuple[int, int] = (0, 0)

    def descriptions(self, emulated: Board) -> list[str]:
        found = []
        for text in Simulated.descriptions(self, emulated):
            flash = next(line for line in text.splitlines() if line.startswith("window"))
            _, _, _, wait, busy, allocate = flash.split()
            origin, size = self.place
            found.append(f"{text}window {origin} {size} {wait} {busy} {allocate}\n")
        return found


def measure(folder: Path) -> dict[str, tuple[float, list[float]]]:
    """By model: cycles without waits, and waits by reading."""
    board, emulated = load_board(BOARD), load_board(EMULATED)
    assert board.memory.system is not None
    sram = replace(emulated.memory.sram, bytes=board.memory.sram.bytes)  # what the machine has anyway
    emulated = replace(emulated, memory=replace(emulated.memory, sram=sram))
    rate = Lut.load(lut_path(emulated)).cycles_per_instruction(sample_graph())
    built = build_tflm(emulated, find_library(emulated, "tflm-cmsis-nn"), folder / "firmware")
    timing, found = timing_model(emulated.core.timing), {}
    for name in MODELS:
        model = (shared_folder() / "models" / f"{name}.tflite").read_bytes()
        place = (_address(built.elf, "region"), len(model))
        system = WithModelInFlash(board, rate, board.memory.system.variants(), place=place)
        scratch = folder / name
        scratch.mkdir()
        plugins = plugin_args(scratch / "regions.bin") + system.plugin_args(emulated, scratch)
        with open_link(emulated, built.elf, plugin_args=plugins) as link:
            device = TflmDevice(link)
            prepared = device.load(model)
            x = np.random.default_rng(1).integers(-128, 128, prepared.input_bytes, dtype=np.int8)
            device.invoke(x)
            reader = RegionReader(scratch / "regions.bin")
            regions = [reader.next(30.0) for _ in range(prepared.layers)]
            waits = system.read(scratch)[-prepared.layers :]
        cycles = sum(timing.region_cycles(region) for region in regions)
        by_reading = [sum(part[i].cycles for part in waits) for i in range(len(system.variants))]
        found[name] = (cycles, by_reading)
        print(name, cycles, by_reading)
    return found


def _address(elf: Path, symbol: str) -> int:
    with elf.open("rb") as file:
        return int(ELFFile(file).get_section_by_name(".symtab").get_symbol_by_name(symbol)[0]["st_value"])


def published(name: str) -> list[tuple[str, float]]:
    """Program and milliseconds."""
    path = shared_folder() / "reference" / "mlperf_tiny_hardware.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    rows = [
        row for row in csv.DictReader(lines) if row["board"].lower() == BOARD and KERNELS in row["software"]
    ]
    return [(f"{row['software']}", 1e3 / float(row[COLUMN[name]])) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory_tflm.md")
    options = parser.parse_args()
    clock_hz = load_board(BOARD).clock_hz
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        found = measure(Path(folder))
    names = [name for name, _ in published("kws_ref_model")]
    text = f"""# TensorFlow Lite Micro with CMSIS-NN on a simulated {BOARD}

`TFLM_ROOT=... python benchmarks/memory_tflm.py`. Modelled: executed blocks of TFLM's kernels, the Cortex-M4's timing
model, and waits of the board's memory system with code and model in flash ("readings": least to most). Published:
MLPerf Tiny results, measured by others with kernels of the same family, but another year, compiler and framework; no
ratio here is an error of the model, all of them together bound it.

| model | ms, no waits | ms, likely waits | by reading | {" | ".join(f"{n}, ms | ratio" for n in names)} |
|---|--:|--:|---|{"--:|--:|" * len(names)}
"""
    for name, (cycles, waits) in found.items():
        plain, likely = cycles / clock_hz * 1e3, (cycles + waits[0]) / clock_hz * 1e3
        low, high = ((cycles + end) / clock_hz * 1e3 for end in (min(waits), max(waits)))
        cells = " | ".join(f"{ms:.1f} | {likely / ms:.2f}" for _, ms in published(name))
        text += f"| {name} | {plain:.1f} | {likely:.1f} | {low:.1f} to {high:.1f} | {cells} |\n"
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
