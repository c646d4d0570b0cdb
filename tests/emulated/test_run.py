"""`edgenas run` end to end with a tiny search: its report, doing nothing twice, and interruptions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from needs import NEEDS_QEMU_ARM
from tinyruns import SEARCH, SPACE, TRAIN

pytest.importorskip("torch")
pytest.importorskip("sklearn")

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]

RUNFILE = (
    """\
name = "tiny"
board = "qemu-cortex-m4"
seed = 3

[data]
name = "digits"
limit = 300

[budgets]
latency_ms = {latency_ms}
"""
    + SPACE
    + SEARCH
    + """\
warmup_steps = 6
steps = 8
checkpoint_seconds = 0.1
"""
    + TRAIN
    + """\
float_epochs = {float_epochs}
checkpoint_s = 0.0

[validate]
images = {images}

[robustness]
noise = [0.1]
images = 40
batches = [8]
draws = 20
loads = [2.0]
hold = true
"""
)
STAGES = ("search", "train and export", "validate", "robustness")


def write_runfile(folder: Path, **changes: Any) -> Path:
    # without `hold` the search would choose 23.8 ms, which is over under that load
    settings = {"latency_ms": 40.0, "float_epochs": 2, "images": 10} | changes
    path = folder / "tiny.toml"
    path.write_text(RUNFILE.format(**settings), encoding="utf-8")
    return path


def command(runfile: Path, runs: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli.main", "run", str(runfile), "--runs", str(runs), *more]


def run(runfile: Path, runs: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(runfile, runs, *more), capture_output=True, text=True, timeout=200, check=False
    )


def stages_done(output: str) -> list[str]:
    """The stages that worked (and did not say that they were done before)."""
    return [name for name in STAGES if f"{name} ..." in output]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `runs` folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("run")
    done = run(write_runfile(folder), folder / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stages_done(done.stdout + done.stderr) == list(STAGES)
    return folder / "runs"


def outcome(runs: Path) -> Sequence[bytes]:
    folder = runs / "tiny"
    return [(folder / name).read_bytes() for name in ("architecture.json", "model.tflite")]


def test_report_has_every_figure_with_its_provenance(finished: Path) -> None:
    document = json.loads((finished / "tiny" / "report.json").read_text())
    for path in (
        "accuracy.float", "accuracy.int8", "accuracy.device",
        "budgets.latency_ms", "budgets.sram_bytes", "budgets.flash_bytes",
        "latency_ms.predicted", "latency_ms.emulated", "sram_bytes.predicted", "sram_bytes.emulated",
        "flash_bytes.predicted", "flash_bytes.emulated",
    ):  # fmt: skip
        group, key = path.split(".")
        figure = document[group][key]
        assert isinstance(figure["value"], int | float), path
        assert figure["provenance"] in ("measured", "modelled", "estimated", "given"), path
    assert document["feasible"] is True
    assert (document["parity"]["images"], document["parity"]["mismatches"]) == (10, 0)
    for key in ("latency_ms", "sram_bytes", "flash_bytes"):
        assert document[key]["emulated"]["value"] <= document["budgets"][key]["value"]
    assert document["latency_ms"]["emulated"]["provenance"] == "modelled"  # nothing was timed on silicon
    latency = document["latency_ms"]
    assert latency["predicted"]["value"] == pytest.approx(latency["emulated"]["value"], rel=1e-3)
    assert document["sram_bytes"]["predicted"]["value"] == document["sram_bytes"]["emulated"]["value"]
    flash = document["flash_bytes"]
    assert flash["predicted"]["value"] == pytest.approx(flash["emulated"]["value"], rel=0.01)


def test_report_says_what_other_inputs_and_load_do(finished: Path) -> None:
    document = json.loads((finished / "tiny" / "report.json").read_text())
    part = document["robustness"]
    assert [row["name"] for row in part["inputs"]] == ["unchanged", "noise of 0.1 of the range"]
    idle, loaded = part["latency"]
    assert idle["latency_ms"]["value"] == pytest.approx(document["latency_ms"]["predicted"]["high"])
    assert loaded["latency_ms"]["value"] == pytest.approx(2 * idle["latency_ms"]["value"])
    assert (
        document["search"]["budgets"]["latency_ms"] == 20.0 == document["budgets"]["latency_ms"]["value"] / 2
    )
    assert loaded["holds"] is True and part["highest_load"] >= 2.0
    assert "<h2>Robustness</h2>" in (finished / "tiny" / "report.html").read_text()


def test_files(finished: Path) -> None:
    folder = finished / "tiny"
    for name in (
        "architecture.json",
        "model.tflite",
        "firmware.elf",
        "report.json",
        "report.html",
        "state.json",
    ):
        assert (folder / name).stat().st_size > 100, name
    assert (folder / "firmware.elf").read_bytes()[:4] == b"\x7fELF"
    assert (folder / "model.tflite").read_bytes()[4:8] == b"TFL3"
    assert list((folder / "firmware").rglob("*.c"))
    assert "<html" in (folder / "report.html").read_text()


def test_export_says_where_its_figures_come_from(finished: Path, tmp_path: Path) -> None:
    export = [sys.executable, "-m", "pipeline.cli.main", "export", str(write_runfile(tmp_path))]
    done = subprocess.run(
        [*export, "--runs", str(finished)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("accuracy, ")]
    assert len(rows) == 3 and all("measured" in row and "whole test split" in row for row in rows)


def test_second_run_does_nothing_twice(finished: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished, runs)
    before, state = outcome(runs), (runs / "tiny" / "state.json").read_bytes()
    done = run(write_runfile(tmp_path), runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stages_done(done.stdout + done.stderr) == []
    assert (done.stdout + done.stderr).count("done before") == len(STAGES)
    assert (runs / "tiny" / "state.json").read_bytes() == state
    assert outcome(runs) == before


def test_only_what_a_change_affects_runs_again(finished: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished, runs)
    before, measured = outcome(runs), (runs / "tiny" / "validation.json").read_bytes()
    done = run(write_runfile(tmp_path, images=12), runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stages_done(done.stdout + done.stderr) == ["validate"]
    assert outcome(runs) == before
    earlier = runs / "tiny" / "earlier" / "1"  # what was validated before, with its report and model
    assert (earlier / "validation.json").read_bytes() == measured
    assert (earlier / "report.json").is_file() and (earlier / "model.tflite").read_bytes() == before[1]
    done = run(write_runfile(tmp_path, images=12, float_epochs=1), runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stages_done(done.stdout + done.stderr) == ["train and export", "validate", "robustness"]
    after = outcome(runs)
    assert after[0] == before[0]
    assert after[1] != before[1]
    earlier = runs / "tiny" / "earlier" / "2"  # the first training's, with the search that it shares
    assert [(earlier / name).read_bytes() for name in ("architecture.json", "model.tflite")] == before
    assert (earlier / "report.json").is_file() and (earlier / "validation.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_ends_like_an_uninterrupted_one(
    finished: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Stopped in search, in training, and at validation: one after the other, in the same folder."""
    runfile, runs = write_runfile(tmp_path), tmp_path / "runs"
    folder = runs / "tiny"

    def checkpoint(stage: str) -> bool:
        return any((folder / "checkpoints").glob(f"{stage}-*"))

    moments = {
        "search": lambda: checkpoint("search"),
        "training": lambda: checkpoint("train"),
        "deployment": lambda: (folder / "model.tflite").exists(),
    }
    interrupted = []
    for name, reached in moments.items():
        process = subprocess.Popen(
            command(runfile, runs), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            deadline = time.monotonic() + 120
            while process.poll() is None and not reached() and time.monotonic() < deadline:
                time.sleep(0.005)
            if process.poll() is None:
                os.kill(process.pid, number)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert "Traceback" not in errors, errors
        if process.returncode in (130, -number):
            interrupted.append(name)
    assert interrupted, "each run was over before its signal"
    done = run(runfile, runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(runs) == outcome(finished)
    document = json.loads((folder / "report.json").read_text())
    assert document["feasible"] and document["parity"]["mismatches"] == 0


def test_impossible_budget_names_the_tightest(tmp_path: Path) -> None:
    done = run(write_runfile(tmp_path, latency_ms=0.001), tmp_path / "runs")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "latency" in done.stderr and "no architecture" in done.stderr
    assert "hint:" in done.stderr
    done = run(write_runfile(tmp_path, latency_ms=0.001), tmp_path / "runs", "--json")
    assert done.returncode == 2
    assert "latency" in json.loads(done.stdout)["error"]


CELLS = (
    """\
name = "tiny"
board = "qemu-cortex-m4"
seed = 3

[data]
name = "digits"
limit = 200

[budgets]
latency_ms = 8.0
sram_bytes = 6_000
flash_bytes = 26_000
parameters = 5_000

[space]
kind = "cells"
nodes = 3
stem_channels = 8
stem_stride = 2
channels = [8, 16]
strides = [2, 2]

[search]
method = "hypernetwork"
warmup_steps = 2
steps = 3
batch_size = 16
candidates = 3
ranking_images = 32
semifinalists = 2
proxy_steps = 2
threads = 1
"""
    + TRAIN
    + """\
float_epochs = 1
[train.teacher]
weight = 0.5
epochs = 1

[validate]
images = 4
"""
)


def test_a_cell_network_runs_within_its_budgets(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(CELLS, encoding="utf-8")
    done = run(tmp_path / "tiny.toml", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "tiny"
    assert len(json.loads((folder / "architecture.json").read_text())["cells"]) == 2
    document = json.loads((folder / "report.json").read_text())
    assert document["feasible"] is True
    assert (document["parity"]["images"], document["parity"]["mismatches"]) == (4, 0)
    for key in ("latency_ms", "sram_bytes", "flash_bytes"):
        assert document[key]["emulated"]["value"] <= document["budgets"][key]["value"]
    assert document["parameters"] <= 5_000
    page = (folder / "report.html").read_text()
    assert "The operator on every edge" in page and ">cell0<" in page


def test_a_new_search_lies_beside_nothing_of_the_earlier_one(finished: Path, tmp_path: Path) -> None:
    """Another architecture: no model, report or validation of the first stays, and none of it is lost."""
    runs = tmp_path / "runs"
    shutil.copytree(finished, runs)
    folder = runs / "tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    runfile = write_runfile(tmp_path)
    runfile.write_text(runfile.read_text().replace("channels = [16, 24]", "channels = [8]"))
    searched = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "search", str(runfile), "--runs", str(runs)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert searched.returncode == 0, searched.stderr
    assert (folder / "architecture.json").read_bytes() != before["architecture.json"]
    left = {path.name for path in folder.iterdir()}
    assert left == {"architecture.json", "checkpoints", "earlier", "search.json", "search_inputs.json",
                    "state.json"} | (left & {"lut"})  # fmt: skip
    earlier = folder / "earlier" / "1"
    for name, content in before.items():
        if name != "state.json":
            assert (earlier / name).read_bytes() == content, name

    def report(place: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli.main", "report", str(place)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    refused = report(folder)
    assert refused.returncode == 2 and "earlier" in refused.stderr.replace("\n", "")
    assert report(earlier).returncode == 0
    # and back: what was trained then comes from its checkpoints
    done = run(write_runfile(tmp_path), runs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(runs) == outcome(finished)
    assert {path.name for path in (folder / "earlier" / "2").iterdir()} == {
        "architecture.json", "search.json", "search_inputs.json"
    }  # fmt: skip
