"""The command line: help, JSON, and what a user reads who made a mistake."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from needs import NEEDS_QEMU_ARM
from one_operator import Builder, options, quantization

from pipeline import provenance
from pipeline.boards import load_board
from pipeline.cli.main import app
from pipeline.engine import load
from pipeline.errors import BudgetError, ConfigError
from pipeline.firmware import check_path
from pipeline.fleet import Targets
from pipeline.latency.lut import Lut
from pipeline.profiler.profile import lut_path, obtain
from pipeline.progress import Reporter
from pipeline.single import open_model
from pipeline.space.budgets import Cost
from pipeline.stages import check_fits

COMMANDS = (
    "adapt",
    "boards",
    "deploy",
    "doctor",
    "export",
    "family",
    "flash",
    "profile",
    "report",
    "run",
    "search",
    "sweep",
    "validate",
)
IN_GROUPS = ("fit predictor", "fit transfer", "lut check", "lut diff")
RUNFILE = 'name = "bad"\nboard = "qemu-cortex-m4"\n\n[budgets]\nlatency_ms = 50.0\n'
needs_compiler = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("cmake") and shutil.which("ninja")),
    reason="needs arm-none-eabi-gcc, cmake and ninja",
)


def edgenas(*arguments: Any, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli.main", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """One message with a hint on stderr, status 2, nothing of Python's insides."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "\nhint:  " in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in:\n{done.stderr}"
    return done.stderr


def network(*, dtype: Any = np.int8, size: int = 8, last: str = "SOFTMAX") -> bytes:
    """A reshape to one row, then one operator over size x size values."""
    b = Builder()
    q = None if dtype is np.float32 else quantization(0.05, 3)
    x = b.tensor((1, size, size, 1), q, dtype=dtype, name="image")
    count = size * size
    flat = b.tensor((1, count), q, dtype=dtype, name="flat")
    b.operator("RESHAPE", (x, b.tensor((2,), None, [1, count], np.int32)), flat,
               options("ReshapeOptions", newShape=[1, count]))  # fmt: skip
    q = None if dtype is np.float32 else quantization(1 / 256, -128)
    out = b.tensor((1, count), q, dtype=dtype, name="probabilities")
    if last == "SOFTMAX":
        b.operator("SOFTMAX", (flat,), out, options("SoftmaxOptions", beta=1.0), 2)
    else:
        b.operator(last, (flat,), out)
    return b.content([x], out)


