"""What a user reads who deploys or validates a model where it, a board, a program or a budget is wrong."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_standins import RUNFILE, edgenas, network, refused
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.engine import load
from pipeline.errors import BudgetError, ConfigError, DataError, LinkError
from pipeline.firmware import check_path
from pipeline.fleet import Targets
from pipeline.single import open_model
from pipeline.space.budgets import Cost
from pipeline.stages import check_fits

needs_compiler = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("cmake") and shutil.which("ninja")),
    reason="needs arm-none-eabi-gcc, cmake and ninja",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "good.tflite"
    path.write_bytes(network())
    return path


def test_hints_for_files_and_folders_mixed_up(model: Path, tmp_path: Path) -> None:
    refused(edgenas("run", tmp_path, cwd=tmp_path), "is a folder", "path of a TOML file")
    refused(edgenas("report", model, cwd=tmp_path), "is a file", "give the folder")
    refused(
        edgenas("lut", "diff", tmp_path / "a.csv", "b.csv", cwd=tmp_path), "a.toml", "path of a table (.csv)"
    )
    here = tmp_path / "qemu-rv32"
    here.mkdir()
    refused(
        edgenas("lut", "diff", here / "edgenas.csv", "b.csv", cwd=tmp_path),
        "edgenas profile --board qemu-rv32",
    )


def test_unknown_board(model: Path, tmp_path: Path) -> None:
    for command in ("deploy", "validate"):
        refused(edgenas(command, model, "--board", "qemu-cortex-m99", cwd=tmp_path), "qemu-cortex-m99")
    refused(edgenas("boards", "qemu-cortex-m99", cwd=tmp_path), "qemu-cortex-m99", "qemu-cortex-m4")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--latency-ms", "inf"), ("--latency-ms", "finite")),
        (("--latency-ms", "nan"), ("--latency-ms",)),
        (("--energy-mj", "nan"), ("--energy-mj",)),
        (("--latency-ms", "1e10"), ("--latency-ms is 10,000,000,000.0", "at most 15,978.3 ms")),
        (("--sram-bytes", 99_999_999), ("--sram-bytes is 99,999,999", "at most")),
        (("--flash-bytes", 99_999_999), ("--flash-bytes is 99,999,999", "at most")),
    ],
)
def test_budgets_that_cannot_be(arguments: Any, words: tuple[str, ...], model: Path, tmp_path: Path) -> None:
    for command in ("deploy", "validate"):
        done = edgenas(command, model, "--board", "qemu-cortex-m4", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert all(word in done.stderr for word in words), done.stderr
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.95])
def test_truncated_model(keep: float, tmp_path: Path) -> None:
    content = network()
    path = tmp_path / "short.tflite"
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(edgenas("deploy", path, "--board", "qemu-cortex-m4", cwd=tmp_path), "short.tflite")


def test_float_model(tmp_path: Path) -> None:
    path = tmp_path / "float.tflite"
    path.write_bytes(network(dtype=np.float32))
    message = refused(edgenas("deploy", path, "--board", "qemu-cortex-m4", cwd=tmp_path))
    assert "float" in message.lower() and "int8" in message.lower()


def test_unsupported_operator_and_its_layer(tmp_path: Path) -> None:
    path = tmp_path / "elu.tflite"
    path.write_bytes(network(last="ELU"))
    refused(edgenas("deploy", path, "--board", "qemu-cortex-m4", cwd=tmp_path), "ELU", "1")


@pytest.mark.parametrize(("region", "least"), [("sram", 4_000), ("flash", 8_000)])
def test_model_that_does_not_fit(region: str, least: int) -> None:
    """A board whose memory is smaller than the model, with the bytes and the tensors that make the peak."""
    board, model = load_board("qemu-cortex-m4"), load(network(size=16))
    cost = Cost(1.0, 4_000, 8_000, 0)
    check_fits(model, cost, board)
    memory = getattr(board.memory, region)
    for missing in (0, 1, 1_234):
        small = replace(
            board, memory=replace(board.memory, **{region: replace(memory, bytes=least - missing)})
        )
        if not missing:
            check_fits(model, cost, small)
            continue
        with pytest.raises(BudgetError) as caught:
            check_fits(model, cost, small)
        message = caught.value.message
        assert (
            f"does not fit {board.name}: {region.upper()} {least:,} bytes, {missing:,} more than" in message
        )
        assert ("peak of" in message and "256  " in message) == (region == "sram")


@NEEDS_QEMU_ARM
def test_deploy_judges_every_budget(tmp_path: Path) -> None:
    """What breaks a budget is built all the same, shown with the figures, and ends with status 1."""
    path = tmp_path / "good.tflite"
    path.write_bytes(network())
    arguments = ("deploy", path, "--board", powered(tmp_path), "--out", tmp_path / "out")
    done = edgenas(*arguments, "--latency-ms", 50, "--energy-mj", 50, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every budget holds" in done.stdout and "NOT ACCEPTED" not in done.stdout
    for label in ("latency", "SRAM", "flash", "energy"):
        assert re.search(rf"{label}, budget .* given +holds:", done.stdout), done.stdout
    summary = json.loads(edgenas(*arguments, "--json", cwd=tmp_path).stdout)
    assert (
        summary["feasible"]
        and not summary["reasons"]
        and set(summary["budgets"]) == {"sram_bytes", "flash_bytes"}
    )

    linked = {name: summary["figures"][f"{name}, linked"]["value"] for name in ("SRAM", "flash")}
    upper_ms = summary["figures"]["latency, predicted"]["high"]
    assert upper_ms > summary["figures"]["latency, predicted"]["value"]
    within = {
        "--latency-ms": upper_ms * 1.001, "--sram-bytes": linked["SRAM"],
        "--flash-bytes": linked["flash"] + 32,  # the limits are constants of the code, which takes them as it can
        "--energy-mj": summary["figures"]["energy, predicted"]["high"] * 1.001,
    }  # fmt: skip
    beyond = {option: limit / 1.002 for option, limit in within.items()} | {
        "--sram-bytes": linked["SRAM"] - 1, "--flash-bytes": linked["flash"] - 32,
    }  # fmt: skip
    flat = [str(part) for pair in within.items() for part in pair]
    assert edgenas(*arguments, *flat, cwd=tmp_path).returncode == 0
    flat = [str(part) for pair in beyond.items() for part in pair]
    done = edgenas(*arguments, *flat, cwd=tmp_path)
    assert done.returncode == 1 and not done.stderr, done.stderr
    document = edgenas(*arguments, *flat, "--json", cwd=tmp_path)
    assert document.returncode == 1
    summary = json.loads(document.stdout)
    assert not summary["feasible"] and len(summary["reasons"]) == 4
    assert [check["ok"] for check in summary["checks"]] == [False] * 4
    for label, name in (("latency", "latency_ms"), ("SRAM", "sram_bytes"), ("flash", "flash_bytes"),
                        ("energy", "energy_mj")):  # fmt: skip
        assert re.search(rf"{label}, budget .* given +BROKEN: {name} is", done.stdout), done.stdout
        assert re.search(
            rf"NOT ACCEPTED: {name} is .*(modelled|estimated|measured), .* over its budget", done.stdout
        )
    assert (tmp_path / "out" / "firmware.elf").is_file()


def powered(folder: Path) -> Path:
    """The emulated board with a stated current."""
    path = folder / "powered.toml"
    text = (Path(__file__).parents[2] / "boards" / "qemu-cortex-m4.toml").read_text()
    path.write_text(text + '\n[power]\nvoltage_v = 3.0\ncurrent_ma = 40.0\nreference = "a meter"\n')
    return path


def test_the_interpreter_runs_on_the_port_that_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[Any] = []

    def stand_in(*arguments: Any, port: str | None, **options: Any) -> Any:
        ports.append(port)
        return SimpleNamespace(to_json=dict)

    monkeypatch.setattr("pipeline.single.validate_tflm", stand_in)
    job = open_model(model, "nucleo-f446re", tmp_path / "out", quiet=True)
    job.validate_tflm("tflm", 1, None, 0, Targets(("socket://lab:4000",)))
    assert ports == ["socket://lab:4000"]
    for targets in (
        Targets(("socket://lab:4000", "socket://lab:4001")),
        Targets(count=2),
        Targets(ray="local"),
    ):
        with pytest.raises(ConfigError, match="one target at a time") as caught:
            job.validate_tflm("tflm", 1, None, 0, targets)
        assert "--workers" in caught.value.hint
    assert len(ports) == 1


def test_inputs_are_read_before_anything_is_measured_or_built(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.deploy", lambda *arguments: pytest.fail("minutes of work"))
    job = open_model(model, "qemu-cortex-m4", tmp_path / "out", quiet=True)
    with pytest.raises(DataError, match="no such file"):
        job.validate(2, tmp_path / "nothing.npy", 0)
    np.save(tmp_path / "wrong.npy", np.zeros((2, 5), np.int8))
    with pytest.raises(DataError, match="holds shape"):
        job.validate(2, tmp_path / "wrong.npy", 0)


@pytest.mark.parametrize(
    ("board", "says"), [("raspberry-pi-3", "another machine"), ("nucleo-f446re", "--port")]
)
def test_a_board_that_nothing_says_how_to_reach_is_told_before_a_build(
    board: str, says: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in ("pipeline.stages.deploy", "pipeline.single.validate_tflm"):
        monkeypatch.setattr(work, lambda *_, **__: pytest.fail("minutes of work"))
    monkeypatch.setattr("pipeline.links.discovery.serial_ports", lambda comports=None: [])
    job = open_model(model, board, tmp_path / "out", quiet=True)
    for validate in (job.validate, partial(job.validate_tflm, "tflm")):
        with pytest.raises(LinkError) as caught:
            validate(1, None, 0)
        assert says in caught.value.message + caught.value.hint


@pytest.mark.parametrize("name", ["v[2]", "a;b", "a|b", "$HOME", 'a"b', "a\\b", "*"])
def test_a_path_that_cmake_cannot_take(name: str, model: Path, tmp_path: Path) -> None:
    """CMake's own complaint is of a compiler that does not work."""
    job = open_model(model, "qemu-cortex-m4", tmp_path / name, quiet=True)
    with pytest.raises(ConfigError, match="firmware cannot be built in") as caught:
        job.deploy()
    assert "another folder" in caught.value.hint
    # the folder that nobody named is one that works
    named = open_model(tmp_path / f"model {name}.tflite", "qemu-cortex-m4", quiet=True)
    check_path(tmp_path / named.folder)


