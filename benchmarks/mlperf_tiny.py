"""The four MLPerf Tiny models on the emulated Cortex-M4, beside TensorFlow Lite Micro.

    python benchmarks/mlperf_tiny.py [--shared FOLDER] [--out benchmarks/results/mlperf_tiny.md]

Each model is deployed, run on 20 random and 20 realistic inputs, and compared with TFLite Micro's wheel byte for
byte. FOLDER holds `models/`, `data/` and `reference/tflm_baseline.csv` (default: `$EDGENAS_SHARED`, else `../shared`).
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boards import load_board
from pipeline.engine import load
from pipeline.firmware import cycles_per_tick
from pipeline.latency.emulated import emulated_inference
from pipeline.single import open_model

BOARD = "qemu-cortex-m4"
MODELS = {
    "pretrainedResnet_quant": "image classification",
    "vww_96_int8": "visual wake words",
    "kws_ref_model": "keyword spotting",
    "ad01_int8": "anomaly detection",
}
RATE_HZ = 8000  # of the speech recordings


def shared_folder() -> Path:
    return Path(os.environ.get("EDGENAS_SHARED", Path(__file__).resolve().parents[2] / "shared"))


# -- realistic inputs ---------------------------------------------------------------------------------------


def cifar_images(folder: Path, count: int, size: int) -> NDArray[np.uint8]:
    """`count` test images [count, size, size, 3], spread over the classes; 32x32 ones are scaled up."""
    from PIL import Image

    with np.load(folder / "cifar10_jpeg.npz") as data:
        stream, offset = data["jpeg_test"], data["offset_test"]
    images = []
    for i in np.linspace(0, len(offset) - 2, count).astype(int):
        picture = Image.open(io.BytesIO(stream[offset[i] : offset[i + 1]].tobytes())).convert("RGB")
        if size != picture.width:
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        images.append(np.asarray(picture, np.uint8))
    return np.stack(images)


def speech_clips(folder: Path, count: int) -> list[NDArray[np.float64]]:
    """`count` spoken digits as one second each, amplitudes in [-1, 1)."""
    with np.load(folder / "fsdd.npz") as data:
        pcm, offset = data["pcm"], data["offset"]
    clips = []
    for i in np.linspace(0, len(offset) - 2, count).astype(int):
        clip = pcm[offset[i] : offset[i + 1]][:RATE_HZ] / 32768.0
        clips.append(np.pad(clip, (0, RATE_HZ - len(clip))))
    return clips


def mel_power(clip: NDArray[np.float64], window: int, hop: int, bands: int) -> NDArray[np.float64]:
    """Power [frames, bands] in triangular bands that are equally wide in mel, from 20 Hz to the Nyquist limit."""
    frames = np.lib.stride_tricks.sliding_window_view(clip, window)[::hop] * np.hanning(window)
    fft = 2048  # zero-padded, so that the narrowest band still holds a bin
    power = np.abs(np.fft.rfft(frames, fft)) ** 2
    top = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    low = 2595 * np.log10(1 + 20 / 700)
    edges = 700 * (10 ** (np.linspace(low, top, bands + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(fft, 1 / RATE_HZ)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return power @ np.clip(np.minimum(rising, falling), 0, None)


def mfcc(clip: NDArray[np.float64]) -> NDArray[np.float64]:
    """[49, 10]: windows of 40 ms every 20 ms, 40 mel bands, cosine transform."""
    log = np.log(mel_power(clip, 320, 160, 40) + 1e-6)
    k, n = np.arange(10)[:, None], np.arange(40)
    basis = np.sqrt(2 / 40) * np.cos(np.pi * k * (2 * n + 1) / 80)
    return (log @ basis.T)[:49]


def log_mel_window(clip: NDArray[np.float64]) -> NDArray[np.float64]:
    """[640]: five frames of 64 ms in 128 mel bands, in decibels, from the middle of a clip."""
    decibels = 10 * np.log10(mel_power(clip, 512, 256, 128) + 1e-8)
    return decibels[5:10].reshape(-1)


def inputs_of(name: str, path: Path, data: Path, count: int = 20, seed: int = 0) -> NDArray[np.int8]:
    """`count` random, then `count` realistic inputs of a model, int8 [2 * count, ...]."""
    model = load(path)
    shape = model.input_shape[1:]
    noise = np.random.default_rng(seed).integers(-128, 128, (count, *shape)).astype(np.int8)
    if name in ("pretrainedResnet_quant", "vww_96_int8"):
        real = (cifar_images(data, count, shape[0]) ^ 0x80).view(np.int8)  # both take pixel - 128
    else:
        feature = mfcc if name == "kws_ref_model" else log_mel_window
        values = np.stack([feature(clip) for clip in speech_clips(data, count)])
        steps = np.round(values / model.input.scale) + model.input.zero_point
        real = np.clip(steps, -128, 127).astype(np.int8).reshape(count, *shape)
    return np.concatenate([noise, real])


# -- measuring ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A validated model: its report, and the instructions of one whole inference on a realistic input."""

    name: str
    document: dict[str, Any]
    instructions: int


