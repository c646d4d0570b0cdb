"""Hypernetwork search in cell spaces: DARTS-CC's, its hypernetwork asked for budgets and a board as well.

Weights and H_a learn together from one loss on training images, CE(gamma) plus hyperloss.regularizer: every edge is the
sum of its operators weighted by gamma ~ Gumbel-Softmax, of a condition that each step draws (see docs/search.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.search.cell_costs import CellJudge, CellTables, EdgePath
from pipeline.search.cell_hypernetwork import ConditionedCells
from pipeline.search.cell_search import SAMPLES, CellSearch, clip
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.conditions import Condition, Ranges
from pipeline.search.energy import with_energy
from pipeline.search.familysearch import FamilySearch
from pipeline.search.hyperfamily import ServedBoard, digest, draw_condition
from pipeline.search.hyperloss import regularizer
from pipeline.search.request import not_trained
from pipeline.search.result import SearchResult
from pipeline.search.targets import Target, cell_features
from pipeline.search.trainer import cosine, diverged, draw_batch, gradient_norm, weight_optimizer

# Random streams: of a step, and of conditions: this, and those after it for further draws of a step.
_STEP, _CONDITION = 200, 220
_PARTS = ("net", "relaxation", "weights", "architecture")


class CellHyperSearch(CellSearch, FamilySearch[CellJudge]):
    """One search on one device; either `run` or `ask` is called, once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        config, hyper = self.config, self.config.hyper
        first = self._served(self.targets[0], self.judge.tables)
        self.boards = [first, *map(self.serve, self.targets[1:])]
        self.net = CellSupernet(self.space, self.seed).to(self.device)
        self.relaxation = ConditionedCells(
            [board.judge.tables for board in self.boards],
            [board.ranges for board in self.boards],
            [board.features for board in self.boards],
            hidden=hyper.hidden,
            seed=self.seed + 1,
        )
        self.weights = weight_optimizer(self.net, config.weight_lr)
        self.architecture = torch.optim.Adam(self.relaxation.parameters(), lr=hyper.lr)
        self.step = 0
        self.store.identity["boards"] = digest(self.boards)

    @property
    def steps(self) -> int:
        return self.config.warmup_steps + self.config.steps

    @property
    def total(self) -> int:
        return self.steps + self.config.semifinalists * self.member_steps

    # -- training ------------------------------------------------------------------------------------------

    def _search(self) -> SearchResult:
        self._restore()
        self.train()
        return self.families()

    def train(self) -> None:
        """From wherever the checkpoint left it."""
        warmup = self.config.warmup_steps
        while self.step < self.steps:
            record = self._train_step()
            if self.step >= warmup:
                self.history.append(record)
            self.step += 1
            if self.store.due() or self.step == self.steps:
                self._save()
            self._report("search" if self.step > warmup else "warm-up", self.step, self.total, record)

    def condition(self, draw: int = 0) -> Condition:
        """Of this step."""
        return draw_condition(self.boards, np.random.default_rng([self.seed, _CONDITION + draw, self.step]))

    def _train_step(self) -> dict[str, float]:
        config, hyper, relaxation, step = self.config, self.config.hyper, self.relaxation, self.step
        rng = np.random.default_rng([self.seed, _STEP, step])
        done = max(0, step - config.warmup_steps) / max(1, config.steps - 1)
        t = hyper.temperature_start + (hyper.temperature_end - hyper.temperature_start) * done
        condition = self.condition()
        relaxation.ask(condition)
        gamma = relaxation.gamma(t, rng).to(self.device)
        x, y = draw_batch(self.data.x_train, self.data.y_train, config.batch_size, rng)
        net_loss = F.cross_entropy(self.net(x, gamma).float(), y)
        expected, entropy = relaxation.expected(), relaxation.entropy()
        asked_for = self._regularizer(condition, t)
        for draw in range(1, hyper.conditions):
            other = self.condition(draw)
            relaxation.ask(other)
            asked_for = asked_for + self._regularizer(other, t)
        task_loss = net_loss.cpu()  # what is relaxed stays on the CPU; a GPU has computed meanwhile
        loss = task_loss + asked_for / hyper.conditions
        if not torch.isfinite(loss):
            rate = "search.weight_lr" if torch.isfinite(gamma).all() else "search.hyper.lr"
            # where the net's part is finite it is what the conditions ask for that is not
            asked = "search.hyper.lr" if torch.isfinite(task_loss) else ""
            raise diverged(self.net, gamma, x, f"the loss is {loss.item()}", rate, choices=asked)
        for group in self.weights.param_groups:
            group["lr"] = cosine(config.weight_lr, step, self.steps)
        self.weights.zero_grad(set_to_none=True)
        self.architecture.zero_grad(set_to_none=True)
        loss.backward()
        clip(self.net, gamma, x)
        norm = gradient_norm(relaxation.parameters())
        if not torch.isfinite(norm):
            what = f"the norm of the hypernetwork's gradient is {norm.item()}"
            # it comes through the net: its weights may have grown too large without a value that is not finite
            raise diverged(self.net, gamma, x, what, "search.hyper.lr or search.weight_lr")
        self.weights.step()
        if step >= config.warmup_steps:
            self.architecture.step()
        return {
            "step": step - config.warmup_steps,
            "train_loss": task_loss.item(),
            "latency_ms": expected.latency_ms.item(),
            "sram_bytes": expected.sram_bytes.item(),
            "flash_bytes": expected.flash_bytes.item(),
            "parameters": expected.parameters.item(),
            "asked_latency_ms": float(condition.budgets.latency_ms or 0.0),
            "board": condition.board,
            "temperature": t,
            "entropy": entropy,
        }

    def _regularizer(self, condition: Condition, temperature: float) -> Tensor:
        relaxation, longest = self.relaxation, self.boards[condition.board].ranges.high[0]
        return regularizer(
            self.config.hyper, condition, relaxation, relaxation.expected(), longest, temperature
        )

    # -- the family ----------------------------------------------------------------------------------------

    @property
    def emitter(self) -> ConditionedCells:
        return self.relaxation

    def serve(self, target: Target) -> ServedBoard[CellJudge]:
        return self._served(target, CellTables.of(self.space, target.cost))

    def _served(self, target: Target, tables: CellTables) -> ServedBoard[CellJudge]:
        budgets = with_energy(target.budgets, target.cost, self.space)
        judge = CellJudge(tables, target.cost, budgets)
        features = cell_features(tables, target.clock_hz)
        served = Target(target.name, target.cost, budgets, target.clock_hz)
        return ServedBoard(served, judge, cell_ranges(judge, self.seed), features)

    def accuracies(self) -> tuple[dict[EdgePath, float], dict[EdgePath, float]]:
        return self.shared, self.own

    def promise(self, path: EdgePath, shared: float) -> float:
        """Multiply-accumulates: after some hundred steps shared weights order cells the wrong way round, and size
        tells as much as a short training (tau -0.3 and +0.6, benchmarks/results/search_methods.md)."""
        return float(self.judge.architecture(path).lower().macs)

    def _rank(self, paths: Sequence[EdgePath]) -> None:
        for path in paths:
            if path not in self.shared:
                self.shared[path] = self._accuracy(self.net, path, self.config.ranking_images)
        self._save()

    def _train_alone(self, paths: list[EdgePath], steps: int) -> None:
        for place, path in enumerate(paths):
            if path not in self.own:
                self.own[path] = self._alone(self.net, path, steps, self.steps + place * steps, self.total)
                self._save()
                self._training(path).discard()

    def _take_trained(self) -> None:
        self._restore()
        if self.store.path is None or self.step < self.steps:
            raise not_trained()
        self.shared, self.own, self.history = {}, {}, []
        self.store.path = None

    def _sweep_rng(self, place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, SAMPLES, place])

    def _impossible(self, judge: CellJudge) -> str:
        return judge.impossible()

    def _explain(self, judge: CellJudge, nearest: EdgePath) -> str:
        return judge.explain(nearest)

    def _without(self, reason: str) -> SearchResult:
        return self._result(reason)

    # -- checkpoint ----------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        first = self.boards[0]
        # how the run's board was told to the hypernetwork, for the edge stage
        told = {"low": first.ranges.low, "high": first.ranges.high, "features": first.features.tolist()}
        return {
            **super()._state(), **parts, "step": self.step, "history": self.history, "told": told,
            "shared": [(list(p), a) for p, a in self.shared.items()],
        }  # fmt: skip

    def _take_up(self, state: dict[str, Any]) -> None:
        super()._take_up(state)
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.history = state["step"], list(state["history"])
        # earlier versions did not keep them
        self.shared = {tuple(p): a for p, a in state.get("shared", [])}


def cell_ranges(judge: CellJudge, seed: int, samples: int = 64) -> Ranges:
    """Between one operator on every edge, the fastest and the slowest on each, and `samples` random architectures."""
    space, tables = judge.tables.space, judge.tables
    rng = np.random.default_rng([seed, 0x4E5])
    ends = [(op,) * space.positions for op in range(len(space.ops))]
    ends += [tuple(map(int, by)) for by in (tables.latency_ms.argmin(1), tables.latency_ms.argmax(1))]
    seen = [judge.exact(path) for path in (*ends, *(space.random_path(rng) for _ in range(samples)))]
    return Ranges.between(judge.budgets, seen, seen)
