"""Several emulators at once, on threads and through Ray: the same table, the same bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from needs import NEEDS_QEMU_ARM

from pipeline.boards import load_board
from pipeline.errors import ConfigError, LinkError, ToolError
from pipeline.fleet import Fleet, Targets
from pipeline.profiler import profile
from pipeline.profiler.calibration import calibration_operators
from pipeline.progress import Reporter

pytestmark = [
    pytest.mark.emulated,
    NEEDS_QEMU_ARM,
]
BOARD = load_board("qemu-cortex-m4")
QUIET = Reporter(quiet=True)


class Adder:
    """Something to put to work."""

    def __init__(self, start: int) -> None:
        self.sum = start

    def add(self, number: int) -> int:
        if number < 0:
            raise LinkError("the board is gone", hint="connect it")
        self.sum += number
        return self.sum

    def close(self) -> None: ...


def adder(index: int) -> object:
    return lambda: Adder(100 * index)


def table(folder: Path, targets: Targets) -> object:
    return profile(BOARD, [], journal=folder / "journal.sqlite", reporter=QUIET, targets=targets)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> object:
    return table(tmp_path_factory.mktemp("alone"), Targets())


def test_threads_measure_the_same_table(alone: object, tmp_path: Path) -> None:
    assert table(tmp_path, Targets(count=2)) == alone


@pytest.mark.parametrize("ray", [None, "local"])
def test_workers_keep_their_object_and_pass_errors_on(ray: str | None) -> None:
    if ray:
        # this file is no module that an actor could import
        pytest.importorskip("ray").cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with Fleet(adder, 2, board="simulated", ray=ray) as fleet:  # type: ignore[arg-type]
        first, second = fleet.workers
        futures = [first.submit("add", 1), second.submit("add", 1), first.submit("add", 2)]
        assert [future.result(60) for future in futures] == [1, 101, 3]
        with pytest.raises(LinkError, match="gone") as caught:
            first.submit("add", -1).result(60)
        assert caught.value.hint == "connect it"
        assert first.submit("add", 1).result(60) == 4


def test_ray_measures_the_same_table(alone: object, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert table(tmp_path, Targets(count=2, ray="local")) == alone


def test_a_cluster_that_is_not_there() -> None:
    pytest.importorskip("ray")
    with pytest.raises((ToolError, ConfigError)) as caught:
        Fleet(adder, 1, board="simulated", ray="127.0.0.1:1")  # type: ignore[arg-type]
    assert "ray start" in caught.value.hint


def test_the_calibration_set_is_what_is_measured(alone: object) -> None:
    rows = alone.rows  # type: ignore[attr-defined]
    assert {op.key for op in calibration_operators() if op.kind != "reshape"} <= set(rows)
