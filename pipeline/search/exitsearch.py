"""Trainings of candidates alone, with early exits where the search chooses those along with the blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.search.candidates import ExactPath, Judge
from pipeline.search.checkpoint import Checkpoint
from pipeline.search.exitnet import ExitNet, on_int8_grid
from pipeline.search.exits import ExitChoice, Latencies, choose_exits
from pipeline.search.methods import Task
from pipeline.search.selection import own_accuracy
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, train_path
from pipeline.space.architecture import lower

# Of thresholds for each subset of a candidate's exits: a hundred each for two of them.
_COMBINATIONS = 10_000


class Trained(NamedTuple):
    """What a training alone showed: accuracy on the validation images, that of the exits' rule where there are any."""

    accuracy: float
    exits: ExitChoice | None = None


def judge_of(task: Task) -> Judge:
    """The judge of the run's board, which knows of the expected latency that is searched for."""
    exits = task.config.exits
    return Judge(
        task.tables, task.cost, task.budgets, expected_ms=exits.expected_latency_ms if exits.search else None
    )


def train_alone(
    net: Supernet,
    path: ExactPath,
    task: Task,
    judge: Judge,
    validation: Validation,
    *,
    steps: int,
    rng: np.random.Generator,
    on_step: Callable[[int], None],
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """What `path` is worth after `steps` of training from the weights of `net`, or on from where `checkpoint` is."""
    config = task.config
    if judge.expected_ms is None:
        found = own_accuracy(
            net, path, task.data, validation, config, steps=steps, rng=rng, on_step=on_step, checkpoint=checkpoint
        )  # fmt: skip
        return Trained(found)
    exits = config.exits
    own = ExitNet(copy.deepcopy(net), task.seed, exits.loss_weight, exits.head_weight).to(task.device)
    train_path(
        own, path, task.data, steps=steps, batch_size=config.batch_size, lr=config.weight_lr, rng=rng,
        on_step=on_step, checkpoint=checkpoint,
    )  # fmt: skip
    logits, labels = validation.outputs(own, path)
    choice = best_exits(judge, path, [on_int8_grid(y) for y in logits], labels)
    return Trained(choice.accuracy, choice)


def best_exits(
    judge: Judge, path: ExactPath, outputs: Sequence[NDArray[np.int8]], labels: NDArray[np.int64]
) -> ExitChoice:
    """The exits of `path`, and when they are taken, that serve it best at the expected latency of `judge`.

    outputs: INT8 logits (n, classes) of all exits of the space and the final output. A subset whose worst case breaks
    a budget is none.
    """

    def latencies_of(kept: tuple[int, ...]) -> Latencies:
        architecture, cost = judge.with_exits(path, kept)
        over = "over a budget" if judge.budgets.violations(cost) else ""
        return Latencies(judge.cost.exit_latencies_ms(lower(architecture)), over)

    return choose_exits(
        outputs, labels, latencies_of, 0.0, goal_ms=judge.expected_ms or 0.0, combinations=_COMBINATIONS
    )
