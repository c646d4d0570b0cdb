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
from pipeline.search.exits import ExitChoice, choose_exits
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

    architecture = network.architecture
    frozen = freeze(network, data.front_end)
    outputs = int8_logits(serialize(frozen), data.x_val)

    def latencies_of(kept: tuple[int, ...]) -> tuple[float, ...] | str:
        smaller = with_exits(architecture, kept)
        graph = lower(smaller)
        over = budgets.violations(cost.evaluate(graph, parameters(smaller)))
        if over:
            where = ", ".join(str(i) for i in smaller.exits)
            names = ", ".join(
                f"{UNITS[name][1] if name in UNITS else name} by {100 * share:.1f} %"
                for name, share in over.items()
            )
            return f"exits after block{'s' if len(kept) > 1 else ''} {where}: over {names}"
        return cost.exit_latencies_ms(graph)

    choice = choose_exits(
        outputs, data.y_val, latencies_of, options.accuracy_drop, goal_ms=options.expected_latency_ms
    )
    content = serialize(keep_exits(frozen, choice.kept, choice.rule))
    check_int8(content)
    return content, KeptExits(network, choice.kept), choice


def with_exits(architecture: Architecture, kept: tuple[int, ...]) -> Architecture:
    """`architecture` with the exits at positions `kept` of its own."""
    return pruned.with_exits(architecture, tuple(architecture.exits[i] for i in kept))


def measure_exits(content: bytes, choice: ExitChoice, data: DataSet) -> dict[str, Any]:
    """What the rule does on the test split, with the file itself: accuracies, and images per output."""
    logits = int8_logits(content, data.x_test)
    final = float((logits[-1].argmax(1) == data.y_test).mean())
    if choice.rule is None:
        return {"accuracy": final, "final_accuracy": final, "counts": [len(data.y_test)]}
    taken = choice.rule.taken(logits)
    answers = np.stack(logits)[taken, np.arange(len(taken))].argmax(1)
    return {
        "accuracy": float((answers == data.y_test).mean()),
        "final_accuracy": final,
        "counts": np.bincount(taken, minlength=len(logits)).tolist(),
        "accuracy_by_output": _accuracy_by_output(answers == data.y_test, taken, len(logits)),
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
