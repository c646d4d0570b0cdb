"""A run that prunes, to its validated firmware: bytes, and costs of the pruned network against their predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from needs import NEEDS_QEMU_ARM
from tinyruns import TRAIN

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from pipeline.run import Run

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

RUNFILE = (
    """\
name = "pruned"
board = "qemu-cortex-m4"
seed = 3
[data]
name = "digits"
limit = 300
[budgets]
latency_ms = 60.0
[space]
strides = [2, 2]
ops = ["ir2", "se4"]
channels = [24]
[search]
method = "random"
warmup_steps = 2
steps = 2
batch_size = 16
candidates = 2
ranking_images = 32
finalists = 1
proxy_steps = 2
threads = 1
"""
    + TRAIN
    + """\
float_epochs = 2
[train.prune]
fraction = 0.4
rounds = 2
round_steps = 4
batches = 2
epochs = 1
[validate]
images = 6
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    (folder / "pruned.toml").write_text(RUNFILE, encoding="utf-8")
    Run.open(folder / "pruned.toml", runs=folder, quiet=True).everything()
    return folder / "pruned"


@pytest.fixture
def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_every_byte_agrees_and_every_cost_holds(document: dict[str, Any]) -> None:
    assert document["feasible"], document["reasons"]
    assert (document["parity"]["images"], document["parity"]["mismatches"]) == (6, 0)
    assert document["sram_bytes"]["predicted"]["value"] == document["sram_bytes"]["emulated"]["value"]
    flash = document["flash_bytes"]
    assert flash["predicted"]["value"] == pytest.approx(flash["emulated"]["value"], rel=0.01)
    assert flash["emulated"]["value"] <= flash["predicted"]["high"]
    # every width that pruning left was measured on the emulator, so none of them is interpolated
    latency = document["latency_ms"]
    assert latency["predicted"]["value"] == pytest.approx(latency["emulated"]["value"], rel=0.002)
    assert {layer["provenance"] for layer in document["layers"]} == {"modelled"}


def test_what_runs_is_the_pruned_network(folder: Path, document: dict[str, Any]) -> None:
    pruning = document["training"]["pruning"]
    before, after = pruning["before"], pruning["after"]
    assert after["macs"] <= 0.6 * before["macs"]
    assert (document["parameters"], document["macs"]) == (after["parameters"], after["macs"])
    # its latency is below what the table says of the architecture that was searched for
    searched = json.loads((folder / "search.json").read_text())
    assert document["latency_ms"]["emulated"]["value"] < searched["cost"]["latency_ms"]
    assert document["architecture"] != json.loads((folder / "architecture.json").read_text())


def test_pruning_is_not_done_twice(folder: Path, document: dict[str, Any]) -> None:
    run = Run.open(folder.parent / "pruned.toml", runs=folder.parent, quiet=True)
    model = (folder / "model.tflite").read_bytes()
    stamp = (folder / "model.tflite").stat().st_mtime_ns
    assert run.everything()["architecture"] == document["architecture"]
    assert (folder / "model.tflite").stat().st_mtime_ns == stamp
    assert (folder / "model.tflite").read_bytes() == model
