"""What cannot be deployed is neither chosen nor built, and the reason is named."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from search_standins import DATA, SEARCHES, SMALL, TINY, MacCost

from pipeline.errors import ConfigError
from pipeline.runfile import load_runfile
from pipeline.search import search
from pipeline.search.candidates import way_out
from pipeline.search.settings import CELL_METHODS
from pipeline.space import Cost, OpGraph, lower
from pipeline.space.budgets import Budgets
from pipeline.space.cells import CellSpace
from pipeline.space.opspec import OpSpec
from pipeline.space.vetoes import Vetoes


@dataclass(frozen=True)
class Picky(MacCost):
    """MacCost on a target that some operators cannot be deployed on."""

    vetoes: Vetoes = field(default_factory=Vetoes)

    def veto(self, op: OpSpec) -> str:
        return self.vetoes.reason(op)

    def evaluate(self, graph: OpGraph, parameters: int) -> Cost:
        vetoed = len([node for node in graph.nodes if self.veto(node.op)])
        return replace(MacCost.evaluate(self, graph, parameters), vetoed=vetoed)


@pytest.mark.parametrize("method", SEARCHES)
@pytest.mark.parametrize(
    "vetoes", [Vetoes(operators=("mul",)), Vetoes(weights_bytes=260), Vetoes(channel_multiple=16)]
)
def test_searches_keep_away_from_what_is_vetoed(method: str, vetoes: Vetoes) -> None:
    result = search(SMALL, DATA, Picky(vetoes=vetoes), Budgets(), replace(TINY, method=method), seed=0)
    if vetoes.channel_multiple == 16:  # the stem has 8 channels
        assert not result.feasible and "8 channels: not multiples of 16" in result.reason
        assert "[vetoes]" in way_out(result.reason, "loosen that budget")  # no budget is to blame
        return
    assert result.feasible
    for candidate in result.candidates:
        assert vetoes.reasons(node.op for node in lower(candidate.architecture).nodes) == []


@pytest.mark.parametrize("method", CELL_METHODS)
def test_cell_searches_keep_away_from_what_is_vetoed(method: str) -> None:
    space, config = (
        CellSpace((8, 8, 1), 4, 4, channels=(4, 8), strides=(1, 1), nodes=2),
        replace(TINY, method=method),
    )
    result = search(space, DATA, Picky(vetoes=Vetoes(operators=("max_pool",))), Budgets(), config, seed=0)
    assert result.feasible
    assert not any("pool" in ops for c in result.candidates for ops in c.architecture.cells)
    against = Vetoes(operators=("add",), channel_multiple=8)  # of every cell, and of the stem
    result = search(space, DATA, Picky(vetoes=against), Budgets(), config, seed=0)
    assert not result.feasible and "add is vetoed: the target's engine" in result.reason
    assert "[vetoes]" in way_out(result.reason, "loosen that budget")
    assert "4 channels: not multiples of 8" in result.reason and "cell 4 " in result.reason


def test_reasons() -> None:
    pointwise = OpSpec("conv2d", 4, 4, 24, 4, 4, 30)
    assert Vetoes(channel_multiple=8).reason(pointwise) == "conv2d of 24 to 30 channels: not multiples of 8"
    assert Vetoes(channel_multiple=8).reason(replace(pointwise, out_c=32)) == ""
    assert Vetoes(channel_multiple=8).reason(OpSpec("conv2d", 8, 8, 3, 8, 8, 16, 3, 3)) == ""  # an image's
    assert Vetoes(channel_multiple=8).reason(OpSpec("conv2d", 1, 1, 24, 1, 1, 4)) == ""  # a gate
    assert "720 bytes of weights" in Vetoes(weights_bytes=719).reason(pointwise)
    assert Vetoes(weights_bytes=720).reason(pointwise) == ""
    assert "tensor of 480 bytes" in Vetoes(tensor_bytes=479).reason(pointwise)
    assert Vetoes(tensor_bytes=480).reasons([pointwise, pointwise]) == []
    assert len(Vetoes(operators=("conv2d",)).reasons([pointwise, pointwise])) == 1


def test_a_run_file_names_vetoes(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    head = 'name = "a"\nboard = "qemu-cortex-m4"\n[budgets]\nlatency_ms = 50.0\n[vetoes]\n'
    path.write_text(head + 'operators = ["mul", "add"]\nchannel_multiple = 8\n')
    assert load_runfile(path).vetoes == Vetoes(("mul", "add"), 8)
    path.write_text(head + 'operators = ["convolve"]\n')
    with pytest.raises(ConfigError, match=r"a\.toml:6: vetoes\.operators has 'convolve'"):
        load_runfile(path)
