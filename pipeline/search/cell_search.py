"""Search in cell spaces: the single-level hypernetwork of DARTS-CC, and random search.

Weights and H_a learn from one loss on training images, CE + kappa LAT(gamma) / T + simplex_weight times the
operators' shares weighted by S (see docs/search.md); S is uniform on the simplex, gamma ~ Gumbel-Softmax.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.search.candidates import VETOED, describe_excess, own_budgets
from pipeline.search.cell_costs import CellJudge, CellTables, EdgePath
from pipeline.search.cell_supernet import CellSupernet, EdgeHypernetwork
from pipeline.search.checkpoint import Checkpoint, identity_of
from pipeline.search.config import SearchConfig
from pipeline.search.costs import CostModel, Floats
from pipeline.search.data import SearchData
from pipeline.search.effort import affordable_cell_trainings
from pipeline.search.result import Candidate, SearchResult
from pipeline.search.trainer import (
    GRADIENT_NORM,
    MOMENTUM,
    WEIGHT_DECAY,
    cosine,
    diverged,
    draw_batch,
    tensors,
)
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace

# Random streams.
_STEP, _SAMPLES, _OWN = 200, 201, 202


@dataclass(eq=False)
class CellSearch:
    """One search on the CPU; `run` is called once."""

    space: CellSpace
    data: SearchData
    cost: CostModel
    budgets: Budgets
    config: SearchConfig
    seed: int
    checkpoint: Path | None
    on_step: Callable[[dict[str, Any]], None] | None
    history: list[dict[str, float]] = field(default_factory=list)
    shared: dict[EdgePath, float] = field(default_factory=dict)
    own: dict[EdgePath, float] = field(default_factory=dict)

    def run(self) -> SearchResult:
        tables = CellTables.of(self.space, self.cost)
        self.judge = CellJudge(tables, self.cost, self.budgets)
        reason = self.judge.impossible()
        if reason:
            return self._result(reason)
        identity = identity_of(
            self.space.to_json(), (tables.latency_fixed, tables.latency_ms.tobytes()),
            self.data, self.budgets, self.config, self.seed,
        )  # fmt: skip
        self.store = Checkpoint(self.checkpoint, identity, self.config.checkpoint_seconds)
        return self._hypernetwork() if self.config.method == "hypernetwork" else self._random()

    # -- methods -------------------------------------------------------------------------------------------

    def _hypernetwork(self) -> SearchResult:
        config, hyper = self.config, self.config.hyper
        self.net = CellSupernet(self.space, self.seed)
        self.hyper = EdgeHypernetwork(self.space, hyper.hidden, self.seed + 1)
        self.weights = _optimizer(self.net, config.weight_lr)
        self.architecture = torch.optim.Adam(self.hyper.parameters(), lr=hyper.lr)
        self.step = 0
        self._restore()
        steps = config.warmup_steps + config.steps
        total = steps + config.semifinalists * config.proxy_steps
        while self.step < steps:
            record = self._train_step(self.step, steps)
            if self.step >= config.warmup_steps:
                self.history.append(record)
            self.step += 1
            if self.store.due() or self.step == steps:
                self._save()
            self._report("search" if self.step > config.warmup_steps else "warm-up", self.step, total, record)
        found, nearest = self._sweep()
        if not found:
            return self._result(self._explain(nearest))
        for path in found:
            if path not in self.shared:
                self.shared[path] = self._accuracy(self.net, path, config.ranking_images)
        entered = sorted(self.shared, key=lambda p: self.shared[p], reverse=True)[: config.semifinalists]
        for place, path in enumerate(entered):
            if path not in self.own:
                self.own[path] = self._alone(self.net, path, steps + place * config.proxy_steps, total)
                self._save()
        return self._result("")

    def _random(self) -> SearchResult:
        wanted = affordable_cell_trainings(self.config, len(self.space.ops), len(self.data.x_val))
        rng = np.random.default_rng([self.seed, _SAMPLES])
        even = np.zeros((self.space.positions, len(self.space.ops)))
        self._restore()
        found: dict[EdgePath, None] = {}
        nearest: EdgePath = ()
        for _ in range(50 * wanted):
            path = self.judge.repair(self.space.random_path(rng), even)
            if self.judge.feasible(path):
                found[path] = None
            else:
                nearest = self._nearer(path, nearest)
            if len(found) >= wanted:
                break
        total = wanted * self.config.proxy_steps
        for place, path in enumerate(found):
            if path not in self.own:
                fresh = CellSupernet(self.space, self.seed)
                self.own[path] = self._alone(fresh, path, place * self.config.proxy_steps, total)
                self._save()
        return self._result("" if found else self._explain(nearest))

    # -- steps ---------------------------------------------------------------------------------------------

    def _train_step(self, step: int, total: int) -> dict[str, float]:
        config, hyper, tables = self.config, self.config.hyper, self.judge.tables
        rng = np.random.default_rng([self.seed, _STEP, step])
        ops = len(self.space.ops)
        complexity = tuple(float(s) for s in rng.dirichlet(np.ones(ops)))
        done = max(0, step - config.warmup_steps) / max(1, config.steps - 1)
        t = hyper.temperature_start + (hyper.temperature_end - hyper.temperature_start) * done
        logits = self.hyper(complexity)
        noise = torch.from_numpy(rng.gumbel(size=self.hyper.shape).astype(np.float32))
        gamma = torch.softmax((logits + noise) / t, -1)
        x, y = draw_batch(self.data.x_train, self.data.y_train, config.batch_size, rng)
        task_loss = F.cross_entropy(self.net(x, gamma), y)
        latency = latency_of(tables, gamma)
        longest = tables.latency_fixed + float(tables.latency_ms.max(1).sum())
        shares = (gamma.mean(0) * torch.tensor(complexity, dtype=torch.float32) * ops).sum()
        loss = task_loss + hyper.kappa * latency / longest + hyper.simplex_weight * shares
        if not torch.isfinite(loss):
            rate = "search.weight_lr" if torch.isfinite(gamma).all() else "search.hyper.lr"
            raise diverged(self.net, gamma, x, f"the loss is {loss.item()}", rate)
        for group in self.weights.param_groups:
            group["lr"] = cosine(config.weight_lr, step, total)
        self.weights.zero_grad(set_to_none=True)
        self.architecture.zero_grad(set_to_none=True)
        loss.backward()
        _clip(self.net, gamma, x)
        norm = torch.nn.utils.clip_grad_norm_(self.hyper.parameters(), float("inf"))  # only the norm
        if not torch.isfinite(norm):
            what = f"the norm of the hypernetwork's gradient is {norm.item()}"
            raise diverged(self.net, gamma, x, what, "search.hyper.lr")
        self.weights.step()
        if step >= config.warmup_steps:
            self.architecture.step()
        chances = torch.softmax(logits.detach(), -1)
        entropy = -(chances * chances.clamp_min(1e-9).log()).sum(-1).mean()
        return {
            "step": step - config.warmup_steps,
            "train_loss": task_loss.item(),
            "latency_ms": latency.item(),
            "temperature": t,
            "entropy": float(entropy),
        }

    def _sweep(self) -> tuple[list[EdgePath], EdgePath]:
        """Feasible paths over S: most probable ones, then samples; and the last that was infeasible."""
        config, ops = self.config, len(self.space.ops)
        rng = np.random.default_rng([self.seed, _SAMPLES])
        uniform = (1.0 / ops,) * ops
        asked = [
            uniform,
            *(tuple(0.3 / max(1, ops - 1) if i != op else 0.7 for i in range(ops)) for op in range(ops)),
        ]
        while len(asked) < config.hyper.family:
            asked.append(tuple(float(s) for s in rng.dirichlet(np.ones(ops))))
        found: dict[EdgePath, None] = {}
        nearest: EdgePath = ()
        for attempt in range(4 * max(config.candidates, len(asked))):
            if len(found) >= config.candidates:
                break
            with torch.no_grad():
                logs: Floats = torch.log_softmax(self.hyper(asked[attempt % len(asked)]), -1).double().numpy()
            drawn = logs if attempt < len(asked) else logs + rng.gumbel(size=logs.shape)
            path = self.judge.repair(tuple(int(op) for op in drawn.argmax(1)), logs)
            if self.judge.feasible(path):
                found[path] = None
            else:
                nearest = self._nearer(path, nearest)
        return list(found), nearest

    def _alone(self, net: CellSupernet, path: EdgePath, before: int, total: int) -> float:
        """Validation accuracy after `proxy_steps` along one path, from `net`'s weights, which stay."""
        config, own = self.config, copy.deepcopy(net)
        optimizer = _optimizer(own, config.weight_lr)
        rng = np.random.default_rng([self.seed, _OWN])
        for step in range(config.proxy_steps):
            x, y = draw_batch(self.data.x_train, self.data.y_train, config.batch_size, rng)
            for group in optimizer.param_groups:
                group["lr"] = cosine(config.weight_lr, step, config.proxy_steps)
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(own(x, path), y)
            if not torch.isfinite(loss):
                raise diverged(own, path, x, f"the loss is {loss.item()}")
            loss.backward()
            _clip(own, path, x)
            optimizer.step()
            self._report("own training", before + step + 1, total, {})
        return self._accuracy(own, path, len(self.data.x_val))

    def _accuracy(self, net: CellSupernet, path: EdgePath, images: int) -> float:
        index = np.random.default_rng([self.seed, 0x7A1]).permutation(len(self.data.x_val))[:images]
        correct = 0
        with torch.inference_mode():
            for part in np.array_split(index, max(1, len(index) // 500)):
                x, y = tensors(self.data.x_val[part], self.data.y_val[part])
                logits = net(x, path)
                if not torch.isfinite(logits).all():  # the last step's weights have seen no loss yet
                    raise diverged(net, path, x, "validation gives no numbers")
                correct += int((logits.argmax(1) == y).sum())
        return correct / len(index)

    # -- results -------------------------------------------------------------------------------------------

    def _report(self, phase: str, done: int, total: int, record: dict[str, float]) -> None:
        if self.on_step is not None:
            self.on_step({"phase": phase, "done": done, "total": total, **record})

    def _nearer(self, path: EdgePath, other: EdgePath) -> EdgePath:
        """Of two infeasible paths the one that breaks budgets less; `other` may be empty."""
        return other if other and self.judge.violation(other) <= self.judge.violation(path) else path

    def _explain(self, nearest: EdgePath) -> str:
        judge, cost = self.judge, self.judge.exact(nearest)
        violations = self.budgets.violations(cost)
        where = judge.architecture(nearest).describe()
        if violations.pop("vetoed", 0):
            vetoes = "; ".join(judge.vetoes(nearest))
            return f"{VETOED}; the nearest: {where}: {vetoes}"
        name = max(own_budgets(violations), key=lambda n: violations[n])
        excess = describe_excess(name, getattr(cost, name), getattr(self.budgets, name))
        return f"nothing found that meets every budget together; tightest: {excess} for the nearest, {where}"

    def _result(self, reason: str) -> SearchResult:
        every = {**dict.fromkeys(self.own), **dict.fromkeys(self.shared)}
        ranked = sorted(every, key=lambda p: (self.own.get(p, -1.0), self.shared.get(p, -1.0)), reverse=True)
        members = []
        for path in ranked:
            own = self.own.get(path)
            steps = self.config.proxy_steps if own is not None else 0
            shared = self.shared.get(path)
            members.append(
                Candidate(self.judge.architecture(path), self.judge.exact(path), shared, own, steps)
            )
        best = members[0] if members else None
        return SearchResult(
            best.architecture if best else None, best.cost if best else None, best is not None,
            reason, self.config.method, self.seed, self.history, members,
        )  # fmt: skip

    def _save(self) -> None:
        state: dict[str, Any] = {"own": [(list(p), a) for p, a in self.own.items()]}
        if self.config.method == "hypernetwork":
            parts = ("net", "hyper", "weights", "architecture")
            state |= {name: getattr(self, name).state_dict() for name in parts}
            state |= {"step": self.step, "history": self.history}
        self.store.save(state)

    def _restore(self) -> None:
        state = self.store.load()
        if state is None:
            return
        self.own = {tuple(p): a for p, a in state["own"]}
        if self.config.method == "hypernetwork":
            for name in ("net", "hyper", "weights", "architecture"):
                getattr(self, name).load_state_dict(state[name])
            self.step, self.history = state["step"], list(state["history"])


def latency_of(tables: CellTables, gamma: torch.Tensor) -> torch.Tensor:
    """LUT latency (ms) of relaxed choices (edges, ops); exact where they are one-hot."""
    return tables.latency_fixed + (gamma * torch.from_numpy(tables.latency_ms).to(gamma.dtype)).sum()


def _clip(net: CellSupernet, choice: EdgePath | torch.Tensor, images: torch.Tensor) -> None:
    """Clips the weights' gradient. Raises ConfigError where it is not finite: such a step is not taken."""
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
    if not torch.isfinite(norm):
        raise diverged(net, choice, images, f"the gradient's norm is {norm.item()}")


def _optimizer(net: CellSupernet, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(
        net.parameters(), lr=lr, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )
