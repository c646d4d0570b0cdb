"""Weight steps by the sandwich rule: which paths they train, on what, at what cost, and that they resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from search_standins import DATA, SMALL, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.search import search
from pipeline.search.candidates import Judge
from pipeline.search.costs import build_tables
from pipeline.search.edgenas import EdgeNas
from pipeline.search.effort import edgenas_passes, training_passes
from pipeline.search.meter import Meter
from pipeline.search.methods import Task
from pipeline.search.sandwich import narrowest, sandwich, widest
from pipeline.search.sharingconfig import SharingConfig
from pipeline.search.supernet import Supernet
from pipeline.search.targets import one_board
from pipeline.search.trainer import shared_step, weight_optimizer
from pipeline.space import Budgets
from pipeline.space.search_space import SearchSpace


class Stop(Exception):
    pass


SPACE = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1), channels=(8, 16, 24))
SKIP = SPACE.ops.index("skip")
SANDWICH = replace(TINY, sharing=SharingConfig(sandwich=2))


def judge(budgets: Budgets) -> Judge:
    return Judge(build_tables(SPACE, MacCost()), MacCost(), budgets)


def test_the_ends_have_the_drawn_operators_in_the_greatest_and_the_least_width() -> None:
    free, rng = judge(Budgets()), np.random.default_rng(0)
    drawn = [free.path(SPACE.random(rng)) for _ in range(60)]
    assert any(op == SKIP for path in drawn for op, _ in path)
    for path in drawn:
        wide, narrow = widest(free, path, 1.25, rng), narrowest(free, path)
        assert [width for _, width in wide] == [2, 2, 2] and all(width == 0 for _, width in narrow)
        assert [op for op, _ in narrow] == [op for op, _ in path]
        assert all(
            new == old if old != SKIP else new != SKIP for (new, _), (old, _) in zip(wide, path, strict=True)
        )
    first, *between, last = sandwich(free, drawn[:2], 1.25, np.random.default_rng(1))
    assert between == drawn[:2] and first == widest(free, drawn[0], 1.25, np.random.default_rng(1))
    assert last == narrowest(free, drawn[1])


def test_budgets_bound_the_wide_end() -> None:
    rng, free = np.random.default_rng(2), judge(Budgets())
    needed = [free.tables.path_parameters([(0, width)] * 3) for width in range(3)]
    for limit, width in ((needed[2], 2), (needed[2] - 1, 1), (needed[1], 1), (needed[0], 0), (1, 0)):
        wide = widest(judge(Budgets(parameters=int(limit))), ((0, 0),) * 3, 1.0, rng)
        assert wide == ((0, width),) * 3


@pytest.mark.parametrize("distill", [0.0, 0.3, 1.0])
def test_a_step_follows_the_mean_loss_with_the_first_path_as_the_teacher(distill: float) -> None:
    paths = [[(0, 2), (3, 2), (6, 2)], [(1, 1), (4, 0), (8, 0)], [(0, 0), (3, 0), (6, 0)]]
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 4
    ours, theirs = Supernet(SPACE, 3), Supernet(SPACE, 3)
    loss = shared_step(ours, weight_optimizer(ours, 0.1), paths, (x, y), 0.1, distill)

    # The same in one graph: Kullback-Leibler divergence and the teacher's entropy are the soft cross entropy.
    outputs = [theirs(x, path) for path in paths]
    soft = outputs[0].detach().softmax(1)
    entropy = -(soft * soft.log()).sum(1).mean()
    losses = [F.cross_entropy(outputs[0], y)]
    for out in outputs[1:]:
        divergence = F.kl_div(out.log_softmax(1), soft, reduction="batchmean") + entropy
        losses.append((1 - distill) * F.cross_entropy(out, y) + distill * divergence)
    mean = torch.stack(losses).mean()
    mean.backward()
    assert loss == pytest.approx(mean.item(), rel=1e-5)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 5.0)
    weight_optimizer(theirs, 0.1).step()
    moved = 0
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4, msg=name)
        moved += b.grad is not None
    assert moved > 10


def test_what_is_planned_for_a_supernet_is_what_passes_through_it() -> None:
    for sharing, paths in (
        (SharingConfig(), 1),
        (SharingConfig(sandwich=1), 3),
        (SharingConfig(sandwich=2), 4),
    ):
        config = replace(TINY, sharing=sharing)
        task = Task.prepare(SMALL, DATA, one_board(MacCost(), Budgets()), config, 0, None, None)
        torch.set_num_threads(1)
        with Meter() as meter:
            EdgeNas(task)._train()
        steps = config.warmup_steps + config.steps
        looks = config.steps * config.paths * config.validation_batch_size
        assert meter.passes == training_passes(config, steps * paths) + looks
        more = edgenas_passes(config, 80) - edgenas_passes(TINY, 80)
        assert more == training_passes(config, steps * (paths - 1))


def test_an_interrupted_search_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    config = replace(SANDWICH, checkpoint_seconds=1e-9)
    whole = search(SMALL, DATA, MacCost(), Budgets(parameters=3_000), config, seed=4)
    path, calls = tmp_path / "c.pt", 0

    def stop(_step: dict) -> None:
        nonlocal calls
        calls += 1
        if calls % 7 == 0:
            raise Stop

    for _ in range(60):
        try:
            again = search(
                SMALL,
                DATA,
                MacCost(),
                Budgets(parameters=3_000),
                config,
                seed=4,
                checkpoint=path,
                on_step=stop,
            )
            break
        except Stop:
            continue
    assert calls >= 7 and again == whole
    single = replace(config, sharing=SharingConfig())
    assert search(SMALL, DATA, MacCost(), Budgets(parameters=3_000), single, seed=4).history != whole.history


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sandwich", -1),
        ("sandwich", 1.5),
        ("sandwich", True),
        ("sandwich", "2"),
        ("distill", 1.1),
        ("distill", -0.1),
    ],
)
def test_settings_without_meaning_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"search.sharing.{field}"):
        SharingConfig(**{field: value})  # type: ignore[arg-type]
