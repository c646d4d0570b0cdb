"""The relaxed architecture: logits per block, sampling, and expected costs that gradients flow through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.search.costs import CostTables
from pipeline.search.predictor import predicted_latency

IndexPath = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Expected:
    """Differentiable expectations of one distribution (scalars)."""

    latency_ms: Tensor
    sram_bytes: Tensor
    flash_bytes: Tensor
    parameters: Tensor


class Relaxation(nn.Module):
    """Independent categorical choices: an operator and a width per block, at a common temperature."""

    def __init__(self, tables: CostTables) -> None:
        super().__init__()
        space = tables.space
        self.ops = nn.Parameter(torch.zeros(len(space.strides), len(space.ops)))
        self.widths = nn.Parameter(torch.zeros(len(space.strides), len(space.channels)))
        self.use(tables)
        self._weights = torch.tensor(tables.weights, dtype=torch.float32)
        self._weights_head = torch.tensor(tables.weights_head, dtype=torch.float32)
        self._working = torch.tensor(tables.working_set, dtype=torch.float32)
        self._skip = space.ops.index("skip") if "skip" in space.ops else None
        place = torch.zeros(len(space.channels), len(space.widths))
        for i, channels in enumerate(space.channels):
            place[i, space.widths.index(channels)] = 1.0
        self._place = place
        self._start = torch.zeros(len(space.widths))
        self._start[space.widths.index(space.stem_channels)] = 1.0

    def use(self, tables: CostTables) -> None:
        """Count with the latencies, the SRAM and the flash of another board, for the same space."""
        self.tables = tables
        self._latency = torch.tensor(tables.latency_ms, dtype=torch.float32)
        self._latency_head = torch.tensor(tables.latency_head, dtype=torch.float32)

    def probabilities(self, temperature: float) -> tuple[Tensor, Tensor]:
        """softmax(logits / temperature) per block: (blocks, ops) and (blocks, channels)."""
        return torch.softmax(self.ops / temperature, -1), torch.softmax(self.widths / temperature, -1)

    def entropy(self, temperature: float) -> float:
        """Mean entropy of a block's choices, relative to the uniform distribution's (1 = undecided)."""
        with torch.no_grad():
            ratios = []
            for p in self.probabilities(temperature):
                if p.shape[1] > 1:
                    bits = -(p * p.clamp_min(1e-12).log()).sum(-1)
                    ratios.append(float(bits.mean()) / float(np.log(p.shape[1])))
        return float(np.mean(ratios)) if ratios else 0.0

    def sample(self, temperature: float, rng: np.random.Generator) -> tuple[IndexPath, tuple[Tensor, Tensor]]:
        """A hard Gumbel-softmax draw: the path and straight-through gates (one-hot ahead, soft backward)."""
        gates, hard = [], []
        for logits in (self.ops, self.widths):
            chosen, gate = hard_draw(logits, temperature, rng)
            gates.append(gate)
            hard.append(chosen)
        return list(zip(hard[0], hard[1], strict=True)), (gates[0], gates[1])

    def argmax(self) -> IndexPath:
        ops, widths = self.ops.argmax(-1), self.widths.argmax(-1)
        return [(int(o), int(w)) for o, w in zip(ops, widths, strict=True)]

    def prefer(self, path: Sequence[tuple[int, int]], logit: float) -> None:
        """Set the logits of the choices of `path`."""
        with torch.no_grad():
            for block, (op, width) in enumerate(path):
                self.ops[block, op] = logit
                if op != self._skip:
                    self.widths[block, width] = logit

    def log_probability(
        self, path: IndexPath, temperature: float, blocks: Sequence[int] | None = None
    ) -> Tensor:
        """log of the chance that `sample` draws `path` (in `blocks`; None is all); a skip's width has no effect."""
        log_ops = torch.log_softmax(self.ops / temperature, -1)
        log_widths = torch.log_softmax(self.widths / temperature, -1)
        total = torch.zeros(())
        for block in range(len(path)) if blocks is None else blocks:
            op, width = path[block]
            total = total + log_ops[block, op]
            if op != self._skip:
                total = total + log_widths[block, width]
        return total

    def expected(self, temperature: float) -> Expected:
        return self.expected_from(*self.probabilities(temperature))

    def answer(self, expected: Expected) -> Expected:
        """The cost of the most probable choices, with the gradient of `expected`.

        While the distribution is undecided its expectation is far above the cost of its most probable choices (all
        41 choices of a block count): held against a limit it would push the answer far below.
        """
        with torch.no_grad():
            ops = F.one_hot(self.ops.argmax(-1), self.ops.shape[1]).to(self.ops.dtype)
            widths = F.one_hot(self.widths.argmax(-1), self.widths.shape[1]).to(self.widths.dtype)
            exact = self.expected_from(ops, widths)

        def through(name: str) -> Tensor:
            relaxed: Tensor = getattr(expected, name)
            value: Tensor = getattr(exact, name)
            return relaxed + (value - relaxed.detach())

        return Expected(*(through(each.name) for each in fields(Expected)))

    def latency_by_operator(self, ops: Tensor, widths: Tensor) -> Tensor:
        """Expected latency (ms) spent in each operator of the space, over all blocks; stem and head left out."""
        state, total = self._start, torch.zeros(ops.shape[1])
        for block in range(ops.shape[0]):
            chance = torch.einsum("s,o,c->soc", state, ops[block], widths[block])
            total = total + (chance * self._latency[block]).sum((0, 2))
            stay = ops[block, self._skip] if self._skip is not None else torch.zeros(())
            state = stay * state + (1 - stay) * (widths[block] @ self._place)
        return total

    def expected_from(self, ops: Tensor, widths: Tensor) -> Expected:
        """Expected cost of independent choices with probabilities `ops`, `widths`; exact when one-hot.

        A block's cost depends on the width that arrives, whose distribution is carried along the chain
        (a skip passes it on), so latency and parameters are exact expectations. SRAM is a smooth maximum
        over blocks of expected working sets: equal to the largest when one stands out.
        """
        tables, state = self.tables, self._start
        latency = torch.tensor(tables.latency_fixed, dtype=torch.float32)
        weights = torch.tensor(tables.weights_fixed, dtype=torch.float32)
        working = [torch.tensor(tables.working_fixed, dtype=torch.float32)]
        for block in range(ops.shape[0]):
            chance = torch.einsum("s,o,c->soc", state, ops[block], widths[block])
            latency = latency + (chance * self._latency[block]).sum()
            weights = weights + (chance * self._weights[block]).sum()
            working.append((chance * self._working[block]).sum())
            moved = widths[block] @ self._place
            stay = ops[block, self._skip] if self._skip is not None else torch.zeros(())
            state = stay * state + (1 - stay) * moved
        latency = latency + state @ self._latency_head
        if tables.predictor is not None:
            besides = tables.front_end_ms
            latency = besides + predicted_latency(
                tables.predictor, ops, widths, latency - besides, self._skip
            )
        weights = weights + state @ self._weights_head
        peaks = torch.stack(working)
        sharp = torch.softmax(peaks / (0.05 * peaks.detach().max() + 1e-6), 0)
        intercept, slope = tables.flash_fit
        return Expected(
            latency, tables.sram_offset + (sharp * peaks).sum(), intercept + slope * weights, weights
        )


def hard_draw(logits: Tensor, temperature: float, rng: np.random.Generator) -> tuple[list[int], Tensor]:
    """A hard Gumbel-softmax draw of each row of `logits` (n, choices): indices, and straight-through gates."""
    noise = torch.from_numpy(rng.gumbel(size=tuple(logits.shape)).astype(np.float32))
    soft = torch.softmax(logits / temperature + noise, -1)
    index = soft.argmax(-1)
    one_hot = F.one_hot(index, logits.shape[1]).to(soft.dtype)
    return [int(i) for i in index], one_hot + soft - soft.detach()
