"""What a search hands back: the architecture, its cost, and how it came about. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.space.architecture import Architecture
from pipeline.space.budgets import Cost

_PLAIN = (
    "shared_accuracy", "proxy_accuracy", "proxy_steps", "short_accuracy", "short_steps", "board", "proxies", "exits",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """One feasible architecture that was looked at; accuracies are fractions on the validation split.

    `shared_accuracy` is with the supernet's weights (noisy, good for ranking only; None where the method has
    no supernet), `proxy_accuracy` after `proxy_steps` of training of its own
    (semifinalists and finalists), `short_accuracy` after the semifinal's `short_steps` (0: was not in it).
    `board` is whose cost it is, where a search served several. `proxies` are the finite scores, untrained, of those
    cheap looks that the method took before any accuracy. `exits`, where the search chose early exits and this one
    trained: `after` which blocks it has them, the `counts` of validation images that end at each output, the
    `expected_ms` that this makes beside `goal_ms` and `worst_case_ms` (upper ends), and `final_accuracy`, of the last
    output alone; own accuracies are then those of the exits' rule.
    """

    architecture: Architecture
    cost: Cost
    shared_accuracy: float | None = None
    proxy_accuracy: float | None = None
    proxy_steps: int = 0
    short_accuracy: float | None = None
    short_steps: int = 0
    board: str = ""
    proxies: dict[str, float] = field(default_factory=dict, hash=False)
    exits: dict[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_json(),
            "cost": asdict(self.cost),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    @classmethod
    def from_json(cls, raw: Any) -> Candidate:
        """Inverse of `to_json`; KeyError or TypeError on anything else."""
        return cls(
            Architecture.from_json(raw["architecture"]),
            Cost(**raw["cost"]),
            raw["shared_accuracy"],
            raw["proxy_accuracy"],
            raw["proxy_steps"],
            raw.get("short_accuracy"),  # older results do not have them
            raw.get("short_steps", 0),
            raw.get("board", ""),
            dict(raw.get("proxies", {})),
            dict(raw.get("exits", {})),
        )


@dataclass(frozen=True, slots=True)
class Front:
    """One board's members that no other of its members beats in both latency and accuracy, fastest first.

    Empty where no member meets the board's budgets; `reason` then says why.
    """

    board: str
    members: tuple[Candidate, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """`feasible` is true exactly when `architecture` is there, and then it meets every budget.

    Otherwise `reason` says which budget could not be met. `history` has one record per architecture step:
    step, train_loss, val_loss, val_accuracy, latency_ms, sram_bytes, flash_bytes, parameters (expectations),
    answer_latency_ms (of the most probable choices), mu (latency's coefficient), nu_BUDGET of each other budget,
    multiplier_BUDGET of each, temperature, entropy; the methods that train
    architectures alone have one per architecture, in the order they were asked for: step, passes so far (see
    search/effort.py), own_accuracy, best_accuracy; the edge stage one per tuning step: step, train_loss.
    `candidates` are sorted, best first (those of the run's board before others'). `relaxed` is what the distribution
    alone would have chosen: its most probable architecture, which may break budgets.
    `notes` say what a reader of the result should know. `fronts` has one entry per board of a search that serves
    several.
    """

    architecture: Architecture | None
    cost: Cost | None
    feasible: bool
    reason: str
    method: str
    seed: int
    history: list[dict[str, float]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    relaxed: Candidate | None = None
    notes: list[str] = field(default_factory=list)
    fronts: list[Front] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        names = ("feasible", "reason", "method", "seed", "history", "notes")
        return {
            **{name: getattr(self, name) for name in names},
            "architecture": self.architecture.to_json() if self.architecture else None,
            "cost": asdict(self.cost) if self.cost else None,
            "candidates": [c.to_json() for c in self.candidates],
            "relaxed": self.relaxed.to_json() if self.relaxed else None,
            "fronts": [
                {"board": f.board, "reason": f.reason, "members": [c.to_json() for c in f.members]}
                for f in self.fronts
            ],
        }

    @classmethod
    def from_json(cls, raw: Any) -> SearchResult:
        """Inverse of `to_json`; what older versions did not write may lack. Raises ConfigError on anything else."""
        try:
            relaxed = raw.get("relaxed")
            # Results of earlier versions have none.
            fronts = [
                Front(f["board"], tuple(Candidate.from_json(c) for c in f["members"]), f["reason"])
                for f in raw.get("fronts", [])
            ]
            return cls(
                Architecture.from_json(raw["architecture"]) if raw["architecture"] is not None else None,
                Cost(**raw["cost"]) if raw["cost"] is not None else None,
                raw["feasible"],
                raw["reason"],
                raw["method"],
                raw["seed"],
                list(raw["history"]),
                [Candidate.from_json(c) for c in raw["candidates"]],
                Candidate.from_json(relaxed) if relaxed is not None else None,
                list(raw.get("notes", [])),
                fronts,
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ConfigError(f"not a search result: {error!r}", hint="run the search again") from error
