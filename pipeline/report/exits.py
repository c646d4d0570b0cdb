"""Early exits in the report: expected and worst-case latency, and how often an inference ends where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.boards import Board
from pipeline.engine import Model
from pipeline.figures import Figure
from pipeline.validate import Validation
from pipeline.validate.exits import executed_layers


def rate_figures(counts: Sequence[int], note: str) -> list[dict[str, Any]]:
    """The share of inferences that end at each output, of `sum(counts)` that were looked at."""
    images = sum(counts)
    return [Figure(count / images, "fraction", "measured", n=images, note=note).to_json() for count in counts]


def expected_latency(counts: Sequence[int], latencies_ms: Sequence[float], note: str) -> dict[str, Any]:
    """Mean latency (ms) of inferences that end where `counts` says; both in the outputs' order."""
    images = sum(counts)
    mean = sum(c * ms for c, ms in zip(counts, latencies_ms, strict=True)) / images
    how = f"latency to each output, from the table; rates measured on {images} {note}"
    return Figure(mean, "ms", "modelled", n=images, note=how).to_json()


def exits_on_device(
    board: Board, model: Model, validation: Validation, latencies_ms: Sequence[float], slowest_ms: float
) -> dict[str, Any] | None:
    """What a validated model with exits has; None for one without.

    `latencies_ms`: predicted, to each output, upper ends; `slowest_ms`: observed, of the inference that went
    furthest. `outputs` has a row an output, the final one last, whose `observed_ms` is None where no inference is
    known to end there; `expected_ms` is by where its rates come from.
    """
    if not model.exits:
        return None
    runs = validation.exits
    counts = [run.images for run in runs]
    ms = 1e3 / board.clock_hz
    worst = "no exit taken: every layer and every exit's head"
    thresholds = [*(e.threshold for e in model.exits), None]
    rates = rate_figures(counts, "inputs sent to the device")
    rows = []
    for number, (run, threshold, latency, rate) in enumerate(
        zip(runs, thresholds, latencies_ms, rates, strict=True)
    ):
        seen = None
        if run.cycles is not None:
            seen = Figure(run.cycles * ms, "ms", board.latency_provenance, note="an inference that ends here")
        elif executed_layers(model, number) == len(validation.layer_cycles):
            how = "an inference that ends here, of a random input: none of those sent did"
            seen = Figure(slowest_ms, "ms", board.latency_provenance, note=how)
        rows.append(
            {
                "name": run.name,
                "threshold": threshold,
                "latency_ms": Figure(
                    latency, "ms", "modelled", note="latency table, to this output, upper end"
                ).to_json(),
                "observed_ms": seen.to_json() if seen else None,
                "rates": {"device": rate},
            }
        )
    return {
        "rule": "ends where the margin of the two largest INT8 logits is at least the threshold",
        "outputs": rows,
        "worst_case_ms": Figure(latencies_ms[-1], "ms", "modelled", note=worst).to_json(),
        "expected_ms": {
            "device": expected_latency(counts, latencies_ms, "inputs that were sent to the device")
        },
    }


def unreached(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of `exits_on_device`'s outputs at which no inference is known to end."""
    return [row for row in part["outputs"] if row["observed_ms"] is None] if part else []


def exit_checks(part: dict[str, Any] | None, limit_ms: float | None) -> list[dict[str, Any]]:
    """Whether an inference that ends at each output keeps the latency budget, as the report's checks.

    By what was observed, or by the prediction's upper end where no inference was seen to end there.
    """
    if part is None or limit_ms is None:
        return []
    found = []
    for row in part["outputs"]:
        seen = row["observed_ms"]
        judged = seen or row["latency_ms"]
        value, ok = judged["value"], judged["value"] <= limit_ms
        how = (
            f"takes {value:,.3f} ms"
            if seen
            else f"was reached by no input; predicted at most {value:,.3f} ms"
        )
        stands = "within its" if ok else f"{100 * (value / limit_ms - 1):.1f} % over its"
        detail = f"output {row['name']} {how} ({judged['provenance']}), {stands} budget of {limit_ms:,}"
        found.append({"name": f"latency to {row['name']}", "ok": ok, "detail": detail})
    return found


def goal_checks(choice: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Whether the expected latency keeps the goal that was set for it, as the report's check; none without a goal.

    Judged by the validation images, by which the thresholds were chosen; the test images' mean may lie on its other
    side, since the goal is most often reached exactly.
    """
    goal_ms = choice.get("expected_latency_ms") if choice else None  # earlier versions knew no goals
    if choice is None or goal_ms is None:
        return []
    seen, tested = choice["validation"], choice["test"]
    stands = "within" if seen["met"] else f"{100 * (seen['expected_ms'] / goal_ms - 1):.1f} % over"
    detail = (
        f"expected latency over {seen['images']:,} validation images is {seen['expected_ms']:,.3f} ms (modelled: an "
        f"estimate for images like these), {stands} its goal of {goal_ms:,g}; over "
        f"{sum(tested['counts']):,} test images {tested['expected_ms']:,.3f} ms"
    )
    return [{"name": "expected latency", "ok": seen["met"], "detail": detail}]


def add_split(document: dict[str, Any], split: str, counts: Sequence[int]) -> None:
    """Rates on a split of the data set, and the latency that they make, into `exits_on_device`'s part."""
    part = document["exits"]
    latencies = [row["latency_ms"]["value"] for row in part["outputs"]]
    for row, rate in zip(part["outputs"], rate_figures(counts, f"{split} images"), strict=True):
        row["rates"][split] = rate
    part["expected_ms"][split] = expected_latency(counts, latencies, f"{split} images")
