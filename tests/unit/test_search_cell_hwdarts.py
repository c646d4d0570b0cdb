"""HW-DARTS in cell spaces: alphas over frozen weights, and what they learn from losses and from latency."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from search_standins import DATA, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.search import search
from pipeline.search.cell_costs import CellTables
from pipeline.search.cell_hwdarts import CellHwDarts
from pipeline.search.cell_relaxation import CellRelaxation
from pipeline.search.config import SearchConfig
from pipeline.search.effort import cell_member_steps
from pipeline.search.hwdartsconfig import HwDartsConfig
from pipeline.search.targets import one_board
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace

SPACE = CellSpace((8, 8, 1), 4, 4, 1, channels=(4, 8), strides=(1, 2), nodes=2)
LAMBDAS = (0.0, 0.3, 3.0)
CONFIG = replace(TINY, method="hwdarts", hwdarts=HwDartsConfig(LAMBDAS, steps=12), architecture_lr=0.1)
GRADIENTS = ("score", "straight-through")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(config: SearchConfig = CONFIG, budgets: Budgets = Budgets(), data=DATA) -> CellHwDarts:  # noqa: B008 - immutable
    board = one_board(MacCost(), budgets)
    return CellHwDarts(SPACE, data, board, config, 0, None, None, torch.device("cpu"))


def by_lambda(history, weight: float) -> list[dict]:
    return [record for record in history if record["lambda"] == weight]


def test_the_more_latency_weighs_the_faster_the_architecture() -> None:
    result = search(SPACE, DATA, MacCost(), Budgets(), CONFIG, seed=0)
    ends = [by_lambda(result.history, weight)[-1]["latency_ms"] for weight in LAMBDAS]
    assert ends[2] < ends[1] < ends[0]
    trained = [c for c in result.candidates if c.proxy_accuracy is not None]
    assert len(trained) == len(LAMBDAS) and len({c.architecture for c in trained}) == len(LAMBDAS)
    steps = cell_member_steps(CONFIG, len(SPACE.ops), len(DATA.x_val))
    assert {c.proxy_steps for c in trained} == {steps} and steps >= CONFIG.proxy_steps
    assert result.architecture == max(trained, key=lambda c: c.proxy_accuracy).architecture


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_lambda_starts_anew_over_frozen_weights(gradient: str) -> None:
    config = replace(CONFIG, gradient=gradient)
    whole = made(config)
    whole._sweep()
    firsts = [by_lambda(whole.history, weight)[0] for weight in LAMBDAS]
    for record in firsts[1:]:  # same alpha, batch and samples
        for name in ("val_loss", "latency_ms", "parameters", "temperature"):
            assert record[name] == firsts[0][name]
    # The same weights as where no alpha was ever searched, and a lambda's course does not depend on the others.
    alone = made(replace(config, hwdarts=HwDartsConfig((3.0,), steps=12)))
    alone._sweep()
    for name, value in alone.net.state_dict().items():
        assert torch.equal(whole.net.state_dict()[name], value)
    courses = [[r["latency_ms"] for r in by_lambda(s.history, 3.0)] for s in (whole, alone)]
    assert courses[0] == courses[1] and whole.found[2][0] == alone.found[0][0]


def test_the_loss_is_ce_plus_lambda_times_latency_over_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a gradient of CE, a step's gradient is exactly lambda / T times that of the expectation."""
    nothing = (torch.zeros(()), 0.0, 0.0, (0,) * SPACE.positions)
    monkeypatch.setattr(CellHwDarts, "_score_gradient", lambda self, *_: nothing)
    method = made(budgets=Budgets(latency_ms=2.5))
    method._lambda_step(0.7, 0)
    fresh = CellRelaxation(CellTables.of(SPACE, MacCost()))
    fresh.expected(CONFIG.temperature_start).latency_ms.backward()
    assert torch.allclose(method.relaxation.logits.grad, 0.7 / 2.5 * fresh.logits.grad, rtol=1e-5)


