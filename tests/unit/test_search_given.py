"""An architecture that the run file gives: taken as it is, or refused with the reason."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from search_standins import DATA, SMALL, TINY, MacCost
from test_search_settings import write
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.errors import ConfigError
from pipeline.search import search
from pipeline.space import Architecture, Budgets
from pipeline.space.search_space import SearchSpace


def words(architecture: Architecture) -> tuple[str, ...]:
    return tuple(b.op if b.op == "skip" else f"{b.op}-{b.channels}" for b in architecture.blocks)


@given(st.integers(0, 2**32))
def test_every_architecture_has_a_name(seed: int) -> None:
    space = SearchSpace.for_input((28, 28, 1), 10)
    architecture = space.random(np.random.default_rng(seed))
    assert space.named(words(architecture)) == architecture


def test_the_budgets_decide() -> None:
    config = replace(TINY, method="given", given=("ir2-8", "se4-16", "skip"))
    result = search(SMALL, DATA, MacCost(), Budgets(latency_ms=30.0), config, seed=0)
    assert result.feasible and result.architecture is not None and result.cost is not None
    assert words(result.architecture) == config.given
    assert [c.architecture for c in result.candidates] == [result.architecture]
    tight = Budgets(latency_ms=result.cost.latency_ms / 2, parameters=100)
    refused = search(SMALL, DATA, MacCost(), tight, config, seed=0)
    assert not refused.feasible and refused.architecture is None and not refused.candidates
    assert "latency" in refused.reason and "(+100.0 %)" in refused.reason
    assert f"parameters {result.cost.parameters:,} of 100" in refused.reason
    drained = search(SMALL, DATA, MacCost(), Budgets(energy_mj=0.01), config, seed=0)
    assert "energy" in drained.reason and "latency" not in drained.reason  # which nobody limited


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ((), r"0 blocks are given, the space has 3"),
        (("dw3-8", "dw3-12", "skip"), r"block 1 is 'dw3-12'"),
        (("dw3-8", "skip-8", "skip"), r"block 1 is 'skip-8'"),
        (("dw3-8", "skip", "dw9-8"), r"block 2 is 'dw9-8'"),
        (("dw3", "skip", "skip"), r"block 0 is 'dw3'"),
    ],
)
def test_what_the_space_does_not_have(entries: tuple[str, ...], says: str) -> None:
    config = replace(TINY, method="given", given=entries)
    with pytest.raises(ConfigError, match=says) as error:
        search(SMALL, DATA, MacCost(), Budgets(latency_ms=30.0), config, seed=0)
    assert error.value.hint


def test_from_a_run_file(tmp_path: Path) -> None:
    def run(more: str) -> Result:
        file = write(tmp_path, "given", more)
        return CliRunner().invoke(app, ["search", str(file), "--runs", str(tmp_path / "runs"), "--json"])

    found = run('given = ["dw3-24", "skip"]')
    assert found.exit_code == 0, found.exception
    written = json.loads((tmp_path / "runs" / "tiny" / "architecture.json").read_text())
    assert words(Architecture.from_json(written)) == ("dw3-24", "skip")
    unknown = str(run('given = ["dw3-24", "dw5-16"]').exception)
    assert re.search(r"run\.toml:\d+: block 1 is 'dw5-16', which the space does not have", unknown)
    vetoed = run('given = ["dw3-24", "dw3-24"]\n[vetoes]\noperators = ["depthwise_conv2d"]')
    assert "the given one: depthwise_conv2d is vetoed" in str(vetoed.exception)
