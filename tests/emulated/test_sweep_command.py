"""`edgenas sweep` as a user has it: interrupted, gone on with, rendered again, and its mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from needs import NEEDS_QEMU_ARM
from tinyruns import SEARCH, SPACE, TRAIN

pytest.importorskip("torch")
pytest.importorskip("sklearn")

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.slow,
    NEEDS_QEMU_ARM,
]

RUNFILE = (
    """\
name = "tiny"
board = "qemu-cortex-m4"

[data]
name = "digits"
limit = 300

[budgets]
latency_ms = 50.0
"""
    + SPACE
    + SEARCH
    + """\
warmup_steps = 6
steps = {steps}
checkpoint_seconds = 0.1
"""
    + TRAIN
    + """\
float_epochs = 1
"""
)


def command(folder: Path, *options: str, steps: int = 8) -> list[str]:
    (folder / "run.toml").write_text(RUNFILE.format(steps=steps))
    sweep = ["sweep", "run.toml", "--seeds", "0-1", "--methods", "random,edgenas", "--out", "out", *options]
    return [sys.executable, "-m", "pipeline.cli.main", *sweep]


def finished(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("out/results/*.json")}


@pytest.mark.timeout(600)
def test_an_interrupted_sweep_goes_on_and_trains_its_winners(tmp_path: Path) -> None:
    options = ("--latency-ms", "0.5,50", "--train", "--workers", "2")
    first = subprocess.Popen(
        command(tmp_path, *options, steps=40), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 250
    while len(finished(tmp_path)) < 2:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    before = finished(tmp_path)
    assert first.returncode == 130, said
    assert "Traceback" not in said and "goes on where it stopped" in said
    assert 2 <= len(before) < 8

    again = subprocess.run(
        [*command(tmp_path, *options, steps=40), "--json"], cwd=tmp_path, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    document = json.loads(again.stdout)
    after = finished(tmp_path)
    assert len(after) == 8
    assert all(after[path] == time_ns for path, time_ns in before.items())
    assert (document["searches"], document["finished"]) == (8, 8)
    assert {f["kind"] for f in document["failures"]} == {"infeasible"}
    assert document["accuracy"]["what"].startswith("fully trained (1 + 1")
    assert len(document["points"]) == 4 and all(p["limit_ms"] == 50 for p in document["points"])
    assert all(p["latency_ms"] <= 50 for p in document["points"])
    assert [row["best"] is not None for row in document["best"]] == [False, True]

    page = tmp_path / "out" / "sweep.html"
    text = page.read_text()
    page.unlink()
    render = [sys.executable, "-m", "pipeline.cli.main", "report", "out"]
    subprocess.run(render, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--methods", "random,magic"), "magic"),
        (("--seeds", "3-1"), "3-1"),
        (("--latency-ms", "20,fast"), "fast"),
        (("--out", "run.toml"), "run.toml"),
        (("--ray", "127.0.0.1:1"), "127.0.0.1:1"),
    ],
)
def test_mistakes_are_named(options: tuple[str, ...], named: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, *options), cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert named in done.stderr and "\nhint:  " in done.stderr
