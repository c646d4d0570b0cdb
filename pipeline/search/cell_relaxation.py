"""The relaxed architecture of a cell space with logits of its own, as HW-DARTS moves them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.search.cell_costs import CellJudge, CellTables, EdgePath
from pipeline.search.cell_hypernetwork import expected_cost, repaired_path
from pipeline.search.costs import Floats
from pipeline.search.relaxation import Expected, hard_draw


class CellRelaxation(nn.Module):
    """Independent choices of an operator on each edge of all cells, undecided at first, at a common temperature."""

    def __init__(self, tables: CellTables) -> None:
        super().__init__()
        self.tables = tables
        self.logits = nn.Parameter(torch.zeros(tables.space.positions, len(tables.space.ops)))

    def expected(self, temperature: float) -> Expected:
        return expected_cost(self.tables, torch.softmax(self.logits / temperature, -1))

    def sample(self, temperature: float, rng: np.random.Generator) -> tuple[EdgePath, Tensor]:
        """A path, and its straight-through gates (edges of all cells, ops): one-hot ahead, soft backward."""
        path, gates = hard_draw(self.logits, temperature, rng)
        return tuple(path), gates

    def log_probability(self, path: EdgePath, temperature: float) -> Tensor:
        """log of the chance that `sample` draws `path`."""
        logs = torch.log_softmax(self.logits / temperature, -1)
        return logs[torch.arange(len(path)), torch.tensor(path)].sum()

    def entropy(self, temperature: float) -> float:
        """Mean entropy of an edge's choice, relative to the uniform distribution's (1 = undecided)."""
        choices = self.logits.shape[1]
        if choices == 1:
            return 0.0
        logs = torch.log_softmax(self.logits.detach() / temperature, -1)
        return float(-(logs.exp() * logs).sum(-1).mean()) / float(np.log(choices))

    def repaired(self, judge: CellJudge, temperature: float, rng: np.random.Generator | None) -> EdgePath:
        """The most probable path, or with `rng` a sample, repaired to the budgets of `judge` if it can be."""
        logs: Floats = torch.log_softmax(self.logits.detach() / temperature, -1).double().numpy()
        return repaired_path(judge, logs, rng)