def test_a_second_interrupt_while_python_shuts_down_shows_no_traceback(tmp_path: Path) -> None:
    code = (
        "import atexit, signal, sys; from pipeline.cli import main as cli\n"
        "hit = lambda: signal.raise_signal(signal.SIGINT)\n"
        "cli.app = hit; sys.argv = ['edgenas', 'boards']; atexit.register(hit); cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode != 0
    assert done.stderr.splitlines() == ["interrupted; the same command goes on where it stopped"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "good.tflite"
    path.write_bytes(network())
    return path


@pytest.mark.parametrize("command", [*COMMANDS, *IN_GROUPS])
def test_help_has_an_example(command: str, tmp_path: Path) -> None:
    done = edgenas(*command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0
    usage, shown = done.stdout.split("Example:")
    assert f"edgenas {command}" in shown
    assert "--json" in usage
    if "--board" in usage:
        assert re.search(r"--board,? +-b|-b,? +--board", usage), usage


def test_every_command_has_been_asked_for_its_help() -> None:
    """Those that the command line has, in groups and out of them."""
    found = typer.main.get_command(app).commands
    groups = {name: one.commands for name, one in found.items() if hasattr(one, "commands")}
    assert set(COMMANDS) == set(found) - set(groups)
    assert set(IN_GROUPS) == {f"{group} {name}" for group, inner in groups.items() for name in inner}


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


def test_every_command_is_listed(tmp_path: Path) -> None:
    listed = edgenas("--help", cwd=tmp_path).stdout
    assert all(f"\n  {command} " in listed for command in COMMANDS)


def test_json_of_boards_and_doctor(tmp_path: Path) -> None:
    boards = json.loads(edgenas("boards", "--json", cwd=tmp_path).stdout)
    assert "qemu-cortex-m4" in [board["name"] for board in boards]
    checks = json.loads(edgenas("doctor", "--json", cwd=tmp_path).stdout)["checks"]
    assert any("gcc" in check["name"] for check in checks)
    assert all(check["ok"] or check["remedy"] for check in checks)


def test_doctor_names_what_is_missing(tmp_path: Path) -> None:
    done = edgenas("doctor", "--json", cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    missing = {
        c["name"].split()[0]: c["remedy"]
        for c in json.loads(done.stdout)["checks"]
        if c["needed"] and not c["ok"]
    }
    assert "apt-get install" in missing["arm-none-eabi-gcc"]
    assert "qemu-system-arm" in missing["qemu-system-arm"]


def test_doctor_of_no_board_is_bad_input(tmp_path: Path) -> None:
    refused(edgenas("doctor", "--board", "nope", cwd=tmp_path), "unknown board 'nope'", "Boards that ship")


def test_report_of_no_run(tmp_path: Path) -> None:
    refused(edgenas("report", tmp_path, cwd=tmp_path), "no report.json in", str(tmp_path))
    (tmp_path / "report.json").write_text('{"layers": []}')
    refused(edgenas("report", tmp_path, cwd=tmp_path), "report.json lacks or misstates 'memory_map'")
    (tmp_path / "sweep.json").write_text('{"kind": "sweep"}')
    refused(edgenas("report", tmp_path, cwd=tmp_path), "sweep.json lacks or misstates 'points'")


def test_unknown_board(model: Path, tmp_path: Path) -> None:
    for command in ("deploy", "validate"):
        refused(edgenas(command, model, "--board", "qemu-cortex-m99", cwd=tmp_path), "qemu-cortex-m99")
    refused(edgenas("boards", "qemu-cortex-m99", cwd=tmp_path), "qemu-cortex-m99", "qemu-cortex-m4")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RUNFILE.replace("latency_ms = 50.0", "latency = 50.0"), ("bad.toml:4", "latency_ms")),
        (RUNFILE.replace("50.0", '"fast"'), ("bad.toml:5", "latency_ms")),
        (RUNFILE + "[search]\nstep = 4\n", ("bad.toml:7", "search.step", "steps")),
        (RUNFILE.replace("qemu-cortex-m4", "qemu-cortex-m99"), ("qemu-cortex-m99",)),
        (RUNFILE + "[search\n", ("bad.toml", "line 6")),
    ],
    ids=["unknown key", "wrong type", "unknown key of a section", "unknown board", "not TOML"],
)
def test_malformed_run_file(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    refused(edgenas("run", path, cwd=tmp_path), *words)


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


def test_numbers_without_meaning(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUNFILE)
    for arguments in (
        ("profile", "--board", "qemu-cortex-m4", "--error", "nan"),
        ("family", path, "--latency-ms", "inf"),
        ("adapt", path, "--latency-scale", "nan"),
        ("validate", "m.tflite", "--board", "qemu-cortex-m4", "--seed", 2**63),
        ("lut", "check", "--board", "qemu-cortex-m4", "--seed", 2**63),
    ):
        done = edgenas(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert str(arguments[-2]) in done.stderr, done.stderr


def test_missing_files(tmp_path: Path) -> None:
    refused(edgenas("run", "nowhere.toml", cwd=tmp_path), "nowhere.toml")
    refused(edgenas("deploy", "nowhere.tflite", "--board", "qemu-cortex-m4", cwd=tmp_path), "nowhere.tflite")


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
    job.validate_tflm("tflm", 1, None, 0, Targets(("/dev/ttyACM0",)))
    assert ports == ["/dev/ttyACM0"]
    for targets in (Targets(("/dev/ttyACM0", "/dev/ttyACM1")), Targets(count=2), Targets(ray="local")):
        with pytest.raises(ConfigError, match="one target at a time") as caught:
            job.validate_tflm("tflm", 1, None, 0, targets)
        assert "--workers" in caught.value.hint
    assert len(ports) == 1


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


def test_the_revision_is_of_edgenas_and_not_of_a_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "somebody's project")
    installed = tmp_path / "venv" / "pipeline" / "provenance.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance._git_revision() == "not a checkout"
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "pipeline" / "provenance.py"))
    assert re.fullmatch("[0-9a-f]{12}", provenance._git_revision())


@pytest.mark.parametrize("known", [False, True])
def test_measuring_first_is_announced(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`validate --board host` takes minutes before it validates anything."""
    m4 = load_board("qemu-cortex-m4")
    lut = Lut.load(lut_path(m4))
    monkeypatch.setattr(sys.modules[obtain.__module__], "current_identity", lambda board: lut.identity)
    monkeypatch.setattr(sys.modules[obtain.__module__], "profile", lambda *arguments, **options: lut)
    board = m4 if known else load_board("host")
    ops = [replace(next(iter(lut.rows.values())).op, in_h=511, in_w=3)]
    obtain(board, ops, folder=tmp_path, reporter=Reporter())
    said = capsys.readouterr().err
    what = "1 operators that its table lacks" if known else "its latency table"
    assert f"{board.name}: measuring {what} first" in said


def test_errors_as_json(model: Path, tmp_path: Path) -> None:
    done = edgenas("deploy", model, "--board", "nothing", "--json", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == ""
    document = json.loads(done.stdout)
    assert "nothing" in document["error"] and document["hint"]


def test_command_lines_that_cannot_be_understood_as_json(tmp_path: Path) -> None:
    for arguments, word in (
        (("deploy",), "model"),
        (("bogus",), "bogus"),
        (("deploy", "m.tflite", "--board", "b", "--latency-ms", "fast"), "--latency-ms"),
        (("lut", "check", "--board", "b", "--count", "1"), "--count"),
        (("boards", "--nonsense"), "--nonsense"),
    ):
        done = edgenas(*arguments, "--json", cwd=tmp_path)
        assert done.returncode == 2 and done.stderr == ""
        document = json.loads(done.stdout)
        assert word in document["error"] and "--help" in document["hint"], document
        assert document["hint"].startswith("see edgenas")


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
