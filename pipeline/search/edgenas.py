"""EdgeNAS: differentiable, hardware-aware search over a weight-sharing supernet, one path at a time.

Weights learn on the training split, architecture parameters on the validation split, in alternation; the
architecture's loss is CE and an augmented Lagrangian of the budgets (search/penalty.py), with the answer's
latency and memory and the gradients of their expectations. What follows chooses one architecture
(search/progressive.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.search.ablation import MacProxy
from pipeline.search.candidates import ExactPath, anchor_path, impossible_budgets
from pipeline.search.checkpoint import Checkpoint, fingerprint
from pipeline.search.costs import build_tables
from pipeline.search.exitsearch import Trained, judge_of, train_alone
from pipeline.search.methods import Task, register
from pipeline.search.parallel import train_all
from pipeline.search.penalty import Penalty
from pipeline.search.progressive import FINAL, Progressive
from pipeline.search.projection import project
from pipeline.search.relaxation import IndexPath, Relaxation
from pipeline.search.result import Candidate, SearchResult
from pipeline.search.sandwich import sandwich
from pipeline.search.selection import Selection, capacity_bonus, goal_missed
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import (
    Validation,
    choice_rate,
    cosine,
    diverged,
    draw_batch,
    gradient_norm,
    shared_step,
    weight_optimizer,
)

# Random streams (see Task.rng); search/progressive.py has others.
_WEIGHTS, _ARCHITECTURE, _STARTS, _MUTATION, _PROXY = range(5)
# Weight steps run only paths whose cost is near the budgets: what lies far beyond will not be chosen.
_SLACK, _REDRAWS = 1.25, 8
# Logits of the anchor's choices at the start, those of the others being 0.
_HEAD_START = 1.0


class EdgeNas:
    """The state of one search; `run` goes from wherever the checkpoint left it to the result."""

    def __init__(self, task: Task) -> None:
        self.task = task
        config = task.config
        self.judge = judge_of(task)
        self.net = Supernet(task.space, task.seed, config.sharing.identity).to(task.device)
        self.relaxation = Relaxation(task.tables)
        self.relaxation.prefer(anchor_path(self.judge), _HEAD_START)
        self.weights = weight_optimizer(self.net, config.weight_lr)
        # Short memories: the penalty's gradient is large while a budget is broken, and must not keep the
        # step size small long after.
        self.architecture = torch.optim.Adam(
            self.relaxation.parameters(), lr=config.architecture_lr, betas=(0.5, 0.98)
        )
        self.penalty = Penalty.start(task.budgets, config)
        self.selection = Selection[ExactPath]()
        self.history: list[dict[str, float]] = []
        self.step = 0
        identity = fingerprint(task.tables, task.data, task.budgets, config, task.seed)
        self.checkpoint = Checkpoint(task.checkpoint, identity, config.checkpoint_seconds)

    @property
    def total(self) -> int:
        config = self.task.config
        # shared weights look at whoever trains, too
        search = config.warmup_steps + config.steps + max(config.candidates, config.semifinalists)
        semifinal = config.semifinalists * config.semifinal_steps
        return search + semifinal + config.finalists * config.proxy_steps

    def run(self) -> SearchResult:
        impossible = impossible_budgets(self.judge)
        if impossible:
            return self._result(None, impossible)
        self._restore()
        self._train()
        return self._select()

    # -- supernet ------------------------------------------------------------------------------------------

    def _train(self) -> None:
        config, task = self.task.config, self.task
        total = config.warmup_steps + config.steps
        while self.step < total:
            searching = self.step >= config.warmup_steps
            temperature = self._temperature(self.step)
            train_loss = self._weight_step(temperature, cosine(config.weight_lr, self.step, total))
            record: dict[str, float] = {"train_loss": train_loss}
            if searching:
                record = {"step": self.step - config.warmup_steps, **record}
                record |= self._architecture_step(temperature)
                self.history.append(record)
            self.step += 1
            if self.checkpoint.due() or self.step == total:
                self._save()
            task.report("search" if searching else "warm-up", self.step, self.total, record)

    def _temperature(self, step: int) -> float:
        """Exponential annealing over the alternations."""
        config = self.task.config
        done = max(0, step - config.warmup_steps) / max(1, config.steps - 1)
        return float(config.temperature_start * (config.temperature_end / config.temperature_start) ** done)

    def _weight_step(self, temperature: float, lr: float) -> float:
        task, sharing = self.task, self.task.config.sharing
        rng = task.rng(_WEIGHTS, self.step)
        paths: list[IndexPath | ExactPath] = [
            self._drawn(temperature, rng) for _ in range(max(1, sharing.sandwich))
        ]
        if sharing.sandwich:
            paths = sandwich(self.judge, paths, _SLACK, rng)
        batch = draw_batch(task.data.x_train, task.data.y_train, task.config.batch_size, rng)
        return shared_step(self.net, self.weights, paths, batch, lr, sharing.distill)

    def _drawn(self, temperature: float, rng: np.random.Generator) -> IndexPath:
        """A path around the centre, near the budgets if a few attempts find one."""
        with torch.no_grad():
            for _ in range(_REDRAWS):
                path, _gates = self.relaxation.sample(temperature, rng)
                path, _left = self._leave_centre(path, rng)
                if self.judge.roughly_within(path, _SLACK):
                    break
        return path

    def _freedom(self) -> float:
        """How probable it is that a block of a drawn path leaves the centre; grows during the warm-up."""
        config = self.task.config
        return config.freedom * min(1.0, (self.step + 1) / max(1, config.warmup_steps))

    def _centre(self) -> ExactPath:
        """The path around which others are drawn: the most probable one."""
        return self.judge.canonical(self.relaxation.argmax())

    def _leave_centre(
        self, path: IndexPath, rng: np.random.Generator, *, at_least: int = 0
    ) -> tuple[IndexPath, list[int]]:
        """The centre with some of its blocks, whose numbers come along, as in `path`."""
        leave = rng.random(len(path)) < self._freedom()
        if leave.sum() < at_least:
            leave[rng.permutation(len(path))[:at_least]] = True
        mixed = [free if go else fixed for free, fixed, go in zip(path, self._centre(), leave, strict=True)]
        return mixed, [int(block) for block in np.flatnonzero(leave)]

    def _architecture_step(self, temperature: float) -> dict[str, float]:
        task = self.task
        rng = task.rng(_ARCHITECTURE, self.step)
        batch = draw_batch(task.data.x_val, task.data.y_val, task.config.validation_batch_size, rng)
        self.architecture.zero_grad(set_to_none=True)
        expected = self.relaxation.expected(temperature)
        # The budgets bind the answer, not the spread around it: its cost, with the expectation's gradient.
        answer = self.relaxation.answer(expected)
        schedule = self.penalty.record()
        if task.config.gradient == "score":
            surrogate, loss, accuracy = self._score_gradient(temperature, rng, batch)
        else:
            surrogate, loss, accuracy = self._straight_through(temperature, rng, batch)
        self._follow(surrogate + self.penalty.loss(answer), batch[0], "search.architecture_lr")
        self.penalty.update(answer)
        return {
            "val_loss": loss,
            "val_accuracy": accuracy,
            "latency_ms": expected.latency_ms.item(),
            "answer_latency_ms": answer.latency_ms.item(),
            "sram_bytes": expected.sram_bytes.item(),
            "flash_bytes": expected.flash_bytes.item(),
            "parameters": expected.parameters.item(),
            **schedule,
            "temperature": temperature,
            "entropy": self.relaxation.entropy(temperature),
        }

    def _follow(self, loss: Tensor, images: Tensor, rate: str) -> None:
        """A step of what chooses along the gradient of `loss`.

        Raises ConfigError where that is not finite, before the step: the supernet's first layer that is to blame on
        `images`, or the choices and `rate`, the setting of their learning rate.
        """
        loss.backward()
        norm = gradient_norm(p for group in self.architecture.param_groups for p in group["params"])
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.architecture.step()
            return
        what = (
            f"the loss is {loss.item()}"
            if not torch.isfinite(loss)
            else f"its gradient's norm is {norm.item()}"
        )
        lower = choice_rate(rate, loss)
        raise diverged(self.net, self._centre(), images, what, choices=lower)

    def _score_gradient(
        self, temperature: float, rng: Any, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, float, float]:
        """Score-function estimate: sampled paths against the centre, on one batch; forward passes only.

        A sample's blocks that stayed with the centre say nothing about the distribution, so only the others'
        probabilities count. (The gates' gradient of a single path is nearly zero here: the normalization after
        the next convolution undoes any scaling of a block's output.)
        """
        samples: list[tuple[IndexPath, list[int]]] = [(list(self._centre()), [])]
        with torch.no_grad():
            for _ in range(self.task.config.paths - 1):
                drawn, _gates = self.relaxation.sample(temperature, rng)
                samples.append(self._leave_centre(drawn, rng, at_least=1))
        losses, hits = self.compared([path for path, _ in samples], batch)
        count = len(samples)
        surrogate = torch.zeros(())
        for (path, left), loss in zip(samples[1:], losses[1:], strict=True):
            chance = self.relaxation.log_probability(path, temperature, left)
            surrogate = surrogate + (loss - losses[0]) * chance / (count - 1)
        return surrogate, sum(losses) / count, sum(hits) / count

    def compared(
        self, paths: Sequence[IndexPath], batch: tuple[Tensor, Tensor]
    ) -> tuple[list[float], list[float]]:
        """Loss and accuracy of each path on a batch. A GPU is waited for once, at the end."""
        with torch.no_grad():
            outputs = [self.net(batch[0], path) for path in paths]
            losses = [F.cross_entropy(logits, batch[1]) for logits in outputs]
            hits = [(logits.argmax(1) == batch[1]).float().mean() for logits in outputs]
            found: list[float] = torch.stack([*losses, *hits]).tolist()
        return found[: len(paths)], found[len(paths) :]

    def _straight_through(
        self, temperature: float, rng: Any, batch: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, float, float]:
        """Validation loss of one hard sample, differentiable through its gates."""
        path, (ops, widths) = self.relaxation.sample(temperature, rng)  # on the CPU, as all that is relaxed
        device = self.task.device
        logits = self.net(batch[0], path, (ops.to(device), widths.to(device)))
        loss = F.cross_entropy(logits, batch[1])
        hits = (logits.argmax(1) == batch[1]).float().mean()
        seen = torch.stack([loss, hits]).cpu()  # a GPU is waited for once
        return seen[0], seen[0].item(), seen[1].item()

    # -- selection -----------------------------------------------------------------------------------------

    def _select(self) -> SearchResult:
        config = self.task.config
        path, reason = Progressive(
            self.task, self.judge, self.net, self.relaxation, self.selection, self._contest, self._save,
            self.checkpoint.due, config.warmup_steps + config.steps, self.total,
        ).run()  # fmt: skip
        return self._result(path, reason, config.sharing.capacity if path is not None else 0.0)

    def _contest(
        self,
        phase: str,
        paths: list[ExactPath],
        accuracies: dict[ExactPath, float],
        steps: int,
        remaining: int,
        validation: Validation,
    ) -> None:
        """Train each path for `steps`, all on the same batches; `remaining` steps follow this contest.

        From scratch, as the baselines and the full training do: a few steps from shared weights favour what the
        supernet saw often. Where the settings say so, all but a final start from these.
        """
        task = self.task
        net = self.net
        if phase == FINAL or not task.config.selection.shared:
            net = Supernet(task.space, task.seed).to(task.device)
        waiting = [path for path in paths if path not in accuracies]
        start = self.total - remaining - len(waiting) * steps

        def train(path: ExactPath, on_step: Callable[[int], None]) -> Trained:
            return train_alone(
                net, path, task, self.judge, validation,
                steps=steps, rng=task.rng(_PROXY), on_step=on_step, checkpoint=training(path),
            )  # fmt: skip

        def training(path: ExactPath) -> Checkpoint:
            return self.checkpoint.of_training(self._training_name(phase, path))

        def done(path: ExactPath, trained: Trained) -> None:
            accuracies[path] = trained.accuracy
            if trained.exits is not None:
                self.selection.exits[path] = trained.exits
            self._save()
            training(path).discard()

        train_all(
            waiting, train, task.config, task.device,
            on_step=lambda step: task.report(phase, start + step, self.total), on_done=done,
        )  # fmt: skip

    def _training_name(self, phase: str, path: ExactPath) -> str:
        return f"{phase} {path}"

    def shared_accuracy(self, path: ExactPath) -> float:
        """Of any path, as the search's candidates are ranked."""
        task = self.task
        return Validation.of(task.data, task.config.ranking_images, task.seed).accuracy(self.net, path)

    def train_late(self, paths: Sequence[ExactPath]) -> dict[ExactPath, float]:
        """What the final would have said of `paths`. Progress counts on; an interrupted search begins these anew."""
        task, config = self.task, self.task.config
        net = Supernet(task.space, task.seed).to(task.device)
        everything = Validation.of(task.data, len(task.data.x_val), task.seed)
        accuracies: dict[ExactPath, float] = {}
        total = self.total + len(paths) * config.proxy_steps

        def train(path: ExactPath, on_step: Callable[[int], None]) -> float:
            return train_alone(
                net, path, task, self.judge, everything,
                steps=config.proxy_steps, rng=task.rng(_PROXY), on_step=on_step,
            ).accuracy  # fmt: skip

        train_all(
            paths, train, config, task.device,
            on_step=lambda step: task.report(FINAL, self.total + step, total), on_done=accuracies.__setitem__,
        )  # fmt: skip
        return accuracies

    def _result(self, path: ExactPath | None, reason: str, capacity: float = 0.0) -> SearchResult:
        bonus = capacity_bonus(self.judge, capacity, self.selection.exits)
        if path is not None and (missed := goal_missed(self.selection, self.judge, path)):
            path, reason = None, missed
        architecture, cost = self.selection.found(self.judge, path) if path is not None else (None, None)
        return SearchResult(
            architecture=architecture,
            cost=cost,
            feasible=path is not None,
            reason=reason,
            method=self.task.config.method,
            seed=self.task.seed,
            history=self.history,
            candidates=self.selection.candidates(self.judge, self.task.config, bonus),
            relaxed=self._relaxed() if self.history else None,
        )

    def _relaxed(self) -> Candidate:
        path = self.judge.canonical(self.relaxation.argmax())
        return Candidate(self.judge.architecture(path), self.judge.exact(path))

    # -- checkpoint ----------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.checkpoint.save(self._state())

    def _restore(self) -> None:
        state = self.checkpoint.load()
        if state is not None:
            self._take_up(state)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "weights": self.weights.state_dict(),
            "relaxation": self.relaxation.state_dict(),
            "architecture": self.architecture.state_dict(),
            "penalty": self.penalty.state_dict(),
            "history": self.history,
            "selection": self.selection.state(),
        }

    def _take_up(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.weights.load_state_dict(state["weights"])
        self.relaxation.load_state_dict(state["relaxation"])
        self.architecture.load_state_dict(state["architecture"])
        # earlier versions had coefficients alone
        self.penalty.load_state_dict(state.get("penalty", {"coefficients": state.get("coefficients", {})}))
        self.history = list(state["history"])
        self.selection = Selection.from_state(state["selection"])


@register("edgenas")
def edgenas(task: Task) -> SearchResult:
    """Supernet, relaxed search, exact selection."""
    if task.config.ablation.guide == "table":
        return EdgeNas(task).run()
    proxy = MacProxy(task.cost, task.space, task.seed)
    guided = replace(
        task,
        targets=(replace(task.targets[0], cost=proxy), *task.targets[1:]),
        tables=build_tables(task.space, proxy),
    )
    searched = EdgeNas(guided)
    return project(searched.run(), task, searched.shared_accuracy, searched.train_late)
