"""Measuring on other machines: the conditions that a table states must be those of the machine that measures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.boards import load_board
from pipeline.errors import ConfigError, LinkError, LutError
from pipeline.fleet import Targets
from pipeline.profiler import engines, identity
from pipeline.profiler.calibration import ANCHOR
from pipeline.profiler.profile import measure
from pipeline.progress import Reporter

HOST = load_board("host")


class Opened(Exception):
    """A session would measure now."""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What changes on the machine of a worker, done where a worker's session is opened."""
    changes: list[Callable[[], None]] = []

    class Worker:
        def __init__(self, factory: Any, *_: Any, **more: Any) -> None:
            self._open = factory(0)

        def __enter__(self) -> Any:
            for change in changes:
                change()
            self._open()

        def __exit__(self, *error: object) -> None: ...

    def session(self: Any, board: Any, folder: Path, port: str | None = None) -> Any:
        raise Opened

    monkeypatch.setattr(sys.modules["pipeline.profiler.profile"], "Fleet", Worker)
    monkeypatch.setattr(engines.GeneratedEngine, "session", session)
    monkeypatch.setattr(identity, "processor", lambda: "a fast processor")
    monkeypatch.setattr(identity, "compiler_version", lambda program: "gcc 12")
    identity._version.cache_clear()
    return changes


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    yield
    identity._version.cache_clear()


def asked(folder: Path, targets: Targets, board: Any = HOST) -> None:
    measure(
        board, [ANCHOR], journal=folder / "journal.sqlite", reporter=Reporter(quiet=True), targets=targets
    )


def test_a_ray_host_of_another_processor_does_not_measure_this_machines_table(
    elsewhere: list[Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Opened):
        asked(tmp_path, Targets(ray="10.0.0.1:6379"))
    elsewhere.append(lambda: monkeypatch.setattr(identity, "processor", lambda: "a slow one"))
    with pytest.raises(
        LutError, match=r"timing is 'device counter of a slow one' there, '.*a fast processor' here"
    ):
        asked(tmp_path, Targets(ray="10.0.0.1:6379"))
    # a real board is the same wherever it is connected
    with pytest.raises(Opened):
        asked(tmp_path, Targets(ray="10.0.0.1:6379", ports=("/dev/ttyACM0",)), load_board("nucleo-l4r5zi"))


def test_a_ray_host_of_another_compiler_is_refused_for_any_board(
    elsewhere: list[Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_compiler() -> None:
        monkeypatch.setattr(identity, "compiler_version", lambda program: "gcc 14")
        identity._version.cache_clear()

    elsewhere.append(other_compiler)
    with pytest.raises(LutError, match="compiler is 'gcc 14' there, 'gcc 12' here") as error:
        asked(tmp_path, Targets(ray="auto"), load_board("qemu-cortex-m4"))
    assert "timing" not in error.value.message


def test_a_board_that_nothing_says_how_to_reach_is_told_before_a_build(
    elsewhere: list[Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.links.discovery.serial_ports", lambda comports=None: [])
    pi, nucleo, port = load_board("raspberry-pi-3"), load_board("nucleo-l4r5zi"), tmp_path / "ttyACM0"
    port.touch()
    with pytest.raises(LinkError, match="another machine"):
        asked(tmp_path, Targets(), pi)
    with pytest.raises(LinkError, match="no nucleo-l4r5zi is connected"):
        asked(tmp_path, Targets(), nucleo)
    with pytest.raises(LinkError, match="there is no port /nowhere"):
        asked(tmp_path, Targets(ports=("/nowhere",)), nucleo)
    for targets, board in ((Targets(ports=("local",)), pi), (Targets(ports=(str(port),)), nucleo)):
        with pytest.raises(Opened):
            asked(tmp_path, targets, board)
    with pytest.raises(Opened):  # the host that has it knows where it is
        asked(tmp_path, Targets(ray="10.0.0.1:6379"), nucleo)


def test_this_machines_table_is_not_measured_over_ssh(
    elsewhere: list[Callable[[], None]], tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"ssh://pi@lab: the table of host is of this machine .*a fast processor"
    ):
        asked(tmp_path, Targets(ports=("ssh://pi@lab",)))
    with pytest.raises(Opened):
        asked(tmp_path, Targets(ports=("ssh://pi@lab",)), load_board("raspberry-pi-3"))