def test_a_models_folder_belongs_to_one_process_at_a_time(model: Path, tmp_path: Path) -> None:
    job = open_model(model, "qemu-cortex-m4", tmp_path / "out", quiet=True)
    job.folder.mkdir()
    other = os.open(job.folder, os.O_RDONLY)  # locks are of open files: as another process has it
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        for work in (job.deploy, lambda: job.validate_tflm("tflm", 1, None, 0)):
            with pytest.raises(ConfigError, match="another edgenas is at work in"):
                work()
    finally:
        os.close(other)


def test_errors_as_json(model: Path, tmp_path: Path) -> None:
    done = edgenas("deploy", model, "--board", "nothing", "--json", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == ""
    document = json.loads(done.stdout)
    assert "nothing" in document["error"] and document["hint"]


def test_a_file_where_a_folder_is_meant(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text(RUNFILE)
    board = ("--board", "qemu-cortex-m4")
    for arguments, option in (
        (("deploy", model, *board), "--out"),
        (("validate", model, *board), "--out"),
        (("profile", *board), "--out"),
        (("lut", "check", *board), "--out"),
        (("sweep", run), "--out"),
        (("run", run), "--runs"),
    ):
        refused(
            edgenas(*arguments, option, model, cwd=tmp_path),
            f"error: {option}: {model}",
            "cannot be used as a folder",
        )
    assert load(model).parameters == 0


def without(folder: Path, *absent: str) -> str:
    """A PATH of one folder that links every program found but those that are to be missing."""
    folder.mkdir()
    for directory in os.environ["PATH"].split(":"):
        if not Path(directory).is_dir():
            continue
        for program in Path(directory).iterdir():
            link = folder / program.name
            if program.name not in absent and not link.is_symlink():
                link.symlink_to(program.resolve())
    return str(folder)


@needs_compiler
@pytest.mark.parametrize("program", ["arm-none-eabi-gcc", "qemu-system-arm"])
def test_missing_program(program: str, model: Path, tmp_path: Path) -> None:
    path = without(tmp_path / "bin", program)
    arguments = ("validate", model, "--board", "qemu-cortex-m4", "--out", tmp_path / "out", "--images", 2)
    refused(edgenas(*arguments, cwd=tmp_path, PATH=path), program, "apt")


@NEEDS_QEMU_ARM
@pytest.mark.parametrize(
    ("script", "word"),
    [("echo machine is on fire >&2; exit 3", "machine is on fire"), ("exec sleep 1000", "qemu-system-arm")],
    ids=["dies", "hangs"],
)
def test_emulator_that_fails(script: str, word: str, model: Path, tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "qemu-system-arm"
    fake.parent.mkdir()
    real = shutil.which("qemu-system-arm")
    # its version belongs to the identity of latency tables, so that question is answered
    fake.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\n{script}\n')
    fake.chmod(0o755)
    arguments = ("validate", model, "--board", "qemu-cortex-m4", "--out", tmp_path / "out", "--images", 2)
    started = time.monotonic()
    done = edgenas(*arguments, cwd=tmp_path, PATH=f"{fake.parent}:{os.environ['PATH']}")
    refused(done, "qemu-system-arm", word)
    assert time.monotonic() - started < 90
