"""A family or front whose contest an earlier version began: no result mixes two ways of training members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.search import search
from pipeline.search.checkpoint import Checkpoint
from pipeline.search.selectionconfig import SelectionConfig
from pipeline.space import Budgets

BUDGETS = Budgets(latency_ms=3.0, parameters=3000)
SENTINEL = 0.987654  # an accuracy that no training here has


class Stop(Exception):
    pass


def config_of(method: str, shared: bool) -> Any:
    selection = SelectionConfig(shared=shared)
    return replace(TINY, method=method, candidates=10, semifinalists=4, semifinal_steps=6, proxy_steps=0,
                   selection=selection, checkpoint_seconds=1e-9)  # fmt: skip


def phases(config: Any, checkpoint: Path, stop: str = "", times: int = 0) -> tuple[Any, list[str]]:
    """The result, None where it was stopped after so many reports of the phase `stop`; and all phases that were
    reported."""
    seen: list[str] = []

    def on_step(progress: dict[str, Any]) -> None:
        seen.append(progress["phase"])
        if stop and seen.count(stop) == times:
            raise Stop

    try:
        return search(
            SMALL, DATA, MacCost(), BUDGETS, config, seed=7, checkpoint=checkpoint, on_step=on_step
        ), seen
    except Stop:
        return None, seen


def as_earlier_versions_left_it(checkpoint: Path) -> None:
    """Without a word on how members train, with an accuracy that is theirs, and the next training begun."""
    (begun,) = checkpoint.parent.glob("search-training-*.pt")
    training = torch.load(begun, weights_only=True)
    name = training["identity"]["training"] = training["identity"]["training"].removesuffix(" from scratch")
    begun.unlink()
    torch.save(training, Checkpoint(checkpoint, {}, 0.0).of_training(name).path)
    stored = torch.load(checkpoint, weights_only=True)
    assert stored["state"].pop("members", None) in (None, "from scratch", "from shared weights")
    proxied = stored["state"]["selection"]["proxied"]
    assert len(proxied) == 1
    stored["state"]["selection"]["proxied"] = [(path, SENTINEL) for path, _ in proxied]
    torch.save(stored, checkpoint)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("method", "phase"), [("hypernetwork", "family"), ("hwdarts", "front")])
def test_a_contest_of_before_begins_anew_where_it_trained_otherwise(
    method: str, phase: str, shared: bool, tmp_path: Path
) -> None:
    config = config_of(method, shared)
    checkpoint, whole = tmp_path / "search.pt", tmp_path / "whole.pt"
    straight, _ = phases(config, whole)
    members = [c for c in straight.candidates if c.proxy_accuracy is not None]
    steps = members[0].proxy_steps
    assert len(members) > 1
    interrupted, _ = phases(config, checkpoint, phase, steps + 1)  # in the second member's training
    assert interrupted is None
    as_earlier_versions_left_it(checkpoint)
    result, seen = phases(config, checkpoint)
    assert set(seen) <= {phase, "ranking"}, "what comes before the contest stays"
    kept = [c for c in result.candidates if c.proxy_accuracy == SENTINEL]
    assert len(kept) == shared
    if not shared:
        assert result.to_json() == straight.to_json()
        assert seen.count(phase) == len(members) * steps


@pytest.mark.parametrize(("method", "phase"), [("hypernetwork", "family"), ("hwdarts", "front")])
def test_a_contest_of_this_version_goes_on(method: str, phase: str, tmp_path: Path) -> None:
    config = config_of(method, False)
    straight, seen = phases(config, tmp_path / "whole.pt")
    half = seen.count(phase) // 2
    phases(config, tmp_path / "search.pt", phase, half)
    result, more = phases(config, tmp_path / "search.pt")
    assert result.to_json() == straight.to_json()
    assert more.count(phase) <= seen.count(phase) - half + 1
