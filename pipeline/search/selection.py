"""From a trained supernet and a distribution to one architecture that meets every budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar, cast

import numpy as np
from torch import Tensor

from pipeline.search.candidates import (
    VETOED,
    ExactPath,
    Judge,
    cheapest_paths,
    describe_excess,
    grow,
    mutate,
    own_budgets,
    repair,
)
from pipeline.search.checkpoint import Checkpoint
from pipeline.search.config import SearchConfig
from pipeline.search.costs import Floats
from pipeline.search.data import SearchData
from pipeline.search.exits import ExitChoice
from pipeline.search.pathjudge import PathJudge
from pipeline.search.relaxation import Relaxation
from pipeline.search.result import Candidate
from pipeline.search.supernet import Supernet
from pipeline.search.trainer import Validation, train_path
from pipeline.space.architecture import Architecture, lower
from pipeline.space.budgets import Cost

P = TypeVar("P", bound=Hashable)

# Best semifinalists so far whose mutations enter the next round.
PARENTS = 3
# Attempts per wanted candidate before the pool is taken as it is (small spaces run out of new ones).
ATTEMPTS = 12


@dataclass(slots=True)
class Selection(Generic[P]):
    """Feasible paths with their accuracies; its state is what a checkpoint stores.

    `scored` are with shared weights (empty where a method has none), `tried` after the semifinal's training,
    `proxied` after the longest of their own; `looks` the proxies' scores, untrained, of all that they looked at.
    `cut` are those of the first cut, best first; `rounds` who trains in each round of the semifinal. `exits` are the
    early exits that served each best after its longest training, where the search chooses them.
    """

    scored: dict[P, float] = field(default_factory=dict)
    tried: dict[P, float] = field(default_factory=dict)
    proxied: dict[P, float] = field(default_factory=dict)
    cut: list[P] = field(default_factory=list)
    rounds: list[list[P]] = field(default_factory=list)
    looks: dict[P, dict[str, float]] = field(default_factory=dict)
    exits: dict[P, ExitChoice] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        known = {
            name: [(list(path), value) for path, value in getattr(self, name).items()]
            for name in ("scored", "tried", "proxied", "looks")
        }
        paths: dict[Any, ExitChoice] = {**self.exits}
        exits = [(list(path), asdict(choice)) for path, choice in paths.items()]
        rounds = [list(entered) for entered in self.rounds]
        return {**known, "cut": list(self.cut), "rounds": rounds, "exits": exits}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Selection[P]:
        def path_of(row: Any) -> Any:
            return tuple(tuple(choice) if isinstance(choice, list) else choice for choice in row)

        def read(rows: list[Any]) -> dict[P, Any]:
            return {path_of(path): value for path, value in rows}

        def read_paths(rows: list[Any]) -> list[P]:
            return [path_of(path) for path in rows]

        def choice(raw: dict[str, Any]) -> ExitChoice:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
            return ExitChoice(**fields)

        accuracies = read(state["scored"]), read(state["tried"]), read(state["proxied"])
        return cls(
            *accuracies,
            read_paths(state.get("cut", [])),
            [read_paths(paths) for paths in state.get("rounds", [])],
            read(state.get("looks", [])),  # earlier versions did not keep them
            {path: choice(raw) for path, raw in read(state.get("exits", [])).items()},
        )

    def missed(self, path: P) -> bool:
        """Whether it was trained and no rule of its early exits reached the expected latency that is searched for."""
        return path in self.exits and not self.exits[path].met

    def found(self, judge: PathJudge, path: P) -> tuple[Architecture, Cost]:
        """The architecture that `path` stands for, with the exits that were chosen for it, and its worst case."""
        if path not in self.exits:
            return judge.architecture(path), judge.exact(path)
        assert isinstance(judge, Judge)  # only networks of blocks have exits
        return judge.with_exits(cast(ExactPath, path), self.exits[path].kept)

    def ranked(self, bonus: Callable[[P], float] = lambda _: 0.0) -> list[P]:
        """Finalists first, then semifinalists, each by its own accuracy plus `bonus`; the others by the shared one.

        Of those that trained, whoever missed the expected latency comes after all that did not, the nearest first.
        """

        def merit(path: P) -> tuple[float, float, float, float]:
            final, short = (
                known[path] + bonus(path) if path in known else -1.0 for known in (self.proxied, self.tried)
            )
            beyond = 0.0 if not self.exits else math.inf
            if path in self.exits:
                beyond = self.exits[path].expected_ms if self.missed(path) else 0.0
            return -beyond, final, short, self.scored.get(path, -1.0)

        return sorted({**self.scored, **self.tried, **self.proxied}, key=merit, reverse=True)

    def candidates(
        self, judge: PathJudge, config: SearchConfig, bonus: Callable[[P], float] = lambda _: 0.0
    ) -> list[Candidate]:
        out = []
        for path in self.ranked(bonus):
            short, short_steps = self.tried.get(path), config.semifinal_steps if path in self.tried else 0
            own, steps = short, short_steps
            if path in self.proxied:
                own, steps = self.proxied[path], config.proxy_steps
            architecture, cost = self.found(judge, path)
            # a determinant of nothing is minus infinity, which JSON has not and no rank needs
            looks = {name: value for name, value in self.looks.get(path, {}).items() if math.isfinite(value)}
            shared = self.scored.get(path)
            exits = self._exits_of(path, architecture)
            out.append(
                Candidate(architecture, cost, shared, own, steps, short, short_steps, "", looks, exits)
            )
        return out

    def _exits_of(self, path: P, architecture: Architecture) -> dict[str, Any]:
        """See `Candidate.exits`."""
        choice = self.exits.get(path)
        if choice is None:
            return {}
        return {
            "after": list(architecture.exits),
            "expected_ms": choice.expected_ms,
            "worst_case_ms": choice.latencies_ms[-1],
            "goal_ms": choice.goal_ms,
            "counts": list(choice.counts),
            "final_accuracy": choice.final_accuracy,
        }


def starting_paths(
    judge: Judge, relaxation: Relaxation, temperature: float, wanted: int, rng: np.random.Generator
) -> tuple[list[ExactPath], ExactPath]:
    """Up to `wanted` feasible paths of different networks, and the least infeasible one seen.

    First the argmax, then the cheapest architectures, then samples; those that miss a budget are repaired,
    and every second sample is grown into what the budgets leave.
    """
    log_ops, log_widths = _log_probabilities(relaxation, temperature)
    first = judge.canonical(relaxation.argmax())
    nearest = first
    found: dict[Hashable, ExactPath] = {}
    cheapest = list(cheapest_paths(judge).values())
    for attempt in range(wanted * ATTEMPTS):
        if len(found) >= wanted:
            break
        if attempt == 0:
            path = first
        elif attempt <= len(cheapest):
            path = cheapest[attempt - 1]
        else:
            path = judge.canonical(relaxation.sample(temperature, rng)[0])
        path = repair(judge, path, log_ops, log_widths)
        if attempt > len(cheapest) and attempt % 2 and judge.feasible(path):
            path = grow(judge, path, rng)
        if judge.feasible(path):
            found.setdefault(judge.network(path), path)
        elif judge.violation(path) < judge.violation(nearest) or judge.feasible(nearest):
            nearest = path
    return list(found.values()), nearest


def uniform_paths(judge: Judge, wanted: int, rng: np.random.Generator) -> list[ExactPath]:
    """Up to `wanted` feasible paths of different networks, uniform over the space but for the repair of near misses."""
    space, even = judge.tables.space, _even(judge)
    found: dict[Hashable, ExactPath] = {}
    for _ in range(wanted * ATTEMPTS):
        if len(found) >= wanted:
            break
        path = repair(judge, judge.path(space.random(rng)), *even)
        if judge.feasible(path):
            found.setdefault(judge.network(path), path)
    return list(found.values())


def _even(judge: Judge) -> tuple[Floats, Floats]:
    """Log-probabilities that prefer nothing, for `repair`."""
    space = judge.tables.space
    return np.zeros((len(space.strides), len(space.ops))), np.zeros((len(space.strides), len(space.channels)))


def _log_probabilities(relaxation: Relaxation, temperature: float) -> tuple[Floats, Floats]:
    ops, widths = relaxation.probabilities(temperature)
    return _log(ops), _log(widths)


def _log(probabilities: Tensor) -> Floats:
    logs: Floats = probabilities.detach().double().clamp_min(1e-12).log().numpy()
    return logs


def places(config: SearchConfig) -> list[int]:
    """How many train in each round of the semifinal; together `semifinalists`."""
    rounds = min(config.selection.rounds, config.semifinalists)
    return [
        config.semifinalists * (r + 1) // rounds - config.semifinalists * r // rounds for r in range(rounds)
    ]


def first_cut_size(config: SearchConfig) -> int:
    """How many of the pool shared weights judge: of `candidates`, what later rounds do not need for their children."""
    return max(1, places(config)[0], config.candidates - sum(places(config)[1:]))


def first_round(selection: Selection[P], cut: Sequence[P], count: int, *, shared: bool = True) -> list[P]:
    """Who trains first: half of the places to the best of the first cut (`cut`, best first), half by shared weights.

    Where these have no say (`shared` False) all places go by the first cut: within one limit they do not tell what an
    architecture reaches on its own (Kendall -0.07 over 47, benchmarks/results/rank_correlation.md).
    """
    chosen = list(cut[: (count + 1) // 2 if shared else count])
    for path in sorted(cut, key=lambda p: selection.scored[p], reverse=True):
        if len(chosen) >= count:
            break
        if path not in chosen:
            chosen.append(path)
    return chosen


def children(
    selection: Selection[ExactPath],
    judge: Judge,
    count: int,
    bonus: Callable[[ExactPath], float],
    rng: np.random.Generator,
) -> list[ExactPath]:
    """Up to `count` feasible mutations, as networks new, of the best so far by their own short training.

    Repaired where need be; every second one is grown into what the budgets leave, as the first cut's pool is, since
    repair gives up more than it must.
    """
    tried, even = selection.tried, _even(judge)
    # In the order in which they entered, since side by side they end in any: of equals the first is the parent.
    entered = dict.fromkeys([*(p for paths in selection.rounds for p in paths if p in tried), *tried])
    parents = sorted(entered, key=lambda p: (not selection.missed(p), tried[p] + bonus(p)), reverse=True)
    parents = parents[:PARENTS]
    known = {judge.network(path) for path in selection.scored}
    found: dict[Hashable, ExactPath] = {}
    for _ in range(ATTEMPTS * count):
        if len(found) >= count or not parents:
            break
        path = repair(judge, mutate(judge, parents[int(rng.integers(len(parents)))], rng), *even)
        if not judge.feasible(path):
            continue
        if len(found) % 2:
            path = grow(judge, path, rng)
        if judge.network(path) not in known:
            found.setdefault(judge.network(path), path)
    return list(found.values())


def capacity_bonus(
    judge: Judge, capacity: float, exits: Mapping[ExactPath, ExitChoice] | None = None
) -> Callable[[ExactPath], float]:
    """What is added to a contest's accuracy to predict the order after a full training, which favours large ones.

    `capacity` times the binary logarithm of the multiply-accumulates; benchmarks/results/rank_correlation.md says
    what it does to the rank correlation. With `exits` an image counts the work that is done for it: the logarithm is
    the mean over the outputs that the images end at.
    """

    def size(path: ExactPath) -> float:
        choice = (exits or {}).get(path)
        if choice is None:
            return math.log2(judge.macs(path))
        graph = lower(judge.with_exits(path, choice.kept)[0])
        work = [math.log2(graph.until(tensor).macs) for tensor in graph.outputs]
        return sum(c * w for c, w in zip(choice.counts, work, strict=True)) / sum(choice.counts)

    return lambda path: capacity * size(path) if capacity else 0.0


def own_accuracy(
    net: Supernet,
    path: ExactPath,
    data: SearchData,
    validation: Validation,
    config: SearchConfig,
    *,
    steps: int,
    rng: np.random.Generator,
    on_step: Callable[[int], None],
    checkpoint: Checkpoint | None = None,
) -> float:
    """Validation accuracy of `path` after `steps` of training of its own, from the weights of `net`, or on from where
    `checkpoint` is."""
    own = copy.deepcopy(net)
    train_path(
        own,
        path,
        data,
        steps=steps,
        batch_size=config.batch_size,
        lr=config.weight_lr,
        rng=rng,
        on_step=on_step,
        checkpoint=checkpoint,
    )
    return validation.accuracy(own, path)


def explain_failure(judge: Judge, nearest: ExactPath) -> str:
    """Why nothing feasible was found: the nearest miss and the budget it breaks most."""
    violations = judge.violations(nearest)
    if violations.pop("vetoed", 0):
        return f"{VETOED}; the nearest: {judge.architecture(nearest).describe()}: " + (
            "; ".join(judge.vetoes(nearest))
        )

    def excess(name: str) -> str:
        return describe_excess(name, judge.value(nearest, name), judge.limit(name))

    tightest = max(violations, key=lambda name: violations[name])
    others = [name for name in own_budgets(violations) if name != tightest]
    reason = (
        f"no architecture found that meets every budget together; tightest: {excess(tightest)}"
        f" for the nearest, {judge.architecture(nearest).describe()}"
    )
    return reason + "".join(f"; also {excess(name)}" for name in others)


def goal_missed(selection: Selection, judge: Judge, path: ExactPath) -> str:
    """Why the best that was found is no answer; empty where it is one."""
    if not selection.missed(path):
        return ""
    choice = selection.exits[path]
    return (
        f"no early exits reach search.exits.expected_latency_ms = {choice.goal_ms:g}: expected at least "
        f"{choice.expected_ms:.2f} ms over {sum(choice.counts):,} validation images for the nearest, "
        f"{selection.found(judge, path)[0].describe()}"
    )
