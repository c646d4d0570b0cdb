"""What `run`, `validate` and `deploy` print at the end."""

from __future__ import annotations

from typing import Any

from pipeline.cli.common import print_figures, stdout
from pipeline.figures import Figure

LABELS = {"latency_ms": "latency", "energy_mj": "energy", "sram_bytes": "SRAM", "flash_bytes": "flash"}


def print_outcome(document: dict[str, Any]) -> None:
    """Figures beside their budgets, then the verdict."""
    rows = []
    for name, figure in document["accuracy"].items():
        if figure:
            rows.append((f"accuracy, {name.replace('_', '-')}", Figure.from_json(figure)))
    for key, label in LABELS.items():
        for source, figure in document.get(key, {}).items():
            rows.append((f"{label}, {source}", Figure.from_json(figure)))
        if key in document["budgets"]:
            rows.append((f"{label}, budget", Figure.from_json(document["budgets"][key])))
    for name, figure in (document.get("exits") or {}).get("expected_ms", {}).items():
        rows.append((f"latency, expected on {name}", Figure.from_json(figure)))
    robustness = document.get("robustness") or {}
    for row in robustness.get("inputs", [])[1:]:
        rows.append((f"accuracy, {row['name']}", Figure.from_json(row["accuracy"])))
    sound = document.get("front_end")
    if sound:
        for source, figure in sound["latency_ms"].items():
            rows.append((f"front end, {source}", Figure.from_json(figure)))
    print_figures(document["name"], rows)
    parity = document["parity"]
    stdout.print(
        f"{document['parameters']:,} parameters; {parity['images']} images on the device, "
        f"{parity['mismatches']} differ from {parity['reference']}",
        markup=False,
    )
    if sound:
        parity = sound["parity"]
        stdout.print(
            f"front end: the features of {parity['mismatches']} of {parity['clips']} clips ({parity['source']}) "
            "differ from NumPy's",
            markup=False,
        )
    choice = document.get("exit_choice")
    if choice:
        stdout.print(f"early exits: {describe_exits(choice)}", markup=False)
    if robustness.get("highest_load"):
        slowest_hz = robustness["slowest_clock_hz"]  # None where the table says nothing of other clocks
        clocks = f", and down to {slowest_hz / 1e6:.1f} MHz without load" if slowest_hz else ""
        stdout.print(
            f"the latency budget holds up to a load of {robustness['highest_load']:.2f}{clocks} "
            f"({document['latency_ms']['predicted']['provenance']}, by the prediction's upper end)",
            markup=False,
        )
    outputs = (document.get("exits") or {}).get("outputs", [])
    for row in (row for row in outputs if row["observed_ms"] is None):
        stdout.print(
            f"early exits: no input reached {row['name']}; judged by its prediction, "
            f"{row['latency_ms']['value']:.4g} ms ({row['latency_ms']['provenance']})",
            markup=False,
        )
    print_verdict(document, "every budget holds, every byte agrees")


def print_verdict(document: dict[str, Any], good: str) -> None:
    """Every reason against the model, or what is `good`."""
    for reason in document["reasons"]:
        stdout.print(f"NOT ACCEPTED: {reason}", markup=False)
    if document["feasible"]:
        stdout.print(good, markup=False)


def describe_exits(choice: dict[str, Any]) -> str:
    """E.g. `after block 1 kept, of 2 allowed; 1 choice left out for budgets`; with a goal also how it stands to it."""
    kept = ", ".join(f"after block {i}" for i in choice["kept"])
    text = f"{kept} kept" if kept else "none kept"
    text += f", of {len(choice['allowed'])} allowed"
    refused = len(choice["validation"]["refused"])
    if refused:
        text += f"; {refused} choice{'s' if refused > 1 else ''} left out for budgets"
    if goal_ms := choice.get("expected_latency_ms"):
        seen = choice["validation"]
        return (
            f"{text}; expected {seen['expected_ms']:.4g} ms (modelled) over {seen['images']:,} validation images, "
            f"goal {goal_ms:g} ms"
        )
    return text if kept or refused else f"{text}: none lowers the expected latency within accuracy_drop"
