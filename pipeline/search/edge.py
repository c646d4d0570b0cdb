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
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ConfigError
from pipeline.search.adaptconfig import AdaptConfig, Spending
from pipeline.search.candidates import ExactPath, Judge, impossible_budgets
from pipeline.search.checkpoint import Checkpoint, fingerprint
from pipeline.search.edgepool import centre, gathered, repaired
from pipeline.search.inherit import LayerWeights, inherited
from pipeline.search.methods import Task
from pipeline.search.parallel import train_all
from pipeline.search.relaxation import Relaxation
from pipeline.search.result import SearchResult
from pipeline.search.selection import Selection, capacity_bonus, explain_failure, first_round
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, cosine, draw_batch, train_path, weight_optimizer, weight_step
from pipeline.storage import UNREADABLE

METHOD = "edge stage"
# Random streams (see Task.rng).
_PATHS, _STARTS, _CONTEST = 200, 201, 202
_SLACK, _REDRAWS = 1.1, 8
_RATE = "adapt.learning_rate"
_FORMAT = "2"  # of what a checkpoint means: 2 has grown candidates, and contests that count size


@dataclass(frozen=True, slots=True, eq=False)
class Cloud:
    """What a finished EdgeNAS search left; `identity` is a hash of the checkpoint's content."""

    net: dict[str, Any]
    relaxation: dict[str, Any]
    selection: Selection
    temperature: float
    identity: str
    validation_images: int

    @classmethod
    def load(cls, path: Path, identity: str, temperature: float, steps: int, validation_images: int) -> Cloud:
        """Read the checkpoint `path` of a search of `steps` steps in all.

        Raises ConfigError where it is missing, damaged, of another method than EdgeNAS, or not finished.
        """
        again = "delete search.json in the cloud's folder and run its `edgenas search` again"
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise ConfigError(f"the cloud's checkpoint {path} is missing", hint=again) from error
        except UNREADABLE as error:
            why = (str(error) or "it ends too soon").splitlines()[0].split(". ")[0]
            raise ConfigError(f"the cloud's checkpoint {path} is damaged: {why}", hint=again) from error
        state = stored.get("state") if isinstance(stored, dict) else None
        if not isinstance(state, dict) or not {"net", "relaxation", "selection", "step"} <= state.keys():
            raise ConfigError(
                f"{path} is not the checkpoint of an EdgeNAS search",
                hint='the edge stage starts from a run with method = "edgenas"',
            )
        selection = Selection.from_state(state["selection"])
        if state["step"] < steps or not selection.proxied:
            raise ConfigError(
                f"the cloud search has not finished: step {state['step']} of {steps}"
                + ("" if state["step"] < steps else ", its candidates are not judged yet"),
                hint="run the cloud's `edgenas search` again: it goes on where it stopped",
            )
        return cls(state["net"], state["relaxation"], selection, temperature, identity, validation_images)


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """The outcome; `weights` are what the chosen architecture has learnt (see search/inherit.py)."""

    result: SearchResult
    weights: list[LayerWeights]
    spending: Spending


