"""HW-DARTS: the multiplier moves along the front, and every lambda starts anew over the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.runfile import load_runfile
from pipeline.search import search
from pipeline.search.candidates import Judge, repair
from pipeline.search.costs import build_tables
from pipeline.search.edgenas import EdgeNas
from pipeline.search.hwdarts import HwDarts, members
from pipeline.search.hwdartsconfig import HwDartsConfig
from pipeline.search.methods import Task
from pipeline.search.targets import one_board
from pipeline.space import Budgets

LAMBDAS = (0.0, 0.3, 3.0)
CONFIG = replace(TINY, method="hwdarts", hwdarts=HwDartsConfig(LAMBDAS, steps=12), architecture_lr=0.1)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def task_of(config=CONFIG, budgets=Budgets(), seed: int = 0) -> Task:  # noqa: B008 - immutable
    return Task.prepare(SMALL, DATA, one_board(MacCost(), budgets), config, seed, None, None)


def by_lambda(history, weight: float) -> list[dict]:
    return [record for record in history if record["lambda"] == weight]


def test_the_more_latency_weighs_the_faster_the_architecture():
    result = search(SMALL, DATA, MacCost(), Budgets(), CONFIG, seed=0)
    ends = [by_lambda(result.history, weight)[-1]["latency_ms"] for weight in LAMBDAS]
    assert ends[2] < ends[1] and ends[2] < ends[0]
    # The front: one architecture a lambda was trained alone, for the same number of steps.
    trained = [c for c in result.candidates if c.proxy_accuracy is not None]
    assert len(trained) == len(LAMBDAS)
    assert len({c.proxy_steps for c in trained}) == 1
    assert len({c.cost.latency_ms for c in trained}) == len(LAMBDAS)
    assert result.architecture == max(trained, key=lambda c: c.proxy_accuracy).architecture


def test_every_lambda_starts_anew_and_only_the_supernet_training_moves_weights():
    search_ = HwDarts(task_of())
    search_._train()
    weights = {name: value.clone() for name, value in search_.net.state_dict().items()}
    firsts = [by_lambda(search_.history, weight)[0] for weight in LAMBDAS]
    for record in firsts[1:]:  # same alpha, batch and samples
        for name in ("val_loss", "latency_ms", "parameters", "temperature"):
            assert record[name] == firsts[0][name]
    assert all(len(by_lambda(search_.history, weight)) == 12 for weight in LAMBDAS)
    # The same weights as where no alpha was ever searched, and a lambda's course does not depend on the others.
    alone = HwDarts(task_of(replace(CONFIG, hwdarts=HwDartsConfig((3.0,), steps=12))))
    alone._train()
    assert all(torch.equal(weights[name], value) for name, value in alone.net.state_dict().items())
    courses = [[r["latency_ms"] for r in by_lambda(s.history, 3.0)] for s in (search_, alone)]
    assert courses[0] == courses[1]
    assert search_.found[2][0] == alone.found[0][0]


def test_the_loss_is_ce_plus_lambda_times_latency_over_the_deadline(monkeypatch):
    """Without a gradient of CE, a step's gradient is exactly lambda / T times that of the expectation."""
    zero = torch.zeros(())
    monkeypatch.setattr(EdgeNas, "_score_gradient", lambda self, *_: (zero, 0.0, 0.0))
    search_ = HwDarts(task_of(budgets=Budgets(latency_ms=2.5)))
    assert search_.unit_ms == 2.5
    search_._lambda_step(0.7, 0)
    got = [p.grad.clone() for p in (search_.relaxation.ops, search_.relaxation.widths)]
    fresh = HwDarts(task_of(budgets=Budgets(latency_ms=2.5))).relaxation
    fresh.expected(CONFIG.temperature_start).latency_ms.backward()
    for one, other in zip(got, (fresh.ops.grad, fresh.widths.grad), strict=True):
        assert torch.allclose(one, 0.7 / 2.5 * other, rtol=1e-5)


def test_paths_of_a_lambda_meet_the_budgets_and_lead_with_the_repaired_most_probable_one():
    budgets = Budgets(latency_ms=1.2, parameters=1500)
    search_ = HwDarts(task_of(budgets=budgets))
    search_._train()
    assert len(search_.found) == len(LAMBDAS)
    for paths in search_.found:
        assert paths and len(set(paths)) == len(paths)
        assert all(search_.judge.feasible(path) for path in paths)
    # the distribution is still the last lambda's
    logs = [torch.log_softmax(logits.detach() / CONFIG.temperature_end, -1).double().numpy()
            for logits in (search_.relaxation.ops, search_.relaxation.widths)]  # fmt: skip
    likely = search_.judge.canonical(search_.relaxation.argmax())
    assert search_.found[-1][0] == repair(search_.judge, likely, *logs)


def test_each_lambda_gets_a_member_of_its_own():
    judge = Judge(build_tables(SMALL, MacCost()), MacCost(), Budgets())
    a, b, c = (((op, 0), (op, 0), (op, 0)) for op in range(3))
    scored = {a: 0.5, b: 0.4, c: 0.6}
    assert members([[a, b], [a, b, c], [b]], scored, judge) == [a, c, b]
    assert members([[a], [a], []], scored, judge) == [a]


def test_settings(tmp_path):
    assert HwDartsConfig().steps_each(400) == 80 and HwDartsConfig((1.0,), steps=7).steps_each(400) == 7
    for raw, says in (
        ({"lambdas": ()}, "lambdas"),
        ({"lambdas": (-1.0,)}, "lambdas"),
        ({"lambdas": (1.0, 1.0)}, "twice"),
        ({"lambdas": (float("inf"),)}, "lambdas"),
        ({"lambdas": (0.1, 1e10)}, r"lambdas = 1e\+10 is too large"),
        ({"steps": -1}, "steps"),
    ):
        with pytest.raises(ConfigError, match=rf"search\.hwdarts\.{'lambdas' if says == 'twice' else says}"):
            HwDartsConfig(**raw)
    text = (
        'board = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 50.0\n[search]\nmethod = "hwdarts"\n'
        "[search.hwdarts]\nlambdas = [0, 0.5]\n[search.predictor]\nmodels = 40\n"
    )
    file = tmp_path / "run.toml"
    file.write_text(text)
    run = load_runfile(file)
    assert run.search.hwdarts.lambdas == (0, 0.5) and run.search.predictor.models == 40
    file.write_text(text.replace("0.5]", "-0.5]"))
    with pytest.raises(ConfigError, match=r"run\.toml:7.*lambdas"):
        load_runfile(file)