class Favours(torch.nn.Module):
    """Class 0, the surer, the more of the first edge is its last operator."""

    def forward(self, x: torch.Tensor, choice) -> torch.Tensor:
        share = choice[0, -1] if isinstance(choice, torch.Tensor) else torch.tensor(float(choice[0] == 2))
        return 4.0 * share * torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 4)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_an_alpha_moves_to_what_lowers_the_validation_loss(gradient: str) -> None:
    labels = SimpleNamespace(**vars(DATA)) if hasattr(DATA, "__dict__") else DATA
    labels.y_val = np.zeros_like(DATA.y_val)
    method = made(replace(CONFIG, gradient=gradient, paths=4), data=labels)
    method.net = Favours()
    for done in range(40):
        method._lambda_step(0.0, done % 12)
    chances = torch.softmax(method.relaxation.logits.detach(), -1)
    assert chances[0].argmax() == 2 and chances[0, 2] > 0.6
    assert chances[0, 2] > chances[1:, 2].max()  # no other edge matters


def test_paths_of_a_lambda_meet_the_budgets_and_lead_with_the_repaired_most_probable_one() -> None:
    free = made()
    free._sweep()
    slowest = max(free.judge.exact(path).latency_ms for paths in free.found for path in paths)
    method = made(budgets=Budgets(latency_ms=0.5 * slowest))
    method._sweep()
    for paths in method.found:
        assert paths and len(set(paths)) == len(paths)
        assert all(method.judge.feasible(path) for path in paths)
    # the distribution is still the last lambda's
    logs = torch.log_softmax(method.relaxation.logits.detach() / CONFIG.temperature_end, -1)
    likely = tuple(int(op) for op in logs.argmax(1))
    assert method.found[-1][0] == method.judge.repair(likely, logs.double().numpy())


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_an_alpha_that_diverges_is_named_and_the_checkpoint_kept(gradient: str, tmp_path: Path) -> None:
    file, seen = tmp_path / "c.pt", []
    wild = replace(
        CONFIG, gradient=gradient, architecture_lr=3e37, hwdarts=HwDartsConfig((1.0,), steps=12),
        checkpoint_seconds=1e-9, temperature_end=0.01,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="first in what chooses among the operators") as error:
        search(SPACE, DATA, MacCost(), Budgets(), wild, seed=0, checkpoint=file, on_step=seen.append)
    assert "search.architecture_lr" in error.value.hint and "kept" in error.value.hint
    kept = torch.load(file, weights_only=True)["state"]
    assert kept["step"] == len(seen) and torch.isfinite(kept["relaxation"]["logits"]).all()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_weights_too_large_for_a_gradient_are_named_besides_the_alpha(gradient: str) -> None:
    """No value in the net is infinite, but losses of 1e25, and gradients through gates, have no norm in float32."""
    method = made(replace(CONFIG, gradient=gradient))
    with torch.no_grad():
        method.net.classifier *= 1e25
    with pytest.raises(ConfigError, match="its gradient's norm inf") as error:
        method._lambda_step(0.0, 0)
    assert "lower search.architecture_lr or search.weight_lr;" in error.value.hint


def test_members_train_for_what_the_hypernetworks_search_leaves() -> None:
    short = replace(CONFIG, hwdarts=HwDartsConfig((0.0, 1.0)), warmup_steps=300, steps=400, semifinalists=3)
    counted = [cell_member_steps(replace(short, semifinalists=n), 3, 80) for n in (3, 6)]
    # three contests more, shared by two members: a training image counts three times
    assert counted[1] - counted[0] == 3 * (3 * 16 * short.proxy_steps + 80) / (2 * 3 * 16)
    many = replace(short, hwdarts=HwDartsConfig((0.0, 1.0), steps=100_000))
    assert cell_member_steps(many, 3, 80) == short.proxy_steps
