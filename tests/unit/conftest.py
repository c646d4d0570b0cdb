"""Fixtures of several test files."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import places


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No local copy, no cache, no network."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise urllib.error.URLError("no route to host")

    monkeypatch.delenv(places.ENVIRONMENT, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.setattr(places, "_CHECKOUT", tmp_path / "a" / "b")
    monkeypatch.setattr("urllib.request.urlopen", refuse)
