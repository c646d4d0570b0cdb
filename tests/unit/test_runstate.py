"""What of a run is done already: kept, noticed, and named where it is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.progress import Reporter
from pipeline.run import Run
from pipeline.runfile import load_runfile
from pipeline.runstate import RunState, fingerprint, read_as, read_json
from pipeline.validate import Validation


def test_state_survives_and_notices_changes(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    key = fingerprint({"a": 1}, b"bytes")
    (tmp_path / "out").write_text("x")
    state.finish("search", key, 1.25)
    again = RunState(tmp_path)
    assert again.is_done("search", key, ["out"])
    assert not again.is_done("search", fingerprint({"a": 2}, b"bytes"), ["out"])
    assert not again.is_done("search", key, ["out", "gone"])
    assert not again.is_done("train", key, [])
    assert again.seconds("search") == pytest.approx(1.2, abs=0.1)


def test_damaged_state_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged") as caught:
        RunState(tmp_path)
    assert "delete" in caught.value.hint
    for content in ("{}", "[]", "3", '{"history": []}'):
        (tmp_path / "training.json").write_text(content)
        with pytest.raises(ConfigError, match=r"training\.json is damaged: .*") as caught:
            read_json(tmp_path / "training.json", "accuracy")
        assert "delete" in caught.value.hint
    (tmp_path / "training.json").write_text('{"accuracy": 1}')
    assert read_json(tmp_path / "training.json", "accuracy") == {"accuracy": 1}


@pytest.mark.parametrize(
    "content", ['{"stages": 3}', '{"stages": {"search": "done"}}', '{"stages": {"search": {}}}', "[]"]
)
def test_a_state_that_was_edited_says_what_to_do(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ConfigError, match=r"state\.json is damaged"):
        RunState(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"images": 3, "exits": "x"}'])
def test_what_another_edgenas_left_names_its_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "validation.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"validation\.json is damaged, or of another edgenas") as caught:
        read_as(path, Validation.from_json)
    assert "its stage runs again" in caught.value.hint


def test_a_stage_takes_as_long_as_all_its_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted search that goes on reports what it took, not what was left of it."""
    path = tmp_path / "run.toml"
    path.write_text('board = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 50.0\n')
    now = [100.0]
    monkeypatch.setattr("pipeline.run.time.monotonic", lambda: now[0])

    def work(seconds: float, ends: bool) -> Callable[[], str]:
        def work() -> str:
            now[0] += seconds
            if not ends:
                raise KeyboardInterrupt
            return "found"

        return work

    def run() -> Run:
        return Run(load_runfile(path), tmp_path, None, Reporter(quiet=True))

    for key in ("key", "another", "another"):
        with pytest.raises(KeyboardInterrupt):
            run()._stage("search", key, [], work(30.0, ends=False), resumes=True)
    last = run()
    last._stage("search", "another", [], work(12.0, ends=True), resumes=True)
    assert last._state.seconds("search") == 72.0  # the first sitting was of other settings
    with pytest.raises(KeyboardInterrupt):
        last._stage("validate", "key", [], work(5.0, ends=False))
    last._stage("validate", "key", [], work(3.0, ends=True))
    assert RunState(tmp_path).seconds("validate") == 3.0  # begins anew
    assert "unfinished" not in json.loads((tmp_path / "state.json").read_text())
