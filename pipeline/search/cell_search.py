"""What searches in cell spaces have in common: the hypernetwork's, HW-DARTS' and the baselines'."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.search.cell_costs import CellJudge, CellTables, EdgePath
from pipeline.search.cell_supernet import CellSupernet
from pipeline.search.checkpoint import Checkpoint, cell_fingerprint
from pipeline.search.config import SearchConfig
from pipeline.search.data import SearchData
from pipeline.search.energy import with_energy
from pipeline.search.methods import guiding_predictor
from pipeline.search.result import Candidate, SearchResult
from pipeline.search.targets import Target
from pipeline.search.trainer import GRADIENT_NORM, Validation, diverged, train_path
from pipeline.space.cells import CellSpace

# Random streams; the hypernetwork's search has others.
SAMPLES, OWN = 201, 202


@dataclass(eq=False)
class CellSearch(ABC):
    """One search on one device; `run` is called once.

    `targets` are the run's board, whose budgets hold here, and further ones, for a search that serves several.
    """

    space: CellSpace
    data: SearchData
    targets: tuple[Target, ...]
    config: SearchConfig
    seed: int
    checkpoint: Path | None
    on_step: Callable[[dict[str, Any]], None] | None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    history: list[dict[str, float]] = field(default_factory=list)
    shared: dict[EdgePath, float] = field(default_factory=dict)
    own: dict[EdgePath, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        space, first = self.space, self.targets[0]
        predictor = guiding_predictor(first.cost, self.config)
        tables = replace(CellTables.of(space, first.cost), predictor=predictor)
        self.budgets = with_energy(first.budgets, first.cost, space)
        self.judge = CellJudge(tables, first.cost, self.budgets)
        identity = cell_fingerprint(tables, self.data, self.budgets, self.config, self.seed)
        self.store = Checkpoint(self.checkpoint, identity, self.config.checkpoint_seconds)

    @property
    def member_steps(self) -> int:
        """Steps of each training of its own."""
        return self.config.proxy_steps

    def run(self) -> SearchResult:
        return self._result(reason) if (reason := self.judge.impossible()) else self._search()

    @abstractmethod
    def _search(self) -> SearchResult:
        """Where the budgets are possible."""

    # -- steps ---------------------------------------------------------------------------------------------

    def _alone(self, net: CellSupernet, path: EdgePath, steps: int, before: int, total: int) -> float:
        """Validation accuracy after `steps` along one path, from `net`'s weights, which stay."""
        config, own = self.config, copy.deepcopy(net)
        train_path(
            own, path, self.data, steps=steps, batch_size=config.batch_size, lr=config.weight_lr,
            rng=np.random.default_rng([self.seed, OWN]),
            on_step=lambda done: self._report("own training", before + done, total, {}),
            checkpoint=self._training(path),
        )  # fmt: skip
        return self._accuracy(own, path, len(self.data.x_val))

    def _training(self, path: EdgePath) -> Checkpoint:
        return self.store.of_training(str(path))

    def _accuracy(self, net: CellSupernet, path: EdgePath, images: int) -> float:
        return Validation.of(self.data, images, self.seed).accuracy(net, path)

    # -- results -------------------------------------------------------------------------------------------

    def _report(self, phase: str, done: int, total: int, record: dict[str, float]) -> None:
        if self.on_step is not None:
            self.on_step({"phase": phase, "done": done, "total": total, **record})

    def _result(self, reason: str) -> SearchResult:
        every = {**dict.fromkeys(self.own), **dict.fromkeys(self.shared)}
        ranked = sorted(every, key=lambda p: (self.own.get(p, -1.0), self.shared.get(p, -1.0)), reverse=True)
        members = []
        for path in ranked:
            own = self.own.get(path)
            steps = self.member_steps if own is not None else 0
            shared = self.shared.get(path)
            members.append(
                Candidate(self.judge.architecture(path), self.judge.exact(path), shared, own, steps)
            )
        best = members[0] if members else None
        return SearchResult(
            best.architecture if best else None, best.cost if best else None, best is not None,
            reason, self.config.method, self.seed, self.history, members,
        )  # fmt: skip

    def _state(self) -> dict[str, Any]:
        return {"own": [(list(p), a) for p, a in self.own.items()]}

    def _take_up(self, state: dict[str, Any]) -> None:
        self.own = {tuple(p): a for p, a in state["own"]}

    def _save(self) -> None:
        self.store.save(self._state())

    def _restore(self) -> None:
        if (state := self.store.load()) is not None:
            self._take_up(state)


def clip(net: CellSupernet, choice: EdgePath | torch.Tensor, images: torch.Tensor) -> None:
    """Clips the weights' gradient. Raises ConfigError where it is not finite: such a step is not taken."""
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
    if not torch.isfinite(norm):
        raise diverged(net, choice, images, f"the gradient's norm is {norm.item()}")
