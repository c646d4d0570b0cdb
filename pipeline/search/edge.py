"""The edge stage: a finished search adapted to other data, limits and conditions, at a fraction of its cost.

After Kan and Psounis' cloud-edge search: the cloud finds strong candidates, the device refines them with its own
data under its present limits. What is taken from the cloud are the supernet's weights, the distribution and the
candidates; what is done anew is short: candidates are repaired to the new budgets and grown into them, the distribution
is centred on them, the shared weights are tuned, the candidates scored, and the most promising few train alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from pipeline.search.adaptconfig import AdaptConfig, Spending
from pipeline.search.checkpoint import Checkpoint
from pipeline.search.edgespace import EdgeSpace
from pipeline.search.inherit import LayerWeights
from pipeline.search.methods import Sitting
from pipeline.search.parallel import train_all
from pipeline.search.result import SearchResult
from pipeline.search.selection import Selection, first_round
from pipeline.search.trainer import (
    Net,
    Validation,
    cosine,
    draw_batch,
    train_path,
    weight_optimizer,
    weight_step,
)

METHOD = "edge stage"
# Random streams (see Task.rng).
_PATHS, _STARTS, _CONTEST = 200, 201, 202
_RATE = "adapt.learning_rate"
_FORMAT = "2"  # of what a checkpoint means: 2 has grown candidates, and contests that count size


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """The outcome; `weights` are what the chosen architecture has learnt (see search/inherit.py)."""

    result: SearchResult
    weights: list[LayerWeights]
    spending: Spending


@dataclass(slots=True, eq=False)
class EdgeStage:
    """The state of one adaptation; `run` goes from wherever the checkpoint left it to the outcome.

    Paths are those of `space`, whatever they are there. `cloud`: the identity of what it starts from.
    """

    task: Sitting
    space: EdgeSpace
    adapt: AdaptConfig
    spending: Spending
    cloud: str
    net: Net = field(init=False)
    optimizer: torch.optim.SGD = field(init=False)
    checkpoint: Checkpoint = field(init=False)
    selection: Selection[Any] = field(default_factory=Selection)
    best: list[LayerWeights] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    step: int = 0

    def __post_init__(self) -> None:
        task, adapt = self.task, self.adapt
        self.net = self.space.net.to(task.device)
        self.optimizer = weight_optimizer(self.net, adapt.learning_rate)
        identity = self.space.identity(task.data, task.config, task.seed)
        options = {k: v for k, v in asdict(adapt).items() if k != "cloud"}
        identity |= {"edge stage": _FORMAT, "cloud search": self.cloud}
        identity |= {"[adapt]": repr(sorted(options.items()))}
        self.checkpoint = Checkpoint(task.checkpoint, identity, task.config.checkpoint_seconds)

    @property
    def total(self) -> int:
        spending, adapt = self.spending, self.adapt
        return spending.steps + adapt.candidates + adapt.contestants * spending.contest_steps

    def run(self) -> Adapted:
        if impossible := self.space.impossible():
            return self._outcome(None, impossible)
        pool, nearest = self.space.recentre(self.adapt.focus, self.adapt.candidates, self.task.rng(_STARTS))
        if not pool:
            return self._outcome(None, self.space.explain(nearest))
        self._restore()
        self.selection.cut = pool
        self._tune(pool)
        self._score(pool)
        self._contest()
        return self._outcome(self._leader(), "")

    # -- learning ------------------------------------------------------------------------------------------

    def _tune(self, pool: list[Any]) -> None:
        """Weight steps on the local data: every second one on a candidate, the others near them."""
        task, adapt = self.task, self.adapt
        while self.step < self.spending.steps:
            rng = task.rng(_PATHS, self.step)
            path = pool[int(rng.integers(len(pool)))]
            if self.step % 2:
                path = self.space.near(rng) or path
            batch = draw_batch(task.data.x_train, task.data.y_train, task.config.batch_size, rng)
            lr = cosine(adapt.learning_rate, self.step, self.spending.steps)
            loss = weight_step(self.net, self.optimizer, path, batch, lr, _RATE)
            self.history.append({"step": self.step, "train_loss": loss})
            self.step += 1
            if self.checkpoint.due() or self.step == self.spending.steps:
                self._save()
            task.report("tuning", self.step, self.total, {"train_loss": loss})

    def _score(self, pool: list[Any]) -> None:
        task = self.task
        validation = Validation.of(task.data, self.spending.ranking_images, task.seed)
        for path in pool:
            if path not in self.selection.scored:
                self.selection.scored[path] = validation.accuracy(self.net, path, _RATE)
                if self.checkpoint.due():
                    self._save()
            task.report("ranking", self.spending.steps + len(self.selection.scored), self.total)
        self._save()

    def _entered(self) -> list[Any]:
        """The contestants: half by size, half by shared weights."""
        return first_round(self.selection, self.selection.cut, self.adapt.contestants)

    def _leader(self) -> Any:
        """The best of those that have trained, by accuracy and what the cloud's contests add to it."""
        return self.selection.ranked(self.space.bonus)[0]

    def _contest(self) -> None:
        """Those that `_entered` train alone, side by side where the settings have `workers`.

        The weights of the best so far are kept.
        """
        task, adapt, spending = self.task, self.adapt, self.spending
        proxied, entered = self.selection.proxied, self._entered()
        waiting = [path for path in entered if path not in proxied]
        validation = Validation.of(task.data, spending.contest_images, task.seed)
        start = spending.steps + adapt.candidates + (len(entered) - len(waiting)) * spending.contest_steps
        learnt: dict[Any, list[LayerWeights]] = {}

        def train(path: Any, on_step: Callable[[int], None]) -> float:
            own = copy.deepcopy(self.net)
            train_path(
                own, path, task.data, steps=spending.contest_steps, batch_size=task.config.batch_size,
                lr=adapt.learning_rate, rng=task.rng(_CONTEST), on_step=on_step, rate_name=_RATE,
                checkpoint=training(path),
            )  # fmt: skip
            learnt[path] = self.space.weights(own, path)
            return validation.accuracy(own, path, _RATE)

        def training(path: Any) -> Checkpoint:
            return self.checkpoint.of_training(str(path))

        def done(path: Any, accuracy: float) -> None:
            proxied[path] = accuracy
            weights = learnt.pop(path)
            if self._leader() == path:
                self.best = weights
            self._save()
            training(path).discard()

        train_all(
            waiting, train, task.config, task.device,
            on_step=lambda step: task.report("contest", start + step, self.total), on_done=done,
        )  # fmt: skip

    def _outcome(self, path: Any, reason: str) -> Adapted:
        """Of `path`; None: of nothing, for `reason`."""
        judge = self.space.judge
        config = replace(self.task.config, proxy_steps=self.spending.contest_steps)
        result = SearchResult(
            architecture=judge.architecture(path) if path is not None else None,
            cost=judge.exact(path) if path is not None else None,
            feasible=path is not None,
            reason=reason,
            method=METHOD,
            seed=self.task.seed,
            history=self.history,
            candidates=self.selection.candidates(judge, config, self.space.bonus),
        )
        return Adapted(result, self.best, self.spending)

    # -- checkpoint ----------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.checkpoint.save(
            {
                "step": self.step,
                "net": self.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "selection": self.selection.state(),
                "best": self.best,
                "history": self.history,
            }
        )

    def _restore(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.selection = Selection.from_state(state["selection"])
        self.best = list(state["best"])
        self.history = list(state["history"])
