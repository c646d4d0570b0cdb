"""The command line: help, JSON, and what a user reads who made a mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from cli_standins import RUNFILE, edgenas, refused

from pipeline import provenance
from pipeline.boards import load_board
from pipeline.cli.main import app
from pipeline.latency.lut import Lut
from pipeline.profiler.profile import lut_path, obtain
from pipeline.progress import Reporter

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
