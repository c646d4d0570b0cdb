"""The estimate of what is left, where there is no terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pipeline import progress
from pipeline.progress import Bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def left(capsys: pytest.CaptureFixture[str]) -> str:
    found = re.findall(r"about (.+) left", capsys.readouterr().err)
    return found[-1] if found else ""


def run(bar: Bar, clock: Callable[[float], None], first: int, last: int, pace_s: float) -> None:
    for done in range(first, last + 1):
        bar.update(done)
        clock(pace_s)
    bar.update(last + 1)


def test_what_is_left_follows_the_pace(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run(Bar("train", 50, None, False), clock, 0, 19, 1.0)
    assert left(capsys) == "34 s"  # said at 16 of 50


def test_a_resumed_job_counts_only_its_own_steps(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    run(Bar("train", 1000, None, False), clock, 900, 919, 1.0)
    assert left(capsys) == "84 s"  # said at 916


def test_a_phase_that_counts_anew_has_its_own_pace(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    bar = Bar("train", 100, None, False)
    run(bar, clock, 0, 99, 10.0)  # a slow teacher
    left(capsys)
    bar.update(0, total=50)
    run(bar, clock, 1, 19, 1.0)
    assert left(capsys) == "31 s"  # said at 19 of 50, not ten times as much
