"""A network with one weight scale a tensor, in QEMU: every byte as the reference interpreter computes it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.boards import load_board
from pipeline.engine import emit_c, load
from pipeline.export import TflmReference, write_tflite
from pipeline.firmware import build, render_app
from pipeline.space.budgets import Budgets
from pipeline.train.quantconfig import Choice
from pipeline.validate import validate

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_export import inputs
from test_quantization import quantized

BUDGETS = Budgets(latency_ms=200.0, sram_bytes=300_000, flash_bytes=400_000)
TOOLS = {
    "qemu-cortex-m4": ("qemu-system-arm", "arm-none-eabi-gcc"),
    "qemu-rv32": ("qemu-system-riscv32", "riscv64-unknown-elf-gcc"),
}

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("ninja")), reason="needs cmake and ninja"),
]


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize(
    "choice", [Choice("tensor", "mse", "mse"), Choice("tensor", "max", "percentile")], ids=str
)
def test_bytes_on_the_device(name: str, choice: Choice, tmp_path: Path) -> None:
    if not all(shutil.which(tool) for tool in TOOLS[name]):
        pytest.skip(f"needs {' and '.join(TOOLS[name])}")
    network = quantized(choice)
    content = write_tflite(network)
    board, model = load_board(name), load(content)
    built = build(render_app(emit_c(model), board, BUDGETS, tmp_path / "fw", 1.0), board)
    x = inputs(network.architecture, 10, seed=3)
    labels = TflmReference(content).run(x).reshape(10, -1).argmax(1).astype(np.int64)
    validation = validate(model, content, built, board, x, labels)
    assert validation.mismatches == 0 and validation.accuracy == 1.0
