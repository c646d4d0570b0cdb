"""Whole models on the native build under sanitizers, bit for bit against TFLite Micro."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from one_operator import Builder, options, quantization, run_tflm

from pipeline.assets import asset_dir
from pipeline.engine import host, load, sources
from pipeline.engine.host import HostModel
from pipeline.errors import ToolError

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
NAMES = ("ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8")


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Inputs with the correlation of images and spectrograms, over the whole int8 range."""
    noise = rng.normal(size=shape).cumsum(axis=1).cumsum(axis=min(2, len(shape) - 1))
    low, high = noise.min(), noise.max()
    return np.round((noise - low) / (high - low) * 255 - 128).astype(np.int8)


@pytest.mark.parametrize("name", NAMES)
def test_mlperf_model_is_bit_identical(name: str) -> None:
    path = MODELS / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: whole-model parity is not checked")
    runtime = pytest.importorskip("tflite_micro").runtime
    model = load(path)
    rng = np.random.default_rng(7)
    x = np.concatenate(
        [rng.integers(-128, 128, (20, *model.input_shape[1:])).astype(np.int8)]
        + [smooth(rng, (1, *model.input_shape[1:])) for _ in range(20)]
    )
    interpreter = runtime.Interpreter.from_bytes(path.read_bytes())
    expected = []
    for one in x:
        interpreter.set_input(one[None], 0)
        interpreter.invoke()
        expected.append(interpreter.get_output(0)[0])
    ours = HostModel(model, sanitize=True).run(x)
    np.testing.assert_array_equal(ours, np.array(expected))
    assert len(np.unique(ours)) > 1


def test_fully_connected_multiplier_is_that_of_tflite_micro() -> None:
    """Multipliers that differ in their last bits show in one of a thousand outputs: so many are compared."""
    rng = np.random.default_rng(1)
    for _ in range(12):
        sx, sw = (float(np.float32(v)) for v in (rng.uniform(0.002, 0.2), rng.uniform(0.001, 0.02)))
        builder = Builder()
        x = builder.tensor((1, 64), quantization(sx, int(rng.integers(-128, 128))))
        w = builder.tensor((2000, 64), quantization(sw), rng.integers(-127, 128, (2000, 64)))
        y = builder.tensor((1, 2000), quantization(float(np.float32(sx * sw * 512)), 0))
        builder.operator("FULLY_CONNECTED", (x, w, -1), y, options("FullyConnectedOptions"), 4)
        content = builder.content([x], y)
        one = rng.integers(-128, 128, (1, 64)).astype(np.int8)
        ours = HostModel(load(content)).run(one)
        np.testing.assert_array_equal(ours.reshape(-1), run_tflm(content, [one]).reshape(-1))


@pytest.mark.parametrize(
    "header", ["port/marker.h", "engine/include/edgenas/kernels.h", "engine/portable/requantize.h"]
)
def test_another_header_makes_another_program(
    header: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds are kept between runs, under the hash of all that is compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    firmware = tmp_path / "firmware"
    for folder in ("engine", "port"):
        shutil.copytree(asset_dir("firmware") / folder, firmware / folder)
    for module in (host, sources):
        monkeypatch.setattr(module, "asset_dir", lambda _: firmware)
    builder = Builder()
    x, y = (builder.tensor((1, 8), quantization(0.1)) for _ in range(2))
    w = builder.tensor((8, 8), quantization(0.01), np.ones((8, 8)))
    builder.operator("FULLY_CONNECTED", (x, w, -1), y, options("FullyConnectedOptions"), 4)
    model = load(builder.content([x], y))
    HostModel(model)
    (firmware / header).write_text("#error changed\n")
    with pytest.raises(ToolError, match="changed"):
        HostModel(model)
