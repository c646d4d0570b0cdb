"""The MLPerf Tiny models, from file to emulated device: bytes as TFLite Micro's, figures as predicted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from needs import NEEDS_QEMU_ARM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from mlperf_tiny import BOARD, MODELS, inputs_of, shared_folder

SHARED = shared_folder()
pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]


def model_path(name: str) -> Path:
    path = SHARED / "models" / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not here; set EDGENAS_SHARED to a folder with models/ and data/")
    return path


def inputs_path(name: str, folder: Path) -> Path:
    path = model_path(name)
    needed = "cifar10_jpeg.npz" if name in ("pretrainedResnet_quant", "vww_96_int8") else "fsdd.npz"
    if not (SHARED / "data" / needed).is_file():
        pytest.skip(f"{SHARED / 'data' / needed} is not here: no realistic inputs")
    inputs = folder / "inputs.npy"
    np.save(inputs, inputs_of(name, path, SHARED / "data"))
    return inputs


@pytest.mark.parametrize("name", MODELS)
def test_realistic_inputs_are_not_degenerate(name: str, tmp_path: Path) -> None:
    """20 random and 20 realistic ones that differ from each other and use the input's range without saturating."""
    real = np.load(inputs_path(name, tmp_path))[20:].reshape(20, -1)
    assert len(np.unique(real, axis=0)) == 20
    assert len(np.unique(real)) > 100
    assert np.isin(real, (-128, 127)).mean() < 0.3


@pytest.mark.parametrize("name", MODELS)
def test_validate(name: str, tmp_path: Path) -> None:
    inputs = inputs_path(name, tmp_path)
    np.save(inputs, np.load(inputs)[::2])  # all 40 are the benchmark's
    command = [
        sys.executable, "-m", "pipeline.cli.main", "validate", str(model_path(name)), "--board", BOARD,
        "--images", "20", "--inputs", str(inputs), "--out", str(tmp_path / "out"), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert (document["parity"]["images"], document["parity"]["mismatches"]) == (20, 0)
    assert document["feasible"]
    figures = {key: {k: v["value"] for k, v in document[key].items()} for key in
               ("latency_ms", "sram_bytes", "flash_bytes", "arena_bytes")}  # fmt: skip
    assert figures["latency_ms"]["predicted"] == pytest.approx(figures["latency_ms"]["emulated"], rel=1e-4)
    assert figures["sram_bytes"]["predicted"] == figures["sram_bytes"]["emulated"]
    assert figures["arena_bytes"]["predicted"] == figures["arena_bytes"]["emulated"]
    assert figures["flash_bytes"]["predicted"] == pytest.approx(figures["flash_bytes"]["emulated"], rel=0.01)
    assert document["latency_ms"]["emulated"]["provenance"] == "modelled"
    assert (tmp_path / "out" / "firmware.elf").is_file()
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("name", ["ad01_int8"])
def test_deploy(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli.main", "deploy", str(model_path(name)), "--board", BOARD,
               "--out", str(tmp_path / "out"), "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert figures["SRAM, predicted"]["value"] == figures["SRAM, linked"]["value"]
    assert figures["flash, predicted"]["value"] == pytest.approx(figures["flash, linked"]["value"], rel=0.01)
    assert (tmp_path / "out" / "firmware.elf").is_file()
