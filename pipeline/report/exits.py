"""Early exits in the report: expected and worst-case latency, and how often an inference ends where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.boards import Board
from pipeline.engine import Model
from pipeline.figures import Figure
from pipeline.validate import Validation


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
    board: Board, model: Model, validation: Validation, latencies_ms: Sequence[float]
) -> dict[str, Any] | None:
    """What a validated model with exits has; None for one without. `latencies_ms`: predicted, to each output.

    `outputs` has a row an output, the final one last; `expected_ms` is by where its rates come from.
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
    for run, threshold, latency, rate in zip(runs, thresholds, latencies_ms, rates, strict=True):
        seen = None
        if run.cycles is not None:
            seen = Figure(run.cycles * ms, "ms", board.latency_provenance, note="an inference that ends here")
        rows.append(
            {
                "name": run.name,
                "threshold": threshold,
                "latency_ms": Figure(
                    latency, "ms", "modelled", note="latency table, to this output"
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


def add_split(document: dict[str, Any], split: str, counts: Sequence[int]) -> None:
    """Rates on a split of the data set, and the latency that they make, into `exits_on_device`'s part."""
    part = document["exits"]
    latencies = [row["latency_ms"]["value"] for row in part["outputs"]]
    for row, rate in zip(part["outputs"], rate_figures(counts, f"{split} images"), strict=True):
        row["rates"][split] = rate
    part["expected_ms"][split] = expected_latency(counts, latencies, f"{split} images")
