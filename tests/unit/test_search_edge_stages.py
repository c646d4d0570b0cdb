"""What holds of the edge stage in any space: cost, resuming, seeds, and errors that name what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_standins import BLOCKS_STAGE, CELLS_STAGE, OPTIONS, Stage, StopHereError, same
from search_standins import TINY, counted_images, images

from pipeline.errors import ConfigError
from pipeline.space.budgets import Budgets

STAGES = {"blocks": BLOCKS_STAGE, "cells": CELLS_STAGE}


@pytest.fixture(scope="module", params=STAGES)
def stage(request: pytest.FixtureRequest) -> Stage:
    return STAGES[request.param]


@pytest.fixture(scope="module")
def finished(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage.search(tmp_path_factory.mktemp("cloud") / "search.pt")


def test_images_are_counted_and_stay_within_the_share(
    stage: Stage, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Independent count: every image that enters the supernet, three times where gradients are taken."""
    seen = counted_images(monkeypatch, stage.supernet)
    outcome = stage.adapt(finished)
    assert sum(seen) == outcome.spending.passes <= outcome.spending.allowed
    assert outcome.spending.allowed == int(OPTIONS.share * stage.passes(stage.config))


def test_same_seed_same_outcome_other_data_another(stage: Stage, finished: Path) -> None:
    first = stage.adapt(finished)
    assert same(first, stage.adapt(finished))
    other = stage.adapt(finished, data=images(10))
    assert not torch.equal(first.weights[0]["weight"], other.weights[0]["weight"])
    assert same(first, stage.adapt(finished, config=replace(stage.config, workers=2)))


@pytest.mark.parametrize("stop_at", [1, 4, 8, 12, 15])
def test_an_interrupted_adaptation_goes_on_exactly(
    stage: Stage, finished: Path, tmp_path: Path, stop_at: int
) -> None:
    config = replace(stage.config, checkpoint_seconds=1e-9)
    checkpoint, calls = tmp_path / "edge.pt", 0

    def stop(_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise StopHereError

    with pytest.raises(StopHereError):
        stage.adapt(finished, config=config, checkpoint=checkpoint, on_step=stop)
    later: list[Any] = []
    outcome = stage.adapt(finished, config=config, checkpoint=checkpoint, on_step=later.append)
    assert same(outcome, stage.adapt(finished))
    # only the step under way is done again
    spending = outcome.spending
    total = spending.steps + OPTIONS.candidates + OPTIONS.contestants * spending.contest_steps
    assert later[-1]["done"] == later[-1]["total"] == total
    assert len(later) <= total - stop_at + 1 + OPTIONS.candidates
    assert [path.name for path in tmp_path.iterdir()] == ["edge.pt"]


def test_a_checkpoint_of_another_adaptation_is_refused(stage: Stage, finished: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "edge.pt"
    stage.adapt(finished, checkpoint=checkpoint)
    assert stage.tight.latency_ms is not None
    looser = replace(stage.tight, latency_ms=1.1 * stage.tight.latency_ms)
    with pytest.raises(ConfigError, match=r"another search: budgets, \[adapt\] differ"):
        stage.adapt(finished, looser, replace(OPTIONS, focus=0.5), checkpoint=checkpoint)


def test_impossible_budgets_are_named(stage: Stage, finished: Path) -> None:
    result = stage.adapt(finished, Budgets(stage.tight.latency_ms, sram_bytes=2100)).result
    assert not result.feasible and result.architecture is None
    assert "SRAM" in result.reason and "of 2,100 bytes" in result.reason


def test_an_unfinished_cloud_search_says_how_far_it_is(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "search.pt"

    def stop(progress: Any) -> None:
        if progress["done"] == 7:
            raise StopHereError

    with pytest.raises(StopHereError):
        stage.search(path, config=replace(stage.config, checkpoint_seconds=1e-9), on_step=stop)
    with pytest.raises(ConfigError, match=r"not finished: step \d of 10"):
        stage.cloud(path)


def test_the_checkpoint_of_a_search_without_a_supernet_is_no_start(stage: Stage, tmp_path: Path) -> None:
    path = stage.search(tmp_path / "random.pt", config=replace(TINY, method="random"))
    with pytest.raises(ConfigError, match="not the checkpoint of a search with a supernet"):
        stage.cloud(path)
