"""`edgenas run` and `adapt` on a real board: where it answers is said on the command line, and looked at first."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline import stages
from pipeline.cli.main import app
from pipeline.errors import EdgeNasError
from pipeline.fleet import Targets
from pipeline.run import Run

NO_USB_IDS = "longan-nano"


class Reached(Exception):
    """A stage that the test does not need."""


def open_run(folder: Path, board: str = NO_USB_IDS) -> Run:
    file = folder / "run.toml"
    file.write_text(f'name = "run"\nboard = "{board}"\n[budgets]\nlatency_ms = 50.0\n')
    return Run.open(file, runs=folder / "runs", quiet=True)


@pytest.fixture(autouse=True)
def no_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.links.discovery.serial_ports", lambda comports=None: [])


@pytest.fixture
def port(tmp_path: Path) -> str:
    path = tmp_path / "ttyACM0"
    path.touch()
    return str(path)


@pytest.mark.parametrize(
    ("board", "ports", "says"),
    [
        (NO_USB_IDS, (), "name the port: --port PORT"),
        (NO_USB_IDS, ("/nowhere/ttyACM0",), "there is no port /nowhere/ttyACM0"),
        ("nucleo-f446re", (), "no nucleo-f446re is connected"),
        ("raspberry-pi-3", (), "--port ssh://user@host"),
    ],
)
def test_a_board_out_of_reach_is_told_before_the_search(
    board: str, ports: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "export", lambda self: pytest.fail("hours of work"))
    with pytest.raises(EdgeNasError) as caught:
        open_run(tmp_path, board).everything(Targets(ports))
    assert says in f"{caught.value.message}; {caught.value.hint}"


@pytest.mark.parametrize(
    ("board", "ports"),
    [
        ("qemu-cortex-m4", ()),
        (NO_USB_IDS, ("socket://lab:4000",)),
        (NO_USB_IDS, ("renode",)),
        ("raspberry-pi-3", ("ssh://pi@lab",)),
    ],
)
def test_what_may_be_in_reach_is_not_refused(
    board: str, ports: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(self: Run) -> dict[str, Any]:
        raise Reached

    monkeypatch.setattr(Run, "export", export)
    with pytest.raises(Reached):
        open_run(tmp_path, board).everything(Targets(ports))


def test_the_port_reaches_validation_and_is_no_part_of_what_was_validated(
    port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[str | None, ...]] = []
    deployment = MagicMock(tflite=b"model", build=MagicMock(build_id=b"build", flash_bytes=1))

    def validate(*arguments: Any) -> Any:
        used.append(arguments[5].each)
        return SimpleNamespace(images=1, mismatches=0, to_json=dict)

    def report(**_: Any) -> dict[str, Any]:
        raise Reached

    monkeypatch.setattr(Run, "export", lambda self: {})
    monkeypatch.setattr(stages, "deploy", lambda *_: deployment)
    monkeypatch.setattr(stages, "validate_on_target", validate)
    monkeypatch.setattr("pipeline.run.core_document", report)
    monkeypatch.setattr("pipeline.run.read_as", lambda *_: None)
    monkeypatch.setattr("pipeline.run.clips_of", lambda *_: None)
    run = open_run(tmp_path)
    images = np.zeros((1, 8, 8, 1), np.uint8)
    run.__dict__ |= {
        "data": SimpleNamespace(x_test=images, y_test=np.zeros(1, np.int64)),
        "_data_key": "data",
    }
    for targets in (
        Targets((port,)),
        Targets(("socket://lab:4000",)),
        Targets(),
    ):  # the last: it is not connected
        with pytest.raises(Reached):
            run.everything(targets)
    assert used == [(port,)]


@pytest.mark.parametrize(
    ("command", "opened"), [("run", "pipeline.run.Run"), ("adapt", "pipeline.adapt.EdgeRun")]
)
def test_the_command_line_names_the_port(
    command: str, opened: str, port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Targets] = []

    def everything(targets: Targets) -> dict[str, Any]:
        asked.append(targets)
        raise Reached

    stand_in = SimpleNamespace(configure=lambda _: None, everything=everything)
    monkeypatch.setattr(f"{opened}.open", lambda *_, **__: stand_in)
    for options in ([], ["--port", port]):
        done = CliRunner().invoke(app, [command, str(tmp_path / "run.toml"), *options])
        assert isinstance(done.exception, Reached), done.output
    assert asked == [Targets(), Targets((port,))]
