"""HW-DARTS in cell spaces: a supernet of single paths, then an alpha for each multiplier over its frozen weights.

The loss of an alpha is CE + lambda LAT(alpha) / T, as in spaces of blocks (hwdarts.py). The weights learn along one
path a step whose operators' shares are drawn uniformly, so that networks of few and of many convolutions are ready
when an alpha asks for them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.search.cell_costs import EdgePath
from pipeline.search.cell_relaxation import CellRelaxation
from pipeline.search.cell_search import SAMPLES, CellSearch
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.conditions import draw_complexity
from pipeline.search.config import SearchConfig
from pipeline.search.effort import cell_member_steps
from pipeline.search.lambdasweep import LambdaSweep, members
from pipeline.search.result import SearchResult
from pipeline.search.trainer import (
    choice_rate,
    cosine,
    diverged,
    draw_batch,
    gradient_norm,
    weight_optimizer,
    weight_step,
)

_WEIGHTS, _ALPHA = 204, 205  # random streams
# Weight steps run only paths whose cost is near the budgets, as EdgeNAS' do.
_SLACK, _REDRAWS = 1.25, 8
_ATTEMPTS = 12  # for each sample wanted
Batch: TypeAlias = tuple[Tensor, Tensor]
# What has the gradient of the validation loss; that loss; accuracy; a path that was looked at.
Estimate: TypeAlias = tuple[Tensor, float, float, EdgePath]
_PARTS = ("net", "weights", "relaxation", "architecture")


class CellHwDarts(CellSearch, LambdaSweep):
    """One search on one device; `run` is called once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.net = CellSupernet(self.space, self.seed).to(self.device)
        self.weights = weight_optimizer(self.net, self.config.weight_lr)
        self._restart()
        self.step = 0
        self.found: list[list[EdgePath]] = []
        self.nearest: EdgePath = ()
        with torch.no_grad():
            undecided = self.relaxation.expected(self.config.temperature_start).latency_ms.item()
        self.unit_ms = self.budgets.latency_ms or undecided  # of lambda

    @property
    def settings(self) -> SearchConfig:
        return self.config

    @property
    def member_steps(self) -> int:
        return cell_member_steps(self.config, len(self.space.ops), len(self.data.x_val))

    @property
    def total(self) -> int:
        return self.weight_steps + len(self.config.hwdarts.lambdas) * (self.steps_each + self.member_steps)

    def _search(self) -> SearchResult:
        self._restore()
        self._sweep()
        if not any(self.found):
            return self._result(self.judge.explain(self.nearest))
        for path in dict.fromkeys(path for paths in self.found for path in paths):
            if path not in self.shared:
                self.shared[path] = self._accuracy(self.net, path, self.config.ranking_images)
        before = self.weight_steps + len(self.config.hwdarts.lambdas) * self.steps_each
        for place, path in enumerate(members(self.found, self.shared, self.judge)):
            if path not in self.own:
                steps = self.member_steps
                self.own[path] = self._alone(self.net, path, steps, before + place * steps, self.total)
                self._save()
                self._training(path).discard()
        return self._result("")

    # -- steps ---------------------------------------------------------------------------------------------

    def _weights_learn(self) -> float:
        config, data = self.config, self.data
        rng = np.random.default_rng([self.seed, _WEIGHTS, self.step])
        for _ in range(_REDRAWS):
            path = self._drawn(rng)
            if self.judge.roughly_within(path, _SLACK):
                break
        batch = draw_batch(data.x_train, data.y_train, config.batch_size, rng)
        rate = cosine(config.weight_lr, self.step, self.weight_steps)
        return weight_step(self.net, self.weights, path, batch, rate)

    def _drawn(self, rng: np.random.Generator) -> EdgePath:
        """Operators by shares that are drawn uniformly from the simplex."""
        ops = len(self.space.ops)
        return tuple(map(int, rng.choice(ops, size=self.space.positions, p=draw_complexity(ops, rng))))

    def _restart(self) -> None:
        self.relaxation = CellRelaxation(self.judge.tables)
        # short memories, as EdgeNAS'
        self.architecture = torch.optim.Adam(
            self.relaxation.parameters(), lr=self.config.architecture_lr, betas=(0.5, 0.98)
        )

    def _lambda_step(self, weight: float, done: int) -> dict[str, float]:
        """One step on alpha. Every lambda sees the same batches and draws, so that they compare."""
        config, data, relaxation = self.config, self.data, self.relaxation
        temperature = self._annealed(done)
        rng = np.random.default_rng([self.seed, _ALPHA, done])
        batch = draw_batch(data.x_val, data.y_val, config.validation_batch_size, rng)
        self.architecture.zero_grad(set_to_none=True)
        estimate = self._score_gradient if config.gradient == "score" else self._straight_through
        surrogate, loss, accuracy, path = estimate(temperature, rng, batch)
        expected = relaxation.expected(temperature)
        self._follow(surrogate + weight / self.unit_ms * expected.latency_ms, batch[0], path)
        entropy = relaxation.entropy(temperature)
        return self._record(weight, loss, accuracy, expected, temperature, entropy)

    def _score_gradient(self, temperature: float, rng: np.random.Generator, batch: Batch) -> Estimate:
        """Sampled paths, each against the mean of the others; forward passes only."""
        paths = [self.relaxation.sample(temperature, rng)[0] for _ in range(self.config.paths)]
        with torch.no_grad():
            outputs = [self.net(batch[0], path).float() for path in paths]
            losses = [F.cross_entropy(logits, batch[1]) for logits in outputs]
            hits = [(logits.argmax(1) == batch[1]).float().mean() for logits in outputs]
            found = torch.stack([torch.stack(losses), torch.stack(hits)]).cpu()  # a GPU is waited for once
        mean, count = found[0].mean(), len(paths)
        surrogate = torch.zeros(())
        for path, loss in zip(paths, found[0], strict=True):
            chance = self.relaxation.log_probability(path, temperature)
            surrogate = surrogate + (loss - mean) * chance / (count - 1)
        return surrogate, mean.item(), found[1].mean().item(), paths[0]

    def _straight_through(self, temperature: float, rng: np.random.Generator, batch: Batch) -> Estimate:
        """Validation loss of one hard sample, differentiable through its gates."""
        path, gates = self.relaxation.sample(temperature, rng)  # on the CPU, as all that is relaxed
        self.net.requires_grad_(False)  # nobody asks for the gradient of its weights
        logits = self.net(batch[0], gates.to(self.device)).float()
        self.net.requires_grad_(True)
        loss = F.cross_entropy(logits, batch[1])
        hits = (logits.argmax(1) == batch[1]).float().mean()
        seen = torch.stack([loss, hits]).cpu()
        return seen[0], seen[0].item(), seen[1].item(), path

    def _follow(self, loss: Tensor, images: Tensor, path: EdgePath) -> None:
        """A step of alpha. Raises ConfigError, before it, where loss or gradient are not finite."""
        loss.backward()
        norm = gradient_norm(self.relaxation.parameters())
        if not torch.isfinite(loss) or not torch.isfinite(norm):
            what = f"the loss is {loss.item()}, its gradient's norm {norm.item()}"
            lower = choice_rate("search.architecture_lr", loss)
            raise diverged(self.net, path, images, what, choices=lower)
        self.architecture.step()

    def _paths(self, index: int) -> list[EdgePath]:
        """The most probable path, then samples, every second one grown; all repaired."""
        config, judge = self.config, self.judge
        rng = np.random.default_rng([self.seed, SAMPLES, index])
        wanted = max(1, config.candidates // len(config.hwdarts.lambdas))
        found: dict[EdgePath, None] = {}
        for attempt in range(_ATTEMPTS * wanted):
            path = self.relaxation.repaired(judge, config.temperature_end, rng if attempt else None)
            if attempt % 2 and judge.feasible(path):
                path = judge.grown(path, rng)
            if judge.feasible(path):
                found[path] = None
            elif not self.nearest or judge.violation(path) < judge.violation(self.nearest):
                self.nearest = path
            if len(found) >= wanted:
                break
        return list(found)

    # -- progress and checkpoint -----------------------------------------------------------------------------

    def _tell(self, phase: str, record: dict[str, float]) -> None:
        self._report(phase, self.step, self.total, record)

    def _due(self) -> bool:
        return self.store.due()

    def _state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        found = [[list(path) for path in paths] for paths in self.found]
        place = {"step": self.step, "history": self.history, "found": found, "nearest": list(self.nearest)}
        return {**super()._state(), **parts, **place}

    def _take_up(self, state: dict[str, Any]) -> None:
        super()._take_up(state)
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.history = state["step"], list(state["history"])
        self.found = [[tuple(path) for path in paths] for paths in state["found"]]
        self.nearest = tuple(state["nearest"])
