"""Export of a network that was trained with early exits: those that pay are kept, with their thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import DataSet
from pipeline.export.check import check_int8
from pipeline.export.exits import KeptExits, keep_exits
from pipeline.export.reference import int8_logits
from pipeline.latency.cost import CostModel
from pipeline.search.candidates import UNITS
from pipeline.search.exitconfig import ExitConfig
from pipeline.search.exits import ExitChoice, Latencies, choose_exits
from pipeline.space import pruned
from pipeline.space.architecture import Architecture, lower, parameters
from pipeline.space.budgets import Budgets
from pipeline.train import QatNetwork


def export_exits(
    network: QatNetwork, data: DataSet, cost: CostModel, budgets: Budgets, options: ExitConfig
) -> tuple[bytes, KeptExits, ExitChoice]:
    """The .tflite with the exits that pay, the network to compare it with, and how they were chosen.

    Chosen on the validation split, by the INT8 logits of the file with all exits (there may be none: then the choice
    says how the network stands to the goal). Every subset must meet the budgets with its worst case. Raises as
    `write_tflite` and `int8_logits`.
    """
    from pipeline.export.freeze import freeze
    from pipeline.export.tflite import serialize

    frozen = freeze(network, data.front_end)
    outputs = int8_logits(serialize(frozen), data.x_val)
    choice = choose_for(network.architecture, outputs, data.y_val, cost, budgets, options)
    content = serialize(keep_exits(frozen, choice.kept, choice.rule))
    check_int8(content)
    return content, KeptExits(network, choice.kept), choice


def choose_for(
    architecture: Architecture,
    outputs: Sequence[NDArray[np.int8]],
    labels: NDArray[np.int64],
    cost: CostModel,
    budgets: Budgets,
    options: ExitConfig,
) -> ExitChoice:
    """`choose_exits` by what `architecture` takes with each subset of its exits, whose worst case meets the budgets.

    outputs: INT8 logits (n, classes) of all its exits and the final output.
    """

    def latencies_of(kept: tuple[int, ...]) -> Latencies:
        smaller = with_exits(architecture, kept)
        graph = lower(smaller)
        over = budgets.violations(cost.evaluate(graph, parameters(smaller)))
        return Latencies(cost.exit_latencies_ms(graph), _excess(smaller.exits, over) if over else "")

    return choose_exits(
        outputs, labels, latencies_of, options.accuracy_drop, goal_ms=options.expected_latency_ms
    )


def _excess(exits: Sequence[int], over: dict[str, float]) -> str:
    """Which budgets a network with these exits breaks, and by how much."""
    where = ", ".join(str(i) for i in exits)
    names = ", ".join(
        f"{UNITS[name][1] if name in UNITS else name} by {100 * share:.1f} %" for name, share in over.items()
    )
    which = f"exits after block{'s' if len(exits) > 1 else ''} {where}" if exits else "no exits"
    return f"{which}: over {names}"


def with_exits(architecture: Architecture, kept: tuple[int, ...]) -> Architecture:
    """`architecture` with the exits at positions `kept` of its own."""
    return pruned.with_exits(architecture, tuple(architecture.exits[i] for i in kept))


def measure_exits(
    logits: Sequence[NDArray[np.int8]], labels: NDArray[np.int64], choice: ExitChoice
) -> dict[str, Any]:
    """What the rule does on other images: accuracies, and images per output.

    logits: INT8 (n, classes) of the kept exits and the final output; labels (n,).
    """
    final = float((logits[-1].argmax(1) == labels).mean())
    if choice.rule is None:
        return {"accuracy": final, "final_accuracy": final, "counts": [len(labels)]}
    taken = choice.rule.taken(logits)
    answers = np.stack(logits)[taken, np.arange(len(taken))].argmax(1)
    return {
        "accuracy": float((answers == labels).mean()),
        "final_accuracy": final,
        "counts": np.bincount(taken, minlength=len(logits)).tolist(),
        "accuracy_by_output": _accuracy_by_output(answers == labels, taken, len(logits)),
    }


def _accuracy_by_output(
    right: NDArray[np.bool_], taken: NDArray[np.int64], outputs: int
) -> list[float | None]:
    """Share of right answers among those that ended at each output; None where none did."""
    return [float(right[taken == i].mean()) if (taken == i).any() else None for i in range(outputs)]


def _mean(counts: Sequence[int], latencies_ms: Sequence[float]) -> float:
    return sum(c * ms for c, ms in zip(counts, latencies_ms, strict=True)) / sum(counts)


def record(
    architecture: Architecture, choice: ExitChoice, test: dict[str, Any], options: ExitConfig
) -> dict[str, Any]:
    """How the exits were chosen, for training.json and the report."""
    chosen = {
        key: value for key, value in asdict(choice).items() if key in ("thresholds", "counts", "refused")
    }
    return {
        "allowed": list(architecture.exits),
        "kept": list(with_exits(architecture, choice.kept).exits),
        "accuracy_drop": options.accuracy_drop,
        "expected_latency_ms": options.expected_latency_ms or None,
        "validation": {
            "images": sum(choice.counts),
            "met": choice.met,
            **chosen,
            "accuracy": choice.accuracy,
            "final_accuracy": choice.final_accuracy,
            "expected_ms": choice.expected_ms,
            "worst_case_ms": choice.latencies_ms[-1],
        },
        "test": {**test, "expected_ms": _mean(test["counts"], choice.latencies_ms)},
    }
