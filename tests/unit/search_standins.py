"""A stand-in board and data set for the tests of the search."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.search import SearchConfig, SearchResult, Target, names
from pipeline.search.costs import exact_cost, working_set_bytes
from pipeline.space import Cost, OpGraph, OpSpec
from pipeline.space.search_space import SearchSpace


@dataclass(frozen=True)
class MacCost:
    """A stand-in board: time by multiply-accumulates and bytes, memory by the live tensors, energy by time."""

    layer_overhead_ms: float = 0.003
    overhead_ms: float = 0.01
    mj_per_ms: float = 0.132  # at most: 40 mA at 3 V, 10 % more or less

    def op_latency_ms(self, op: OpSpec) -> float:
        return (5 * op.macs + 6 * op.out_bytes) / 168e3

    def exit_ms(self, logits: int) -> float:
        return 0.0007 * logits

    def exit_latencies_ms(self, graph: OpGraph) -> tuple[float, ...]:
        return tuple(self.evaluate(graph.until(tensor), 0).latency_ms for tensor in graph.outputs)

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        latency = sum(self.op_latency_ms(n.op) + self.layer_overhead_ms for n in graph.nodes)
        latency += sum(self.exit_ms(graph.tensor_bytes[tensor]) for tensor in graph.exits)
        live = working_set_bytes(graph.nodes, graph.tensor_bytes[0])
        code = 5000 + 300 * len({n.op.kind for n in graph.nodes}) + 60 * len(graph.nodes)
        latency += self.overhead_ms
        energy = self.mj_per_ms * latency
        return Cost(latency, live + 2048, code + parameters, parameters, energy_mj=energy)


SMALL = SearchSpace((8, 8, 1), 4, 8, 1, (1, 2, 1), channels=(8, 16))
TINY = SearchConfig(
    warmup_steps=4, steps=6, batch_size=16, validation_batch_size=16, paths=2, candidates=8,
    ranking_images=40, semifinalists=3, semifinal_steps=2, finalists=2, proxy_steps=3, threads=1,
)  # fmt: skip

SEARCHES = [name for name in names() if name != "given"]  # which needs an architecture in the settings


def images(seed: int = 0, shape=(8, 8, 1), classes: int = 4) -> SimpleNamespace:
    """Bright bars whose row tells the class: learnable within a few steps."""
    rng = np.random.default_rng(seed)
    out = {}
    for split, count in (("train", 160), ("val", 80)):
        y = rng.integers(classes, size=count)
        x = rng.integers(0, 60, size=(count, *shape), dtype=np.uint8)
        for i, label in enumerate(y):
            x[i, 2 * label : 2 * label + 2] += 150
        out |= {f"x_{split}": x, f"y_{split}": y.astype(np.int64)}
    return SimpleNamespace(**out)


DATA = images()


def assert_exact(result: SearchResult, target: Target) -> None:
    """Members of a family have the exact cost on their board, and none breaks its budgets."""
    own = [c for c in result.candidates if c.board == target.name]
    assert own
    for c in own:
        assert c.cost == exact_cost(target.cost, c.architecture)
        assert not target.budgets.violations(c.cost)


def counted_images(monkeypatch: pytest.MonkeyPatch, net: type[torch.nn.Module]) -> list[int]:
    """Of every pass through a `net` from now on: its images, three times where gradients are taken."""
    seen: list[int] = []
    forward = net.forward

    def counting(self: torch.nn.Module, x: torch.Tensor, *args: Any, **options: Any) -> Any:
        learns = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        seen.append(len(x) * (3 if learns else 1))
        return forward(self, x, *args, **options)

    monkeypatch.setattr(net, "forward", counting)
    return seen
