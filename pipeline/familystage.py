"""Family stage: architectures for another board, limits or S from a finished hypernetwork search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import stages
from pipeline.boards import Board
from pipeline.errors import ConfigError
from pipeline.figures import Provenance
from pipeline.firmware import check_deadline
from pipeline.latency.cost import CostModel
from pipeline.runfile import RunFile
from pipeline.search import Request, SearchResult, complexity_of
from pipeline.search.request import MEMBERS
from pipeline.space.architecture import lower
from pipeline.space.budgets import Budgets

_LIMITS = {
    "latency_ms": "{}ms",
    "sram_bytes": "sram={}",
    "flash_bytes": "flash={}",
    "parameters": "parameters={}",
}


@dataclass(frozen=True, slots=True)
class FamilyQuestion:
    """What a family is asked for; what is left out is as the run file says.

    `board` is a name or a board's TOML file, `penalties` components of S by operator (0 to 1; the others share the
    rest), `members` how many architectures are looked at, `train_steps` how long the best few train alone. Raises
    ConfigError for a limit that is not above 0.
    """

    board: str = ""
    latency_ms: float | None = None
    sram_bytes: int | None = None
    flash_bytes: int | None = None
    parameters: int | None = None
    penalties: Mapping[str, float] = field(default_factory=dict)
    members: int = MEMBERS
    train_steps: int = 0

    def __post_init__(self) -> None:
        for name, value in self.limits.items():
            if value <= 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {value:g}", hint="give a limit above 0")

    @property
    def limits(self) -> dict[str, Any]:
        """Those that are given, by their names in `Budgets`."""
        given = {name: getattr(self, name) for name in _LIMITS}
        return {name: value for name, value in given.items() if value is not None}

    def file_name(self, board: str) -> str:
        """Of the answer for `board`; tells apart all that can be asked."""
        parts = [_LIMITS[name].format(_exactly(value)) for name, value in self.limits.items()]
        parts += [f"{op}={_exactly(value)}" for op, value in sorted(self.penalties.items())]
        parts += [f"members={self.members}"] if self.members != MEMBERS else []
        parts += [f"train={self.train_steps}"] if self.train_steps else []
        return f"{'-'.join([board, *parts])}.json"

    def request(self, run: RunFile, cost: CostModel, ops: Sequence[str]) -> Request:
        """To a search over operators `ops`, on the board of `cost`. ConfigError for penalties without meaning."""
        target = stages.search_target(cost, self.budgets(run, cost.board), run.robustness)
        return Request(target, complexity_of(ops, self.penalties), self.members, train_steps=self.train_steps)

    def budgets(self, run: RunFile, board: Board) -> Budgets:
        """As asked on `board`, before the conditions and memories that limit them further.

        ConfigError for a deadline that the board's counter cannot be held against.
        """
        budgets = replace(run.budgets_on(board), **self.limits)
        source = "budgets.latency_ms" if self.latency_ms is None else "--latency-ms"
        check_deadline(budgets.latency_ms, board, source)
        return budgets

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "penalties": dict(self.penalties)}


@dataclass(frozen=True, slots=True)
class FamilyAnswer:
    """`path` has the question and the result; `provenance` is that of the latencies, upper ends of the table."""

    question: FamilyQuestion
    result: SearchResult
    board: str
    limit_ms: float | None
    path: Path
    seconds: float
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        """What its file has: the same for the same question to the same search."""
        return {"asked": self.question.to_json(), **self.result.to_json()}


def latency_provenance(result: SearchResult, cost: CostModel) -> Provenance:
    """Of the candidates' latencies: estimated where the table lacks an operator of one of them."""
    graphs = (lower(candidate.architecture) for candidate in result.candidates)
    return "estimated" if any(cost.predict(graph).unmeasured for graph in graphs) else "modelled"


def _exactly(value: float) -> str:
    """All digits that tell it from its neighbours."""
    return repr(value).removesuffix(".0")