def measure(name: str, shared: Path, folder: Path) -> Row:
    """Deploy, validate on 40 inputs, count instructions."""
    path = shared / "models" / f"{name}.tflite"
    x = inputs_of(name, path, shared / "data")
    inputs = folder / f"{name}.npy"
    np.save(inputs, x)
    job = open_model(path, BOARD, folder / name, quiet=True)
    document = job.validate(len(x), inputs, 0)
    board = load_board(BOARD)
    inference = emulated_inference(board, folder / name / "firmware.elf", x[-1].tobytes())
    # at one cycle an instruction, the device's ticks are instructions
    return Row(name, document, round(inference.ticks * cycles_per_tick(board, 1.0)))


def baselines(path: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """{(model, kernels): (instructions, arena bytes)} on the Cortex-M4."""
    with path.open(encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            (row["model"], row["kernels"]): (int(row["instructions"]), int(row["arena_bytes"]))
            for row in rows
            if row["core"] == "cortex-m4"
        }


def table(rows: list[Row], reference: dict[tuple[str, str], tuple[int, int]]) -> str:
    """Markdown."""
    lines = [
        "| model | MACs | modelled ms at 168 MHz | instructions | per MAC | arena, bytes | flash, bytes "
        "| predicted/emulated latency | instructions / TFLM CMSIS-NN | instructions / TFLM reference "
        "| arena / TFLM CMSIS-NN | outputs that differ |",
        "|---|" + "--:|" * 11,
    ]
    for row in rows:
        d = row.document
        predicted, emulated = (d["latency_ms"][kind]["value"] for kind in ("predicted", "emulated"))
        arena = d["arena_bytes"]["emulated"]["value"]

        def ratio(value: float, kernels: str, column: int, name: str = row.name) -> str:
            found = reference.get((name, kernels))
            return f"{value / found[column]:.2f}" if found else "-"

        cells = [
            f"{row.name} ({MODELS[row.name]})", f"{d['macs']:,}", f"{emulated:.2f}", f"{row.instructions:,}",
            f"{row.instructions / d['macs']:.2f}", f"{arena:,}", f"{d['flash_bytes']['emulated']['value']:,}",
            f"{100 * (predicted / emulated - 1):+.2f} %",
            ratio(row.instructions, "cmsis-nn", 0), ratio(row.instructions, "reference", 0),
            ratio(arena, "cmsis-nn", 1), f"{d['parity']['mismatches']} of {d['parity']['images']}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


_TEXT = """# MLPerf Tiny models on qemu-cortex-m4

`python benchmarks/mlperf_tiny.py`. Instructions are executed instructions of one whole inference, exact and
repeatable under QEMU; they are not time. Milliseconds are modelled cycles (the core's timing model) at 168 MHz, not
measured on silicon. Ratios divide our instructions by TensorFlow Lite Micro's on the same emulator, compiler version
and core (below 1: fewer instructions than TFLM), and say nothing about cycles per instruction. TFLM's arena
includes its interpreter's structures; ours is the planned tensors and scratch. Outputs: 20 random and 20 realistic
inputs, compared with the `tflite-micro` wheel byte for byte.

"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=shared_folder())
    parser.add_argument("--out", type=Path, help="also write the table, with its explanations, here")
    arguments = parser.parse_args()
    missing = [n for n in MODELS if not (arguments.shared / "models" / f"{n}.tflite").is_file()]
    if missing:
        print(f"not found in {arguments.shared / 'models'}: {', '.join(missing)}", file=sys.stderr)
        return 2
    baseline = arguments.shared / "reference" / "tflm_baseline.csv"
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
        rows = [measure(name, arguments.shared, Path(folder)) for name in MODELS]
    text = table(rows, baselines(baseline) if baseline.is_file() else {})
    print(text, end="")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(_TEXT + text, encoding="utf-8")
    return 0 if all(row.document["parity"]["mismatches"] == 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
