"""What a real board goes through, from flashing to validation, with QEMU behind a TCP serial port in its place.

The board file has no emulator, its counter counts cycles and its link is a port: nothing here knows of QEMU but the
fixture that runs it.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.assets import asset_dir
from pipeline.boards import load_board
from pipeline.firmware import build, render_bench
from pipeline.profiler.footprint import sample_graph, sample_network

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.slow,
    NEEDS_QEMU_ARM,
]


@pytest.fixture(scope="module")
def board_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = (asset_dir("boards") / "qemu-cortex-m4.toml").read_text(encoding="utf-8")
    text = text[: text.index("[emulator]")] + '[notes]\ntext = "A stand-in."\n'
    text = text.replace('name = "qemu-cortex-m4"', 'name = "bench-board"').replace(
        'counts = "instructions"', 'counts = "cycles"'
    )
    path = tmp_path_factory.mktemp("board") / "bench-board.toml"
    path.write_text(text)
    return path


@contextmanager
def board_on_a_port(elf: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "qemu-system-arm", "-M", "mps2-an386", "-nodefaults", "-display", "none", "-monitor", "none", "-icount",
        "shift=6", "-serial", f"tcp:127.0.0.1:{port},server=on,wait=off", "-kernel", str(elf),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"socket://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def edgenas(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def tables(board_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`edgenas profile` through the port, until held-out operators are predicted within five percent."""
    folder = tmp_path_factory.mktemp("tables")
    board = load_board(str(board_file))
    bench = build(render_bench(board, folder / "bench"), board)
    with board_on_a_port(bench.elf) as port:
        done = edgenas(
            "profile", "--board", board_file, "--port", port, "--error", "0.05", "--out", folder, "--json"
        )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert 100 < summary["rows"] < 500, "neither next to nothing nor everything"
    return folder


def test_validation_with_a_table_of_its_own(board_file: Path, tables: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(sample_network(sample_graph()))
    out = tmp_path / "out"
    shutil.copytree(tables / "bench-board", out / "lut" / "bench-board")
    built = edgenas("deploy", model, "--board", board_file, "--out", out, "--json")
    assert built.returncode == 0, built.stderr
    with board_on_a_port(out / "firmware.elf") as port:
        done = edgenas(
            "validate", model, "--board", board_file, "--port", port, "--images", "5", "--out", out, "--json"
        )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["parity"]["mismatches"] == 0
    measured, predicted = document["latency_ms"]["measured"], document["latency_ms"]["predicted"]
    assert measured["provenance"] == "measured" and measured["n"] == 5
    assert measured["low"] <= measured["value"] <= measured["high"]
    assert predicted["value"] == pytest.approx(measured["value"], rel=0.05)
    assert (out / "junit.xml").is_file()


def test_the_wrong_firmware_on_the_board_is_named(board_file: Path, tables: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(sample_network(sample_graph()))
    shutil.copytree(tables / "bench-board", tmp_path / "out" / "lut" / "bench-board")
    board = load_board(str(board_file))
    bench = build(render_bench(board, tmp_path / "bench"), board)
    with board_on_a_port(bench.elf) as port:
        done = edgenas("validate", model, "--board", board_file, "--port", port, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "edgenas flash" in done.stderr and "Traceback" not in done.stderr


def test_without_a_table_an_emulated_board_stands_in_and_is_named(board_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(sample_network(sample_graph()))
    done = edgenas("deploy", model, "--board", board_file, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    latency = figures["latency, predicted"]
    assert latency["provenance"] == "modelled" and "qemu-cortex-m4" in latency["note"]
    assert latency["low"] == pytest.approx(0.9 * latency["value"])
    assert latency["high"] == pytest.approx(1.5 * latency["value"])
    # Memory is the board's own: its applications were built.
    linked = figures["flash, linked"]["value"]
    assert figures["flash, predicted"]["value"] == pytest.approx(linked, rel=0.005)


def test_without_any_table_it_says_what_to_do(board_file: Path, tmp_path: Path) -> None:
    model, other = tmp_path / "model.tflite", tmp_path / "bench-board.toml"
    model.write_bytes(sample_network(sample_graph()))
    other.write_text(board_file.read_text().replace('name = "cortex-m4"', 'name = "cortex-m4x"'))
    done = edgenas("deploy", model, "--board", other, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "no latency table of bench-board" in done.stderr and "edgenas profile" in done.stderr