@dataclass(slots=True, eq=False)
class EdgeStage:
    """The state of one adaptation; `run` goes from wherever the checkpoint left it to the outcome."""

    task: Task
    adapt: AdaptConfig
    cloud: Cloud
    spending: Spending = field(init=False)
    judge: Judge = field(init=False)
    net: Supernet = field(init=False)
    optimizer: torch.optim.SGD = field(init=False)
    relaxation: Relaxation = field(init=False)
    checkpoint: Checkpoint = field(init=False)
    selection: Selection = field(default_factory=Selection)
    best: list[LayerWeights] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    step: int = 0

    def __post_init__(self) -> None:
        task, adapt, cloud = self.task, self.adapt, self.cloud
        self.spending = Spending.plan(adapt, task.config, cloud.validation_images, len(task.data.x_val))
        self.judge = Judge(task.tables, task.cost, task.budgets)
        self.net = Supernet(task.space, task.seed)
        self.relaxation = Relaxation(task.tables)
        other = _another_shape(cloud.net, self.net) or _another_shape(cloud.relaxation, self.relaxation)
        if other:
            raise ConfigError(
                f"the cloud's weights are of another search space: {other}",
                hint="take the space of the cloud run; if it is that one, the checkpoint is not of that run: delete "
                "search.json in the cloud's folder and run its `edgenas search` again",
            )
        self.net.load_state_dict(cloud.net)
        self.relaxation.load_state_dict(cloud.relaxation)
        self.net.to(task.device)
        self.optimizer = weight_optimizer(self.net, adapt.learning_rate)
        identity = fingerprint(task.tables, task.data, task.budgets, task.config, task.seed)
        options = {k: v for k, v in asdict(adapt).items() if k != "cloud"}
        identity |= {"edge stage": _FORMAT, "cloud search": cloud.identity}
        identity |= {"[adapt]": repr(sorted(options.items()))}
        self.checkpoint = Checkpoint(task.checkpoint, identity, task.config.checkpoint_seconds)

    @property
    def total(self) -> int:
        spending, adapt = self.spending, self.adapt
        return spending.steps + adapt.candidates + adapt.contestants * spending.contest_steps

    def run(self) -> Adapted:
        impossible = impossible_budgets(self.judge)
        if impossible:
            return self._outcome(None, impossible)
        pool, nearest = self._recentre()
        if not pool:
            return self._outcome(None, explain_failure(self.judge, nearest))
        self._restore()
        self.selection.cut = pool
        self._tune(pool)
        self._score(pool)
        self._contest()
        return self._outcome(self._leader(), "")

    # -- candidates ----------------------------------------------------------------------------------------

    def _recentre(self) -> tuple[list[ExactPath], ExactPath]:
        """Candidates within the new budgets, largest first; the distribution moves to what the cloud found.

        Also returns the least infeasible path seen, for the explanation where there are none.
        """
        wanted = self.adapt.candidates
        with torch.no_grad():
            ops, widths = self.relaxation.probabilities(self.cloud.temperature)
        logs = [p.double().clamp_min(1e-12).log().numpy() for p in (ops, widths)]
        likelihood = partial(self.judge.log_probability, log_ops=logs[0], log_widths=logs[1])
        ranked = self.cloud.selection.ranked(self._bonus)
        mended, nearest = repaired(self.judge, ranked[: 2 * wanted], *logs)
        centre(self.relaxation, mended, ops.numpy(), widths.numpy(), self.adapt.focus)
        pool, missed = gathered(
            self.judge, self.relaxation, mended, wanted, likelihood, self.task.rng(_STARTS)
        )
        if self.judge.violation(missed) < self.judge.violation(nearest):
            nearest = missed
        return pool, nearest

    # -- learning ------------------------------------------------------------------------------------------

    def _tune(self, pool: list[ExactPath]) -> None:
        """Weight steps on the local data: every second one on a candidate, the others near them."""
        task, adapt = self.task, self.adapt
        while self.step < self.spending.steps:
            rng = task.rng(_PATHS, self.step)
            path = list(pool[int(rng.integers(len(pool)))])
            if self.step % 2:
                for _ in range(_REDRAWS):
                    drawn = self.relaxation.sample(1.0, rng)[0]
                    if self.judge.roughly_within(drawn, _SLACK):
                        path = drawn
                        break
            batch = draw_batch(task.data.x_train, task.data.y_train, task.config.batch_size, rng)
            lr = cosine(adapt.learning_rate, self.step, self.spending.steps)
            loss = weight_step(self.net, self.optimizer, path, batch, lr, _RATE)
            self.history.append({"step": self.step, "train_loss": loss})
            self.step += 1
            if self.checkpoint.due() or self.step == self.spending.steps:
                self._save()
            task.report("tuning", self.step, self.total, {"train_loss": loss})

    def _score(self, pool: list[ExactPath]) -> None:
        task = self.task
        validation = Validation.of(task.data, self.spending.ranking_images, task.seed)
        for path in pool:
            if path not in self.selection.scored:
                self.selection.scored[path] = validation.accuracy(self.net, path, _RATE)
                if self.checkpoint.due():
                    self._save()
            task.report("ranking", self.spending.steps + len(self.selection.scored), self.total)
        self._save()

    def _bonus(self, path: ExactPath) -> float:
        """What the cloud's contests add for size: trainings as short as the edge stage's favour what is small."""
        return capacity_bonus(self.judge, self.task.config.sharing.capacity)(path)

    def _entered(self) -> list[ExactPath]:
        """The contestants: half by size, half by shared weights."""
        return first_round(self.selection, self.selection.cut, self.adapt.contestants)

    def _leader(self) -> ExactPath:
        """The best of those that have trained, by accuracy and size."""
        return self.selection.ranked(self._bonus)[0]

    def _contest(self) -> None:
        """Those that `_entered` train alone, side by side where the settings have `workers`.

        The weights of the best so far are kept.
        """
        task, adapt, spending = self.task, self.adapt, self.spending
        proxied, entered = self.selection.proxied, self._entered()
        waiting = [path for path in entered if path not in proxied]
        validation = Validation.of(task.data, spending.contest_images, task.seed)
        start = spending.steps + adapt.candidates + (len(entered) - len(waiting)) * spending.contest_steps
        learnt: dict[ExactPath, list[LayerWeights]] = {}

        def train(path: ExactPath, on_step: Callable[[int], None]) -> float:
            own = copy.deepcopy(self.net)
            train_path(
                own, path, task.data, steps=spending.contest_steps, batch_size=task.config.batch_size,
                lr=adapt.learning_rate, rng=task.rng(_CONTEST), on_step=on_step, rate_name=_RATE,
                checkpoint=training(path),
            )  # fmt: skip
            learnt[path] = inherited(own, path)
            return validation.accuracy(own, path, _RATE)

        def training(path: ExactPath) -> Checkpoint:
            return self.checkpoint.of_training(str(path))

        def done(path: ExactPath, accuracy: float) -> None:
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

    def _outcome(self, path: ExactPath | None, reason: str) -> Adapted:
        config = replace(self.task.config, proxy_steps=self.spending.contest_steps)
        result = SearchResult(
            architecture=self.judge.architecture(path) if path is not None else None,
            cost=self.judge.exact(path) if path is not None else None,
            feasible=path is not None,
            reason=reason,
            method=METHOD,
            seed=self.task.seed,
            history=self.history,
            candidates=self.selection.candidates(self.judge, config, self._bonus),
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


def _another_shape(stored: dict[str, Any], module: torch.nn.Module) -> str:
    """The first tensor of `stored` that `module` has not, or has in another shape, or lacks; empty: all fit."""
    ours = module.state_dict()
    for name in dict.fromkeys([*ours, *stored]):
        there, here = (tuple(s[name].shape) if name in s else None for s in (stored, ours))
        if there != here:
            said = ["missing" if shape is None else "x".join(map(str, shape)) for shape in (there, here)]
            return f"{name} is {said[0]} there and {said[1]} here"
    return ""
